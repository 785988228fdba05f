"""HuBERT, data2vec and adapters: files that fairseq-fixed 0.12.3.1 wrote, and features of every layer.

`make_audio_models.py` wrote them: seed 7, fp32, eval mode.
"""

from __future__ import annotations

import logging
import lzma
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from fairseq import checkpoint_utils
from fairseq.inference.model import SpeechModel
from fairseq.models.data2vec import Data2VecAudioModel
from fairseq.models.hubert import HubertCtc, HubertModel
from fairseq.models.wav2vec import Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from fairseq.modules.run_mode import RunMode, configure
from fairseq.tasks.hubert_pretraining import HubertPretrainingTask

DATA = Path(__file__).parent / "data/audio_models"
VALUES = 1e-5


class Opened(NamedTuple):
    model: Any
    cfg: Any
    task: Any
    arrays: dict[str, Tensor]


def opened(name: str, folder: Path) -> Opened:
    """Open the file through fairseq's function, as its callers do."""
    path = folder / f"{name}.pt"
    path.write_bytes(lzma.decompress((DATA / f"{name}.pt.xz").read_bytes()))
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    arrays: dict[str, Tensor] = {}
    for stored in ("audio", name):
        with np.load(DATA / f"{stored}.npz") as file:
            arrays |= {key: torch.from_numpy(file[key]) for key in file.files}
    arrays["source"] = arrays["source"].float()
    return Opened(model.eval(), cfg, task, arrays)


def assert_close(ours: Tensor, theirs: Tensor, what: str) -> None:
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} against {tuple(theirs.shape)}"
    difference = (ours - theirs).abs().max().item() / theirs.abs().max().item()
    assert difference <= VALUES, f"{what}: {difference:.2e}"


@pytest.mark.parametrize("name", ["hubert_base", "hubert_large", "hubert_batch_norm"])
@torch.no_grad()
def test_hubert(name: str, tmp_path: Path) -> None:
    model, cfg, task, arrays = opened(name, tmp_path)
    assert isinstance(model, HubertModel) and isinstance(task, HubertPretrainingTask)
    assert [len(found) for found in task.dictionaries if found is not None] == [9, 7] == model.num_classes
    assert cfg.task.normalize == (name == "hubert_large") and model.feat2tar_ratio == 1.0
    source, padding = arrays["source"], arrays["padding"]
    x, frames = model.extract_features(source, padding)
    assert frames is not None and torch.equal(frames, arrays["padded_frames"])
    assert_close(x, arrays["padded_x"], "padded")
    assert model.final_proj is not None
    assert_close(model.final_proj(x), arrays["projected"], "projected")
    assert_close(model.extract_features(source)[0], arrays["x"], "x")
    conv = model.extract_features(source=source, padding_mask=padding, mask=False, ret_conv=True)[0]
    assert_close(conv, arrays["conv"], "conv")
    for number in range(1, len(arrays["layers"]) + 1):
        plain, no_mask = model.extract_features(source, output_layer=number)
        assert no_mask is None
        assert_close(plain, arrays["layers"][number - 1], f"layer {number}")
        padded = model.extract_features(source=source, padding_mask=padding, mask=False, output_layer=number)[0]
        assert_close(padded, arrays["padded_layers"][number - 1], f"layer {number}, padded")


@pytest.mark.parametrize("task", [None, {"_name": "another_project"}, {"_name": "audio_pretraining", "data": "/gone"}])
@torch.no_grad()
def test_hubert_whose_file_has_another_task(task: dict[str, str] | None, tmp_path: Path) -> None:
    """It has no label_rate and no list of labels: label embeddings and projections are those of the weights."""
    arrays = opened("hubert_base", tmp_path).arrays
    state = torch.load(tmp_path / "hubert_base.pt", weights_only=False)
    state["cfg"] |= {"task": task, "model": {**state["cfg"]["model"], "label_rate": "${task.label_rate}"}}
    torch.save({**state, "task_state": {}}, tmp_path / "changed.pt")
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "changed.pt")])
    assert isinstance(model, HubertModel) and model.final_proj is not None
    x, _ = model.eval().extract_features(arrays["source"], arrays["padding"])
    assert_close(model.final_proj(x), arrays["projected"], "projected")


