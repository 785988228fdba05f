"""Languages' adapters of other tools, beside a checkpoint or inside it: the result is that tool's model."""

from __future__ import annotations

import json
import logging
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fairseq.checkpoint import io
from fairseq.conversion import convert
from fairseq.data.dictionary import Dictionary
from fairseq.inference.model import SpeechModel
from fairseq.text_files import MissingFileError
from fairseq_cli import align, infer, transcribe
from tests.small_speech import own_log_handlers, write_checkpoint  # noqa: F401 - a fixture
from tests.unit.conversion.test_kinds_of_models import TOKENS, made

LANGUAGES = {"eng": TOKENS, "fra": [*TOKENS, "É", "Ç"]}


@pytest.fixture(autouse=True)
def short_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "WAVEFORM_SECONDS", 0.3)


def waveform() -> torch.Tensor:
    return torch.randn(4000, generator=torch.Generator().manual_seed(1))


def logits(model: SpeechModel) -> torch.Tensor:
    wave = waveform()
    source = (wave - wave.mean()) / (wave.var(unbiased=False) + 1e-5).sqrt() if model.normalize else wave
    with torch.no_grad():
        return model.fine_tuned()(source=source[None], padding_mask=None)["encoder_out"][:, 0]


@pytest.fixture(scope="module")
def mms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes MMS' models, and the same model as our checkpoint in it."""
    pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("mms")
    theirs = made(folder, "adapters", "ForCTC")
    for language, tokens in LANGUAGES.items():
        state = {name: tensor for name, tensor in theirs.state_dict().items() if ".adapter_layer." in name}
        state |= {"lm_head.weight": torch.zeros(len(tokens), 32), "lm_head.bias": torch.zeros(len(tokens))}
        own = {name: torch.randn_like(tensor) for name, tensor in state.items()}
        save_file(own, folder / f"adapter.{language}.safetensors", metadata={"format": "pt"})
    words = {name: {token: row for row, token in enumerate(tokens)} for name, tokens in LANGUAGES.items()}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "tokenizer_config.json").write_text(json.dumps({"target_lang": "eng"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "WAVEFORM_SECONDS", 0.3)
        convert.convert(str(folder), str(folder / "mms.pt"), "fairseq", language="eng")
    return folder


@pytest.mark.parametrize("language", LANGUAGES)
def test_logits_are_those_of_transformers(language: str, mms: Path) -> None:
    from transformers import Wav2Vec2ForCTC

    theirs = Wav2Vec2ForCTC.from_pretrained(
        mms, target_lang=language, ignore_mismatched_sizes=True, attn_implementation="eager"
    ).eval()
    wave = waveform()
    with torch.no_grad():
        wanted = theirs((wave - wave.mean())[None] / (wave.var(unbiased=False) + 1e-5).sqrt()).logits[0]
    for path in (mms / "mms.pt", mms):  # our checkpoint, and their folder
        for name in (language, str(mms / f"adapter.{language}.safetensors")):
            ours = SpeechModel.load(path, precision="fp32", adapter=name)
            symbols = list(ours.dictionary().symbols)
            rows = [symbols.index({"<pad>": "<s>", "<s>": "<pad>"}.get(token, token)) for token in LANGUAGES[language]]
            assert torch.allclose(logits(ours)[:, rows], wanted, atol=1e-5)


def test_a_language_can_be_converted(mms: Path, tmp_path: Path) -> None:
    """With the checkpoint's encoder; the file is the whole model of that language."""
    convert.convert(str(mms / "mms.pt"), str(tmp_path / "fra.pt"), "fairseq", adapter="fra")
    wanted = SpeechModel.load(mms / "mms.pt", precision="fp32", adapter="fra")
    assert torch.equal(logits(SpeechModel.load(tmp_path / "fra.pt", precision="fp32")), logits(wanted))
    convert.convert(str(mms / "mms.pt"), str(tmp_path / "hf"), "hf", adapter="fra")
    assert (tmp_path / "hf" / "adapter.fra.safetensors").is_file()


def test_mistakes_with_a_file_of_transformers(mms: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(MissingFileError, match=r"--adapter fre: .*The languages are: fra, eng\."):
        SpeechModel.load(mms / "mms.pt", adapter="fre")
    with pytest.raises(ValueError, match="the language is '../x'"):
        SpeechModel.load(mms / "mms.pt", adapter="../x")
    with pytest.raises(ValueError, match=r"mms.pt: an adapter is a file of one of: .safetensors, .bin"):
        SpeechModel.load(mms / "mms.pt", adapter=str(mms / "mms.pt"))
    alone = tmp_path / "adapter.fra.safetensors"
    alone.write_bytes((mms / alone.name).read_bytes())
    with pytest.raises(ValueError, match="needs the vocab.json of its model beside it"):
        SpeechModel.load(mms / "mms.pt", adapter=str(alone))
    (tmp_path / "vocab.json").write_bytes((mms / "vocab.json").read_bytes())
    weights = load_file(alone)
    SpeechModel.load(mms / "mms.pt", adapter=str(alone))
    save_file({name: tensor for name, tensor in weights.items() if "norm.bias" not in name}, alone)
    with pytest.raises(ValueError, match=r"is not an adapter: .* see .*norm.bias"):
        SpeechModel.load(mms / "mms.pt", adapter=str(alone))
    wide = {name: torch.ones(8, 48) if "linear_1.weight" in name else tensor for name, tensor in weights.items()}
    save_file(wide, alone)
    with pytest.raises(ValueError, match="W_a"):
        SpeechModel.load(mms / "mms.pt", adapter=str(alone))


@pytest.fixture
def with_languages(tmp_path: Path) -> Path:
    """A checkpoint like fairseq's MMS files: `adapter` has each language's parameters and dictionary."""
    adapters = {"layer_type": "trf_adp", "adp_num": 1, "adp_dim": 4, "layer_norm_first": True}
    path = write_checkpoint(tmp_path / "mms.pt", normalize=True, **adapters)
    state = io.load(path)
    weights: dict[str, torch.Tensor] = state["model"]
    own = {name: tensor for name, tensor in weights.items() if ".adapter_layer." in name or ".proj." in name}
    languages: dict[str, Any] = {}
    for language, letters in (("azj-script_latin", "ABÇƏ"), ("fra", "ABCÉÀ")):
        dictionary = Dictionary()
        for letter in "|" + letters:
            dictionary.add_symbol(letter)
        dictionary.finalize()
        changed = {name: torch.randn_like(tensor) for name, tensor in own.items()}
        changed["w2v_encoder.proj.weight"] = torch.randn(len(dictionary), 24)
        changed["w2v_encoder.proj.bias"] = torch.randn(len(dictionary))
        languages[language] = {"model": changed, "task_state": {"target_dictionary": dictionary}}
    torch.save({**state, "adapter": languages}, path)
    return path


@pytest.mark.parametrize("language", ["azj-script_latin", "fra"])
def test_a_language_inside_the_checkpoint(
    language: str, with_languages: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = torch.load(with_languages, weights_only=False)
    own = state["adapter"][language]
    alone = with_languages.parent / "alone.pt"  # as fairseq does it: parameters replaced by name
    torch.save({**state, "model": {**state["model"], **own["model"]}, "task_state": own["task_state"]}, alone)
    wanted = SpeechModel.load(alone, precision="fp32")
    found = SpeechModel.load(with_languages, precision="fp32", adapter=language)
    assert torch.equal(logits(found), logits(wanted))
    assert found.dictionary().symbols == wanted.dictionary().symbols
    caplog.set_level(logging.INFO)
    assert list(SpeechModel.load(with_languages).dictionary().symbols[4:6]) == ["|", "A"]
    assert "mms.pt has adapters of 2 languages. Choose one with --adapter LANGUAGE" in caplog.text


def test_mistakes_with_a_language_inside(with_languages: Path) -> None:
    path = str(with_languages)
    with pytest.raises(ValueError, match=r"no such language in .*mms.pt. The languages are: fra, azj-script_latin"):
        SpeechModel.load(path, adapter="fr")
    with pytest.raises(ValueError, match=r"The languages are: azj-script_latin, fra"):
        convert.convert(path, f"{path}.out", "fairseq", language="deu")
    convert.convert(path, f"{path}.out", "fairseq", language="fra")
    wanted = SpeechModel.load(path, precision="fp32", adapter="fra")
    assert torch.equal(logits(SpeechModel.load(f"{path}.out", precision="fp32")), logits(wanted))
    state = torch.load(path, weights_only=False)
    for damaged, named in (
        ({"fra": {"model": state["adapter"]["fra"]["model"]}}, "language fra: its entry must have .* a dictionary"),
        ({"fra": {"model": {"a": 1}}}, "language fra: its entry must have a dict of tensors"),
        ([1], "entry adapter must be a dict"),
    ):
        torch.save({**state, "adapter": damaged}, path)
        with pytest.raises(ValueError, match=named):
            SpeechModel.load(path, adapter="fra")


@pytest.mark.parametrize(
    "command, arguments",
    [
        (transcribe, ["talk.wav", "--path", "mms.pt"]),
        (transcribe, ["--stream", "--path", "mms.pt"]),
        (infer, ["DATA", "--path", "mms.pt"]),
        (align, ["talk.wav", "talk.txt", "--path", "mms.pt"]),
    ],
    ids=["fairseq-transcribe", "fairseq-transcribe --stream", "fairseq-infer", "fairseq-align"],
)
def test_commands_hand_the_language_on(
    command: ModuleType, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*args: Any, adapter: str | None = None, **kwargs: Any) -> None:
        given = adapter if adapter is not None else args[-1]
        raise ValueError(f"asked for {given}")

    monkeypatch.setattr(SpeechModel, "load", load)
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO()))
    assert command.cli_main([*arguments, "--adapter", "fra"]) == 1
    assert "asked for fra" in capsys.readouterr().err
