"""Files of fairseq2: names as its converter of fairseq's checkpoints writes them."""

from __future__ import annotations

import re

import pytest
import torch

from fairseq import checkpoint_utils
from fairseq.checkpoint import io
from fairseq.conversion import convert, fairseq2_model, portable_model
from fairseq.conversion.portable_model import complete_config
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "T"]
SMALL = {
    "conv_feature_layers": str(
        [(16, kernel, stride) for kernel, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, *[2] * 6), strict=True)]
    ),
    "encoder_layers": 2,
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 40,
    "encoder_attention_heads": 4,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "latent_vars": 6,
    "latent_dim": 12,
    "final_dim": 20,
    "quantize_targets": True,
}
FORMS = {
    "base": SMALL,
    "large": {**SMALL, "extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True},
}
# names in fairseq2, from fairseq's
RENAMED = (
    (r"self_attn\.out_proj", "self_attn.output_proj"),
    (r"\.fc1\.", ".ffn.inner_proj."),
    (r"\.fc2\.", ".ffn.output_proj."),
    (r"\.final_layer_norm\.", ".ffn_layer_norm."),
    (r"^encoder\.pos_conv\.0\.", "encoder_frontend.pos_encoder.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"encoder_frontend.feature_extractor.layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"encoder_frontend.feature_extractor.layers.\1.layer_norm."),
    (r"^feature_extractor\.conv_layers\.0\.2\.", "encoder_frontend.feature_extractor.layers.0.group_norm."),
    (r"^layer_norm\.", "encoder_frontend.post_extract_layer_norm."),
    (r"^post_extract_proj\.", "encoder_frontend.model_dim_proj."),
    (r"^mask_emb", "masker.temporal_mask_embed"),
    (r"^quantizer\.vars", "quantizer.entries"),
    (r"^quantizer\.weight_proj\.", "quantizer.entry_proj."),
    (r"^project_q\.", "final_target_proj."),
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(convert, "WAVEFORM_SECONDS", 0.3)
    monkeypatch.setitem(fairseq2_model.HEADS, 24, 4)


def files(tmp_path, form, fine_tuned):
    """A model, and its file with fairseq2's names."""
    torch.manual_seed(0)
    model = Wav2Vec2Model(complete_config(FORMS[form])).eval()
    if fine_tuned:
        model.remove_pretraining_modules()
    weights = {}
    for name, tensor in model.state_dict().items():
        for pattern, other in RENAMED:
            name = re.sub(pattern, other, name)
        weights[name.replace("encoder.layer_norm.", "encoder_frontend.layer_norm.") if form == "base" else name] = (
            tensor
        )
    if fine_tuned:
        weights |= {"final_proj.weight": torch.randn(7, 24), "final_proj.bias": torch.randn(7)}
    else:
        weights["quantizer.num_updates"] = torch.zeros(())
    torch.save({"model": weights}, tmp_path / "theirs.pt")
    return model, weights


@pytest.mark.parametrize("form", FORMS)
def test_a_pretrained_model(form, tmp_path):
    model, _ = files(tmp_path, form, fine_tuned=False)
    convert.convert(str(tmp_path / "theirs.pt"), str(tmp_path / "ours.pt"), "fairseq")
    (found,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "ours.pt")])
    assert {key: cfg.model[key] for key in FORMS[form]} == FORMS[form]
    assert task.cfg.normalize is (form == "large")
    expected = model.state_dict()
    assert list(found.state_dict()) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


def test_one_with_an_output_layer(tmp_path):
    model, weights = files(tmp_path, "large", fine_tuned=True)
    path, dictionary = str(tmp_path / "theirs.pt"), str(tmp_path / "dict.txt")
    with pytest.raises(ValueError, match="7 outputs, whose symbols are not in the file: give them with --dict"):
        convert.convert(path, str(tmp_path / "ours.pt"), "fairseq")
    (tmp_path / "dict.txt").write_text("".join(f"{symbol} 1\n" for symbol in SYMBOLS[4:]))
    convert.convert(path, str(tmp_path / "ours.pt"), "fairseq", dictionary)
    found = portable_model.from_checkpoint(io.load(tmp_path / "ours.pt"), path)
    assert found.output is not None and found.output.symbols == SYMBOLS
    assert torch.equal(found.output.weights["weight"], weights["final_proj.weight"])
    assert all(torch.equal(tensor, found.encoder[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "shape", "named"),
    [
        ("encoder.layers.0.ffn.inner_proj.weight", (40, 25), "width 25"),
        ("encoder_frontend.feature_extractor.layers.0.conv.weight", (16, 1, 9), "kernels .9, 3"),
        ("encoder.layers.0.ffn.inner_proj.weight", None, "lacks encoder.layers.0.ffn"),
        ("encoder.layers.1.ffn.output_proj.weight", None, "lacks the tensors"),
        ("decoder.x", (2,), "does not have: decoder.x"),
    ],
)
def test_other_forms_are_named(name, shape, named, tmp_path):
    _, weights = files(tmp_path, "base", fine_tuned=False)
    weights.pop(name, None)
    if shape is not None:
        weights[name] = torch.zeros(shape)
    torch.save({"model": weights}, tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match=named):
        convert.load(str(tmp_path / "theirs.pt"))
