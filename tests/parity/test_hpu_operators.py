"""Every operator of the HPU arms, in updates and validation, has a kernel for its dtype in Gaudi's bridge 1.19."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fairseq_cli.train
from fairseq import device as device_layer
from fairseq.trainer import Trainer
from fairseq.training.validation import on_device
from tests.integration.hpu_recipe import recipe, write_corpus

operators = pytest.importorskip("fairseq.preflight.operators")
StandIn = pytest.importorskip("fairseq.device.stand_in").StandIn

LARGE = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}
CONFORMER = {"layer_type": "conformer", "attn_type": "espnet", "depthwise_conv_kernel_size": 5}
MODELS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": LARGE,
    "conformer": {**CONFORMER, "pos_enc_type": "rel_pos"},
    "conformer, rotary": {**CONFORMER, "pos_enc_type": "rope"},
    "layerdrop": {"encoder_layerdrop": 0.3},
    "activations recomputed": {"checkpoint_activations": True},
    "masked channels": {"mask_channel_prob": 0.3, "mask_channel_before": True},
    "all kinds of negatives": {"negatives_from_everywhere": True, "cross_sample_negatives": 4, "codebook_negatives": 3},
    "deep quantizers": {"quantizer_depth": 2, "quantizer_factor": 2, "quantize_input": True, "target_glu": True},
    "stacked positions": {"pos_conv_depth": 3, "required_seq_len_multiple": 2},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("small"), num_train=20, num_valid=3)


def stand_in_trainer(data: Path, folder: Path, model: dict[str, Any]) -> Trainer:
    """Return a trainer on the HPU stand-in, with Adam in plain operations, as without Habana's fused kernel."""
    task = {"inferred_w2v_config": {"mask_channel_prob": model.get("mask_channel_prob", 0.0)}}
    trainer = fairseq_cli.train.prepare(
        recipe(
            data,
            folder,
            common={"device": "cpu"},
            optimization={"max_update": 9, "clip_norm": 1.0},
            model=model,
            task=task,
            optimizer={"use_old_adam": True},
        )
    ).trainer
    trainer.device = trainer.precision.device = StandIn()
    for module in trainer.unwrapped_model.modules():
        if hasattr(module, "static_layerdrop"):
            module.static_layerdrop = True
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bf16"), [("base", False), *[(name, True) for name in MODELS]])
def test_no_operator_lacks_a_kernel(small: Path, tmp_path: Path, name: str, bf16: bool) -> None:
    trainer = stand_in_trainer(small, tmp_path, MODELS[name])
    trainer.precision.dtype = torch.bfloat16 if bf16 else None
    updates = iter(trainer.get_train_iterator(1).next_epoch_itr())
    first, second = next(updates), next(updates)
    validation = list(trainer.get_valid_iterator("valid").next_epoch_itr(shuffle=False))[:1]
    with device_layer.stood_in(trainer.device), operators.tracing() as trace:
        trainer.train_step(first)  # creates the optimizer's state
        trainer.train_step(second)
        trainer.flush_statistics()
        trainer.validate(validation)
    print(f"\n{name}: {len(trace.operators)} operators, {sum(trace.operators.values())} calls")
    assert trace.missing == {}
    assert trace.dynamic == set()
    assert len(trace.operators) > 60


@pytest.mark.parametrize("form", ["conv1d", "blocks"])
def test_both_forms_of_the_positional_convolution_have_kernels(small: Path, tmp_path: Path, form: str) -> None:
    trainer = stand_in_trainer(small, tmp_path, {})
    samples = next(iter(trainer.get_train_iterator(1).next_epoch_itr()))
    with device_layer.stood_in(trainer.device), device_layer.forced(pos_conv_form=form), operators.tracing() as trace:
        trainer.train_step(samples)
    assert trace.missing == {}


def test_integers_are_sent_as_int32_and_only_positions_are(small: Path, tmp_path: Path) -> None:
    """Negatives are drawn on the device in training; no other index is sent."""
    trainer = stand_in_trainer(small, tmp_path, {})
    sample = next(iter(trainer.get_train_iterator(1).next_epoch_itr()))[0]
    sent = on_device(sample, trainer.device)["net_input"]
    integers = {
        name: value.dtype
        for name, value in sent.items()
        if isinstance(value, torch.Tensor) and not value.is_floating_point()
    }
    assert integers == {"padding_mask": torch.bool, "mask_indices": torch.bool, "masked_positions": torch.int32}


def test_a_planted_operator_is_found() -> None:
    """The tests above can fail: on an operator that the bridge lacks, and on one that it lacks for booleans."""
    x = torch.rand(4, requires_grad=True)
    with operators.tracing() as trace:
        x.unfold(0, 2, 1).sum().backward()
        (x > 0).cumsum(0)
    assert {missing.operator for missing in trace.missing} == {"unfold_backward", "cumsum"}
