"""Models are built on the meta device: shapes and dtypes without memory, so that sizes beyond a machine can be checked."""

from __future__ import annotations

import resource
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from small_model import small_config
from torch import nn

import fairseq  # noqa: F401 - registers what reads checkpoints
from fairseq.data.dictionary import Dictionary
from fairseq.models import build_model
from fairseq.models.wav2vec import Wav2Vec2Model
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "examples/wav2vec/config/pretraining"
# Babu et al. 2021, table of architectures: 317 M, 965 M and 2162 M
PARAMETERS = {"xlsr_300m": 317_390_592, "xlsr_1b": 965_514_752, "xlsr_2b": 2_162_932_352}


def built(cfg: DictConfig, task: Any = None) -> nn.Module:
    with torch.device("meta"):
        return build_model(cfg, task)


def assert_is_meta(model: nn.Module) -> None:
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_stock_models(path: Path) -> None:
    model = built(OmegaConf.load(path).model)
    assert_is_meta(model)
    size = sum(parameter.numel() for parameter in model.parameters())
    assert size == PARAMETERS.get(path.stem.removesuffix("_hpu"), size)


def test_two_billion_parameters_take_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = built(OmegaConf.load(CONFIGS / "xlsr_2b.yaml").model)
    assert sum(parameter.nbytes for parameter in model.parameters()) > 8e9
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 50e6


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_type": "conformer", "pos_enc_type": "rel_pos", "attn_type": "espnet"},
        {"layer_type": "conformer", "pos_enc_type": "rope", "attn_type": "espnet"},
        {"pos_conv_depth": 3},
        {"quantize_input": True, "same_quantizer": True, "target_glu": True, "quantizer_depth": 2},
        {"checkpoint_activations": True, "layer_norm_first": True, "extractor_mode": "layer_norm"},
    ],
)
def test_every_part_of_a_model(changes: dict[str, Any]) -> None:
    """Names, shapes and dtypes are those of a model with memory."""
    with torch.device("meta"):
        model = Wav2Vec2Model(small_config(**changes))
    assert_is_meta(model)
    real = Wav2Vec2Model(small_config(**changes)).state_dict()
    assert {name: (t.shape, t.dtype) for name, t in model.state_dict().items()} == {
        name: (t.shape, t.dtype) for name, t in real.items()
    }


def test_a_fine_tuned_model_from_a_checkpoint(tmp_path: Path) -> None:
    """Only the config in the checkpoint counts: weights cannot be copied to where there is no memory."""
    dictionary = Dictionary()
    dictionary.add_symbol("A")
    task = SimpleNamespace(target_dictionary=dictionary)
    cfg = small_config()
    state = {
        "cfg": {"model": {**vars(cfg), "_name": "wav2vec2"}},
        "model": Wav2Vec2Model(cfg).state_dict(),
        "args": None,
    }
    torch.save(state, tmp_path / "w2v.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = built(OmegaConf.create({"_name": "wav2vec_ctc", "w2v_path": str(tmp_path / "w2v.pt")}), task)
    assert_is_meta(model)
    assert model.w2v_encoder.proj.weight.shape == (len(dictionary), cfg.encoder_embed_dim)
    torch.save({**state, "model": {**state["model"], "mask_emb": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="do not match the config in that file"):
        built(OmegaConf.create({"_name": "wav2vec_ctc", "w2v_path": str(tmp_path / "other.pt")}), task)
