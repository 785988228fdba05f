"""What parameter-efficient fine-tuning has trained, in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fairseq  # noqa: F401 - registers what reads checkpoints
from fairseq.checkpoint import io
from fairseq.conversion.convert import convert
from fairseq.conversion.portable_model import dictionary_from
from fairseq.dataclass.initialize import resolve_config
from fairseq.dataclass.utils import config_to_container
from fairseq.inference.model import SpeechModel
from fairseq.models.wav2vec import Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc
from tests.small_speech import PRETRAINING

pytest.importorskip("safetensors")

W2V = {**PRETRAINING, "conv_feature_layers": "[(16,10,5)] + [(16,3,2)]*3 + [(16,2,2)]"}
SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", *"ABCD"]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"tuning": "lora", "lora_rank": 2},
    "adapters": {"tuning": "adapters", "layer_type": "trf_adp", "adp_num": 1, "adp_dim": 4},
    "bias": {"tuning": "bias"},
}


class Task:
    def __init__(self, symbols: list[str]) -> None:
        self.target_dictionary = dictionary_from(symbols)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "w2v.pt"
    torch.manual_seed(3)
    cfg = {"model": {**W2V, "_name": "wav2vec2"}, "task": {"_name": "audio_pretraining", "normalize": True}}
    torch.save({"cfg": cfg, "model": Wav2Vec2Model(W2V).state_dict(), "args": None}, path)
    return path


def tuned(base: Path, symbols: list[str], path: Path, **settings: Any) -> Path:
    """A checkpoint of a fine-tuned model, every trained parameter of which has changed."""
    task = Task(symbols)
    model = Wav2VecCtc.build_model(Wav2Vec2CtcConfig(w2v_path=str(base), **settings), task)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    cfg = {
        "model": {**config_to_container(model.cfg), "_name": "wav2vec_ctc"},
        "task": {"_name": "audio_finetuning", "labels": "ltr", "normalize": True},
    }
    whole = config_to_container(resolve_config(cfg, remove_missing=True))
    state = {"cfg": whole, "model": model.state_dict(), "args": None}
    io.save({**state, "task_state": {"target_symbols": task.target_dictionary.state_dict()}}, str(path))
    return path


def log_probs(model: SpeechModel) -> torch.Tensor:
    audio = torch.randn(3000, generator=torch.Generator().manual_seed(1)).numpy()
    return torch.from_numpy(model.log_probs([audio])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_with_the_file_is_the_tuned_model(kind: str, base: Path, tmp_path: Path) -> None:
    checkpoint = tuned(base, SYMBOLS, tmp_path / "tuned.pt", **KINDS[kind])
    file = base.parent / f"adapter.{kind}.safetensors"
    assert convert(str(checkpoint), str(file), "adapter") < 1e-4
    assert file.stat().st_size < checkpoint.stat().st_size / 2
    whole = SpeechModel.load(checkpoint, precision="fp32")
    for name in (str(file), kind):
        adapted = SpeechModel.load(base, precision="fp32", adapter=name)
        assert torch.allclose(log_probs(adapted), log_probs(whole), atol=1e-4)
        assert adapted.dictionary().symbols == whole.dictionary().symbols


def test_one_encoder_switches_between_languages(base: Path, tmp_path: Path) -> None:
    other = [*SYMBOLS[:5], *"EFGHIJ"]
    first = tuned(base, SYMBOLS, tmp_path / "first.pt", **KINDS["adapters"])
    second = tuned(first, other, tmp_path / "second.pt", tuning="adapters")
    convert(str(second), str(tmp_path / "adapter.second.safetensors"), "adapter")
    switched = SpeechModel.load(first, precision="fp32", adapter="second")
    assert torch.allclose(log_probs(switched), log_probs(SpeechModel.load(second, precision="fp32")), atol=1e-5)
    assert list(switched.dictionary().symbols) == other


def test_mistakes_are_named(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = tuned(base, SYMBOLS, tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"whole.pt has all of its encoder trained.*no adapter to write"):
        convert(str(whole), str(tmp_path / "adapter.x.safetensors"), "adapter")
    with pytest.raises(ValueError, match=r"--adapter xyz: there is no such file, no .*adapter.xyz.safetensors"):
        SpeechModel.load(base, adapter="xyz")
    lora = tuned(base, SYMBOLS, tmp_path / "lora.pt", **KINDS["lora"])
    file = tmp_path / "adapter.lora.safetensors"
    convert(str(lora), str(file), "adapter")
    state = torch.load(base, weights_only=True)
    state["model"] = {name: tensor + 0.01 if tensor.dim() > 1 else tensor for name, tensor in state["model"].items()}
    torch.save(state, tmp_path / "other.pt")
    SpeechModel.load(tmp_path / "other.pt", adapter=str(file))
    assert "was trained with another encoder" in caplog.text
    wider = {**W2V, "encoder_embed_dim": 2 * W2V["encoder_embed_dim"]}
    cfg = {"model": {**wider, "_name": "wav2vec2"}, "task": {"_name": "audio_pretraining", "normalize": True}}
    torch.save({"cfg": cfg, "model": Wav2Vec2Model(wider).state_dict(), "args": None}, tmp_path / "wider.pt")
    with pytest.raises(ValueError, match=r"adapter.lora.safetensors does not fit the model: it has .*lora_[AB]"):
        SpeechModel.load(tmp_path / "wider.pt", adapter=str(file))
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut.safetensors is damaged"):
        SpeechModel.load(base, adapter=str(tmp_path / "cut.safetensors"))
