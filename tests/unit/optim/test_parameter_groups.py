"""Groups by parameter names, and learning rates by depth, read from the optimizer by parameter."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf
from torch import nn

from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.utils import merge_with_parent
from fairseq.models.wav2vec import Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc
from fairseq.optim import FairseqOptimizer, build_optimizer, parameter_groups
from fairseq.optim.composite import CompositeOptimizerConfig
from fairseq.optim.lr_scheduler import build_lr_scheduler
from tests.small_speech import PRETRAINING
from tests.unit.conversion.test_adapter_file import SYMBOLS, Task

ADAM = {"_name": "adam", "adam_betas": [0.9, 0.98], "weight_decay": 0.1}
LR = 0.5


def fine_tuned(**encoder: Any) -> Wav2VecCtc:
    w2v_args = {"model": {**PRETRAINING, "encoder_layers": 3, **encoder}, "task": {"normalize": False}}
    cfg = merge_with_parent(Wav2Vec2CtcConfig(), {"w2v_path": "", "w2v_args": w2v_args})
    return Wav2VecCtc.build_model(cfg, Task(SYMBOLS))


def optimizer_of(model: nn.Module, groups: dict[str, Any], **settings: Any) -> FairseqOptimizer:
    root = OmegaConf.create(
        {
            "common": {"tpu": False},
            "optimization": {"lr": [LR]},
            "optimizer": {"_name": "composite", "groups": groups, "lr": "${optimization.lr}", **settings},
        }
    )
    cfg = merge_with_parent(CompositeOptimizerConfig(), root.optimizer)
    named = dict(model.named_parameters())
    parameter_groups.mark(cfg, named, model)
    return build_optimizer(cfg, named.values())


def rates(model: nn.Module, optimizer: FairseqOptimizer) -> dict[str, float]:
    of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize("pre_norm", [False, True])
def test_block_i_of_l_learns_with_decay_to_the_power_of_l_minus_i(pre_norm: bool) -> None:
    model = fine_tuned(layer_norm_first=pre_norm)
    optimizer = optimizer_of(model, {"default": {"optimizer": ADAM}}, layer_decay=0.9)
    schedule = build_lr_scheduler(OmegaConf.create({"_name": "fixed", "lr": [0.2]}), optimizer)
    for lr in (LR, 0.2):  # of the run, then of one schedule for all
        found = rates(model, optimizer)
        assert len(found) == len(list(model.parameters()))
        encoder = "w2v_encoder.w2v_model.encoder."
        for name, rate in found.items():
            if name.startswith(f"{encoder}layers."):
                power = 3 - (int(name.removeprefix(f"{encoder}layers.").partition(".")[0]) + 1)
            elif name.startswith("w2v_encoder.proj.") or (pre_norm and name.startswith(f"{encoder}layer_norm.")):
                power = 0
            else:
                power = 3
            assert rate == pytest.approx(lr * 0.9**power, rel=1e-12), name
        assert optimizer.get_lr() == lr  # the rate that the log shows
        schedule.step_update(1)


def test_pretraining_heads_come_last() -> None:
    model = Wav2Vec2Model({**PRETRAINING, "encoder_layers": 2})
    found = rates(model, optimizer_of(model, {"default": {"optimizer": ADAM}}, layer_decay=0.5))
    assert found["final_proj.weight"] == found["quantizer.vars"] == found["encoder.layers.1.fc1.bias"] == LR
    assert found["encoder.layers.0.fc1.bias"] == LR / 2
    assert found["mask_emb"] == found["post_extract_proj.weight"] == found["encoder.pos_conv.0.bias"] == LR / 4


def test_groups_by_pattern() -> None:
    """The first pattern that is found in the name counts; what has none is in the group default."""
    model = fine_tuned()
    groups = {
        "head": {"pattern": r"^w2v_encoder\.proj\.", "lr_scale": 10.0, "optimizer": ADAM},
        "plain": {"pattern": r"bias$|norm", "optimizer": {**ADAM, "weight_decay": 0.0}},
        "default": {"optimizer": ADAM},
    }
    optimizer = optimizer_of(model, groups)
    weight_decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        is_head, is_plain = ".proj." in name, name.endswith("bias") or "norm" in name
        assert weight_decay[id(parameter)] == (0.0 if is_plain and not is_head else 0.1), name
        assert rates(model, optimizer)[name] == (10 if is_head else 1) * LR


def test_depth_and_pattern_together() -> None:
    model = fine_tuned()
    groups = {"bias": {"pattern": r"bias$", "lr_scale": 2.0, "optimizer": ADAM}, "default": {"optimizer": ADAM}}
    found = rates(model, optimizer_of(model, groups, layer_decay=0.5))
    encoder = "w2v_encoder.w2v_model.encoder.layers."
    assert [found[f"{encoder}{block}.fc1.bias"] / LR for block in range(3)] == [0.5, 1.0, 2.0]
    assert [found[f"{encoder}{block}.fc1.weight"] / LR for block in range(3)] == [0.25, 0.5, 1.0]


def test_mistakes() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"layer_decay requires a model with one encoder.*Linear has 0"):
        optimizer_of(model, {"default": {"optimizer": ADAM}}, layer_decay=0.9)
    with pytest.raises(ValueError, match=r"optimizer.groups.x: no parameter .* change its pattern"):
        optimizer_of(model, {"x": {"pattern": "y", "optimizer": ADAM}, "default": {"optimizer": ADAM}})
    for groups, settings, named in (
        ({}, {"layer_decay": 0}, "layer_decay is 0"),
        ({}, {"layer_decay": 1.5}, "layer_decay is 1.5: it must be from 0 to 1"),
        ({"x": {"pattern": "(", "optimizer": ADAM}}, {}, r"groups.x.pattern is '\('"),
        ({"x": {"lr_scale": -1, "optimizer": ADAM}}, {}, "groups.x.lr_scale is -1"),
    ):
        with pytest.raises((ValueError, ConfigError), match=named):
            build_optimizer(OmegaConf.create({"_name": "composite", "groups": groups, "lr": [1.0], **settings}), [])
