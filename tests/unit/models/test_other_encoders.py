"""HuBERT and data2vec in the places that take any encoder: fine-tuning, inference, features."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.utils import config_to_container
from fairseq.inference.features import extract
from fairseq.inference.model import SpeechModel
from fairseq.models.data2vec import Data2VecAudioModel
from fairseq.models.hubert import HubertCtc, HubertModel
from fairseq.models.wav2vec import Wav2Vec2CtcConfig, Wav2VecCtc

SMALL = {
    "encoder_layers": 2,
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 40,
    "encoder_attention_heads": 3,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "conv_feature_layers": "[(16, 10, 5)] + [(16, 3, 2)] * 3 + [(16,2,2)]",
}
KINDS = {
    "hubert": (HubertModel, {**SMALL, "final_dim": 8}, {"_name": "hubert_pretraining", "labels": ["km"]}),
    "data2vec_audio": (Data2VecAudioModel, {**SMALL, "pos_conv_depth": 2}, {"_name": "audio_pretraining"}),
}


@pytest.fixture(scope="module")
def symbols() -> Dictionary:
    dictionary = Dictionary()
    for symbol in "abc":
        dictionary.add_symbol(symbol)
    return dictionary


def pretrained(kind: str, path: Path) -> Path:
    cls, settings, task = KINDS[kind]
    torch.manual_seed(1)
    model = cls.build_model(settings)
    cfg = {"model": {**settings, "_name": kind}, "task": {**task, "data": "/gone", "normalize": False}}
    torch.save({"cfg": cfg, "model": model.state_dict(), "args": None}, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_fine_tuning_starts_from_it(kind: str, tmp_path: Path, symbols: Dictionary) -> None:
    path = pretrained(kind, tmp_path / "start.pt")
    task = SimpleNamespace(target_dictionary=symbols)
    cfg = Wav2Vec2CtcConfig(w2v_path=str(path), apply_mask=True, mask_length=2, dropout=0.25, feature_grad_mult=1.0)
    model = Wav2VecCtc.build_model(cfg, task).train()
    encoder = model.w2v_encoder.w2v_model
    assert type(encoder) is KINDS[kind][0] and encoder.encoder.dropout == 0.25
    saved = torch.load(path, weights_only=True)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in encoder.state_dict().items())
    padding = torch.arange(4000) >= torch.tensor([[4000], [3001]])
    out = model(source=torch.randn(2, 4000), padding_mask=padding)
    # the convolutions' arithmetic, which the data set counts labels by: 3,001 samples are 37 frames
    assert (~out["padding_mask"]).sum(dim=1).tolist() == [49, 37]
    model.get_logits(out)[:10].logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    again = Wav2VecCtc.build_model(OmegaConf.create(config_to_container(model.cfg)), task)  # without w2v_path's file
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_features_do_not_depend_on_the_batch(kind: str, tmp_path: Path) -> None:
    model = SpeechModel.load(str(pretrained(kind, tmp_path / "model.pt")), precision="fp32")
    waves = [np.random.default_rng(2).standard_normal(n).astype(np.float32) for n in (4000, 3001)]
    together = extract(model, waves, ["1", "context", "projected"])
    alone = extract(model, waves[1:], ["1", "context", "projected"])[0]
    for name, values in alone.items():
        assert values.shape == (37, 24)
        np.testing.assert_allclose(together[1][name], values, atol=1e-5)
    with pytest.raises(ValueError, match="quantizer"):
        extract(model, waves, ["codes"])


def test_hubert_ctc_transcribes(tmp_path: Path, symbols: Dictionary) -> None:
    _, settings, task = KINDS["hubert"]
    inner = {"model": {**settings, "_name": "hubert"}, "task": {**task, "data": "/gone"}}
    cfg = {"_name": "hubert_ctc", "w2v_path": "/gone.pt", "w2v_args": inner, "normalize": False, "data": "/gone"}
    model = HubertCtc.build_model(OmegaConf.create(cfg), SimpleNamespace(target_dictionary=symbols))
    of_pretraining = {"w2v_encoder.w2v_model.label_embs_concat": torch.zeros(5, 8)}  # fairseq keeps it
    state = {
        "cfg": {"model": cfg, "task": {"_name": "hubert_pretraining", "fine_tuning": True, "data": "/gone"}},
        "model": {**model.state_dict(), **of_pretraining},
        "task_state": {"target_dictionary": symbols.state_dict()},
        "args": None,
    }
    torch.save(state, tmp_path / "tuned.pt")
    speech = SpeechModel.load(str(tmp_path / "tuned.pt"), precision="fp32")
    waves = [np.random.default_rng(2).standard_normal(n).astype(np.float32) for n in (4000, 3001)]
    together, alone = speech.log_probs(waves), speech.log_probs(waves[1:])
    assert together[0].shape == (49, 7)
    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)
    state["task_state"] = {}
    torch.save(state, tmp_path / "without.pt")
    with pytest.raises(ValueError, match=r"holds no dictionary, and /gone/dict\.ltr\.txt does not exist"):
        SpeechModel.load(str(tmp_path / "without.pt"))
    symbols.save(str(tmp_path / "dict.txt"))
    assert SpeechModel.load(str(tmp_path / "without.pt"), dictionary=str(tmp_path / "dict.txt")).ctc is not None


def test_label_embeddings_without_their_dictionaries(tmp_path: Path) -> None:
    """They are made as the file has them, and a file without them has none."""
    from fairseq import checkpoint_utils

    path = pretrained("hubert", tmp_path / "none.pt")
    assert checkpoint_utils.load_model_ensemble([str(path)])[0][0].label_embs_concat is None
    state = torch.load(path, weights_only=True)
    state["model"]["label_embs_concat"] = torch.ones(9, 8)
    torch.save(state, path)
    model = checkpoint_utils.load_model_ensemble([str(path)])[0][0]
    assert torch.equal(model.state_dict()["label_embs_concat"], torch.ones(9, 8))
