"""--to pt2: a program of torch.export that runs without this package, at any length and batch size."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch

from fairseq.checkpoint import io
from fairseq.conversion import convert, exported_model, portable_model
from fairseq.conversion.portable_model import OutputLayer, PortableModel
from fairseq.decoding import GreedyDecoder
from fairseq.inference.model import SpeechModel
from fairseq.models import build_model, kinds
from fairseq.models.wav2vec.audio_model import AudioModel

ROOT = Path(__file__).resolve().parents[3]
SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "Ä"]
BASE: dict[str, Any] = {
    "_name": "wav2vec2",
    "conv_feature_layers": "[(16,20,10),(16,8,8)]",
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
@pytest.mark.process
def test_the_documented_lines_transcribe_without_this_package(tmp_path: Path) -> None:
    """The form with most operations; `convert` compares lengths and padding. The drill `runtimes` has other forms."""
    checkpoint, program = str(tmp_path / "model.pt"), tmp_path / "model.pt2"
    io.save(portable_model.to_checkpoint(model_of(FORMS["conformer"])), checkpoint)
    assert convert.convert(checkpoint, str(program), "pt2") <= 1e-5
    with zipfile.ZipFile(program) as file:
        told = json.loads(next(file.read(name) for name in file.namelist() if name.endswith("extra/about.json")))
        assert all(str(ROOT).encode() not in file.read(name) for name in file.namelist())
    assert told == {"symbols": SYMBOLS, "normalize": True, "sample_rate": 16_000, "shortest": 170}
    wave = np.random.default_rng(0).normal(scale=0.1, size=20_000).astype(np.float32)
    soundfile.write(tmp_path / "talk.flac", wave, 16_000)
    page = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    lines = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "torch.export.load" in block)
    script = f"import sys\nsys.modules['fairseq'] = None\n{lines}"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    model = SpeechModel.load(checkpoint, precision="fp32")
    heard, _ = soundfile.read(tmp_path / "talk.flac", dtype="float32")
    expected = GreedyDecoder(model.dictionary()).decode(model.log_probs([heard])[0])[0].text
    assert expected and done.stdout.strip() == expected


def test_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, path = model_of(BASE), str(tmp_path / "model.pt2")
    with pytest.raises(ValueError, match=r"only fine-tuned models can be exported to torch\.export"):
        exported_model.write(source._replace(output=None), path)
    with pytest.raises(ValueError, match=r"model\.crop_seq_to_multiple=2"):
        exported_model.write(source._replace(config={**source.config, "crop_seq_to_multiple": 2}), path)
    several = {**LARGE, "layer_type": "trf_adp", "adp_num": 2, "adp_dim": 8}
    with pytest.raises(ValueError, match=r"adapters of 2 languages: export to torch\.export supports one"):
        exported_model.write(model_of(several), path)

    def cannot(*args: object, **named: object) -> None:
        raise RuntimeError("data-dependent")

    monkeypatch.setattr(torch.export, "export", cannot)
    with pytest.raises(ValueError, match=r"torch [\d.]+\S* cannot export this model.*--to onnx.*data-dependent"):
        exported_model.write(source, path)
    assert os.listdir(tmp_path) == []