@torch.no_grad()
def test_hubert_ctc(tmp_path: Path) -> None:
    model, _, task, arrays = opened("hubert_ctc", tmp_path)
    assert isinstance(model, HubertCtc) and len(task.target_dictionary) == 10
    plain = model(source=arrays["source"], padding_mask=None)
    assert_close(plain["encoder_out"], arrays["logits"], "logits")
    assert_close(model.get_normalized_probs(plain, log_probs=True), arrays["log_probs"], "log-probabilities")
    padded = model(source=arrays["source"], padding_mask=arrays["padding"])
    assert_close(padded["encoder_out"], arrays["padded_logits"], "padded logits")
    assert torch.equal(padded["encoder_padding_mask"], arrays["padded_frames"])


@pytest.mark.parametrize("name", ["data2vec_base", "data2vec_large"])
@torch.no_grad()
def test_data2vec(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        model, _, _, arrays = opened(name, tmp_path)
    assert isinstance(model, Data2VecAudioModel) and "the teacher in this file (_ema) was left out" in caplog.text
    source = arrays["source"]
    plain = model.extract_features(source, None)
    assert set(plain) == {"x", "padding_mask", "layer_results"} and plain["padding_mask"] is None
    assert_close(plain["x"], arrays["x"], "x")
    assert_close(torch.stack([found[0] for found in plain["layer_results"]]), arrays["layer_results"], "layer results")
    for number, layer in enumerate(arrays["layers"]):
        assert_close(model.extract_features(source, None, layer=number)["x"], layer, f"layer {number}")
    padded = model.extract_features(source, arrays["padding"])
    assert_close(padded["x"], arrays["padded_x"], "padded")
    assert torch.equal(padded["padding_mask"], arrays["padded_frames"])


@torch.no_grad()
def test_adapters(tmp_path: Path) -> None:
    model, _, _, arrays = opened("adapters", tmp_path)
    assert isinstance(model, Wav2Vec2Model) and model.encoder.adapted == [False, True, True, True]
    source = arrays["source"]
    for key in (0, 2):
        plain = model.extract_features(source, None, corpus_key=[key, key])
        assert_close(plain["x"], arrays[f"x_{key}"], f"language {key}")
        results = torch.stack([found[0] for found in plain["layer_results"]])
        assert_close(results, arrays[f"layer_results_{key}"], f"layer results of language {key}")
        padded = model.extract_features(source, arrays["padding"], corpus_key=[key, key])
        assert_close(padded["x"], arrays[f"padded_x_{key}"], f"padded, language {key}")
        assert torch.equal(padded["padding_mask"], arrays["padded_frames"])
    with pytest.raises(ValueError, match="3 adapters, and corpus_key is not set"):
        model.extract_features(source, None)
    with pytest.raises(ValueError, match=r"several languages \(\[0, 1\]\)"):
        model.extract_features(source, None, corpus_key=[0, 1])
    with pytest.raises(ValueError, match="corpus_key is 3, but the model has 3"):
        model.extract_features(source, None, corpus_key=[3, 3])


@pytest.mark.parametrize("language", [None, "aaa", "bbb-script_x"])
@torch.no_grad()
def test_ctc_with_adapters(language: str | None, tmp_path: Path) -> None:
    """The weights' own output layer and adapters, and languages in the file's entry `adapter`, as in MMS' files."""
    model, _, task, arrays = opened("adapters_ctc", tmp_path)
    assert isinstance(model, Wav2VecCtc) and len(task.target_dictionary) == 10
    ready = (
        None if language is None else SpeechModel.load(tmp_path / "adapters_ctc.pt", precision="fp32", adapter=language)
    )
    if ready is not None:
        model = ready.fine_tuned()
        assert len(ready.dictionary().symbols) == {"aaa": 12, "bbb-script_x": 9}[str(language)]
        configure(model, RunMode())  # as fairseq's model, whose features depend on padding
    source, padding = arrays["source"], arrays["padding"]
    plain = model(source=source, padding_mask=None)
    assert_close(plain["encoder_out"], arrays[f"logits_{language}"], "logits")
    padded = model(source=source, padding_mask=padding, corpus_key=[0, 0])
    assert_close(padded["encoder_out"], arrays[f"padded_logits_{language}"], "padded logits")
    assert torch.equal(padded["padding_mask"], arrays["padded_frames"])
