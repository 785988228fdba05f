"""--to pt2: a program of torch.export that runs without this package, at any length and batch size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

import pytest
import soundfile
import torch

from fairseq.checkpoint import io
from fairseq.conversion import convert, exported_model, portable_model
from fairseq.conversion.portable_model import OutputLayer, PortableModel
from fairseq.models import build_model, kinds
from fairseq.models.wav2vec.audio_model import AudioModel

ROOT = Path(__file__).resolve().parents[3]
SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "Ä"]
BASE: dict[str, Any] = {
    "_name": "wav2vec2",
    "conv_feature_layers": "[(16,10,5),(16,3,4),(16,2,4)]",
    "encoder_layers": 1,
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
    "final_dim": 8,
    "latent_vars": 8,
    "quantize_targets": True,
    "conv_pos": 16,
    "conv_pos_groups": 4,
}
LARGE = {**BASE, "extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}
CONFORMER = {
    **BASE,
    "layer_type": "conformer",
    "attn_type": "espnet",
    "pos_enc_type": "rel_pos",
    "layer_norm_first": True,
    "depthwise_conv_kernel_size": 7,
}
HUBERT = {key: value for key, value in BASE.items() if key not in ("latent_vars", "quantize_targets")}
FORMS = {
    "large": LARGE,
    "conformer": CONFORMER,
    "hubert": {**HUBERT, "_name": "hubert"},
    "data2vec": {**HUBERT, "_name": "data2vec_audio", "pos_conv_depth": 2, "conv_pos": 8},
}


def model_of(config: dict[str, Any]) -> PortableModel:
    """A fine-tuned model with random weights."""
    torch.manual_seed(2)
    config = portable_model.complete_config(config)
    weights = cast(AudioModel, build_model(config)).state_dict()
    cls = kinds.encoder_of({"model": config})
    encoder = {name: tensor for name, tensor in weights.items() if not cls.is_pretraining_only(name)}
    head = torch.nn.Linear(config["encoder_embed_dim"], len(SYMBOLS)).state_dict()
    name = "hubert_ctc" if config["_name"] == "hubert" else "wav2vec_ctc"
    output = OutputLayer(dict(head), SYMBOLS, {"_name": name})
    return PortableModel(config, {"normalize": True, "sample_rate": 16_000}, encoder, output)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_any_length_and_padding(form: str, tmp_path: Path) -> None:
    source, path = model_of(FORMS[form]), str(tmp_path / "model.pt2")
    exported_model.write(source, path)
    alone = [torch.randn(1, samples) for samples in (3000, 97, 1501)]
    batch = torch.zeros(3, 3000)
    for row, wave in zip(batch, alone, strict=True):
        row[: wave.size(1)] = wave[0]
    samples = torch.tensor([wave.size(1) for wave in alone])
    padded, single = exported_model.outputs(path, [batch, alone[2]], [samples, samples[2:]])
    model = portable_model.build(source)
    for row, wave in zip([*padded, single[0]], [*alone, alone[2]], strict=True):
        expected = portable_model.outputs(model, wave)[0][0]
        assert (row[: len(expected)] - expected).abs().max() <= 1e-5
