"""Fine-tuning that trains a small part of the encoder: adapters, low-rank updates, biases."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from small_model import CONV, NO_DROPOUT
from torch import Tensor

import fairseq  # noqa: F401 - registers what reads checkpoints
from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.utils import config_to_container
from fairseq.models.wav2vec import Wav2Vec2Model, pretrained
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc
from fairseq.modules.lora import LoRALinear, merge_lora
from tests.small_speech import PRETRAINING

W2V = {**PRETRAINING, "conv_feature_layers": CONV, **NO_DROPOUT}
ADAPTERS = {"tuning": "adapters", "layer_type": "trf_adp", "adp_num": 1, "adp_dim": 4}
HEAD = {"w2v_encoder.proj.weight", "w2v_encoder.proj.bias"}


@pytest.fixture
def task() -> SimpleNamespace:
    dictionary = Dictionary()
    for letter in "|ABCD":
        dictionary.add_symbol(letter)
    return SimpleNamespace(target_dictionary=dictionary)


@pytest.fixture
def w2v_path(tmp_path: Path) -> str:
    torch.manual_seed(3)
    cfg = {"model": W2V, "task": {"_name": "audio_pretraining", "data": "/gone"}}
    torch.save({"cfg": cfg, "model": Wav2Vec2Model(W2V).state_dict(), "args": None}, tmp_path / "w2v.pt")
    return str(tmp_path / "w2v.pt")


def start(w2v_path: str, task: SimpleNamespace, **settings: Any) -> Wav2VecCtc:
    torch.manual_seed(4)
    return Wav2VecCtc.build_model(Wav2Vec2CtcConfig(w2v_path=w2v_path, **settings), task)


def logits(model: Wav2VecCtc) -> Tensor:
    audio = torch.randn(2, 3000, generator=torch.Generator().manual_seed(1))
    return model(source=audio, padding_mask=None)["encoder_out"]


def train(model: Wav2VecCtc, updates: int = 3) -> dict[str, Tensor]:
    """Train a little, with weight decay; returns the weights from before."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)
    for _ in range(updates):
        optimizer.zero_grad()
        logits(model.train()).square().mean().backward()
        optimizer.step()
    return before


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"tuning": "lora", "lora_rank": 2}, ".lora_"),
        (ADAPTERS, ".adapter_layer."),
        ({"tuning": "bias"}, "bias"),
    ],
    ids=["lora", "adapters", "bias"],
)
def test_only_this_part_and_the_output_layer_are_trained(
    settings: dict[str, Any], part: str, w2v_path: str, task: SimpleNamespace
) -> None:
    model = start(w2v_path, task, **settings)
    before = train(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained > HEAD and all(part in name for name in trained - HEAD)
    # keys' biases have no influence on attention; the extractor is frozen by feature_grad_mult
    idle = {name for name in trained - changed if "k_proj.bias" not in name and "feature_extractor" not in name}
    assert changed <= trained and not idle


def test_updates_start_at_nothing_and_merge_into_plain_weights(w2v_path: str, task: SimpleNamespace) -> None:
    torch.manual_seed(4)
    plain, model = start(w2v_path, task).eval(), start(w2v_path, task, tuning="lora", lora_rank=2).eval()
    model.w2v_encoder.proj.load_state_dict(plain.w2v_encoder.proj.state_dict())
    assert torch.equal(logits(model), logits(plain))
    train(model)
    found = logits(model.eval())
    assert not torch.allclose(found, logits(plain), atol=1e-3)
    assert merge_lora(model) == 2 * 6 and not any(isinstance(m, LoRALinear) for m in model.modules())
    assert torch.allclose(logits(model), found, atol=1e-5)
    assert list(model.state_dict()) == list(plain.state_dict())


def test_a_tuned_model_is_built_again_and_starts_another_one(
    w2v_path: str, task: SimpleNamespace, tmp_path: Path
) -> None:
    model = start(w2v_path, task, tuning="lora", lora_rank=2, lora_alpha=6.0)
    train(model)
    again = Wav2VecCtc.build_model(OmegaConf.create(config_to_container(model.cfg)), task)
    again.load_state_dict(model.state_dict())
    assert torch.equal(logits(again.eval()), logits(model.eval()))
    cfg = {"model": {**config_to_container(model.cfg), "_name": "wav2vec_ctc"}, "task": {"_name": "audio_finetuning"}}
    source = pretrained.split("tuned.pt", cfg, {"model": model.state_dict()})
    merge_lora(model)
    for name, tensor in model.w2v_encoder.w2v_model.state_dict().items():
        assert torch.equal(source.encoder[name], tensor), name
    assert not any("lora" in name for name in source.encoder)


def test_adapters_of_a_model_that_has_some_are_its_own(w2v_path: str, task: SimpleNamespace, tmp_path: Path) -> None:
    model = start(w2v_path, task, **ADAPTERS)
    train(model)
    cfg = {"model": {**config_to_container(model.cfg), "_name": "wav2vec_ctc"}, "task": {"_name": "audio_finetuning"}}
    torch.save({"cfg": cfg, "model": model.state_dict(), "args": None}, tmp_path / "tuned.pt")
    name = "w2v_encoder.w2v_model.encoder.layers.1.adapter_layer.W_a"
    weights = start(str(tmp_path / "tuned.pt"), task, tuning="adapters").state_dict()
    assert torch.equal(weights[name], model.state_dict()[name])


def test_mistakes_are_named(w2v_path: str, task: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"tuning=adapters, but the encoder has no such parameters.*adp_num=1"):
        start(w2v_path, task, tuning="adapters")
    with pytest.raises(ValueError, match=r"lora_targets='fc3' matches no layer.*self_attn.q_proj"):
        start(w2v_path, task, tuning="lora", lora_targets="fc3")
    findings = list(Wav2Vec2CtcConfig(w2v_path=w2v_path, tuning="lora", lora_targets="(").check())
    assert "lora_targets is '(', which is not a regular expression" in findings[0].text
