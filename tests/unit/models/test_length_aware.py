"""Length-aware models: a padded batch gives what each file alone gives; without the option nothing changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_model import largest_difference, small_model
from torch import Tensor

from fairseq import device
from fairseq.models.wav2vec import Wav2Vec2Model
from fairseq.modules.length_aware import set_length_aware

LENGTHS = [4000, 2900, 4000, 1700, 333, 60]  # the last one is shorter than the receptive field
CONFORMER = {
    "layer_type": "conformer",
    "depthwise_conv_kernel_size": 7,
    "encoder_attention_heads": 4,
    "attn_type": "espnet",
}
KINDS: dict[str, dict[str, Any]] = {
    "base": {},
    "base with biases": {"conv_bias": True},
    "large": {"extractor_mode": "layer_norm", "layer_norm_first": True},
    "conformer, relative": {**CONFORMER, "pos_enc_type": "rel_pos"},
    "conformer, rotary": {**CONFORMER, "pos_enc_type": "rope"},
    "conformer, convolutional": {**CONFORMER, "pos_enc_type": "abs", "attn_type": ""},
    "stacked positions": {"pos_conv_depth": 3},
}


def padded() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    # noise in the padding too, and a mean that the norm has to take away
    source = torch.randn(len(LENGTHS), max(LENGTHS)) + 0.3
    return source, torch.arange(max(LENGTHS)) >= torch.tensor(LENGTHS).unsqueeze(1)


def model_of(kind: str) -> Wav2Vec2Model:
    model = small_model(**KINDS[kind])
    for norm in [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)]:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.bias.data.normal_()
    return model.eval()


def largest_error(model: Wav2Vec2Model) -> float:
    """Between rows of the batch and the same audio alone, relative to the largest value."""
    source, padding_mask = padded()
    errors = []
    with torch.no_grad():
        together = model(source, padding_mask, mask=False, features_only=True)["x"]
        for row, length in enumerate(LENGTHS[:-1]):
            alone = model(source[row : row + 1, :length], mask=False, features_only=True)["x"][0]
            errors.append(((together[row, : len(alone)] - alone).abs().max() / alone.abs().max()).item())
    return max(errors)


@pytest.mark.parametrize("form", ["matmul", "conv1d", "conv2d"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_gives_what_single_files_give(kind: str, form: str) -> None:
    model = model_of(kind)
    set_length_aware(model)
    with device.forced(conv_form=form):
        assert largest_error(model) < 1e-5


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "large"])
def test_without_the_option_padding_is_seen_as_upstream_sees_it(kind: str) -> None:
    assert largest_error(model_of(kind)) > 1e-3


def test_hpu_arms_are_length_aware_too() -> None:
    model = model_of("base")
    set_length_aware(model)
    with device.forced(hpu_arms=True):
        assert largest_error(model) < 1e-5


def test_the_option_can_be_switched_off_again() -> None:
    model = model_of("base")
    source, padding_mask = padded()
    before = model(source, padding_mask, mask=False, features_only=True)["x"]
    set_length_aware(model)
    during = model(source, padding_mask, mask=False, features_only=True)["x"]
    set_length_aware(model, False)
    after = model(source, padding_mask, mask=False, features_only=True)["x"]
    assert torch.equal(before, after) and not torch.allclose(before[1], during[1], atol=1e-3)


def test_rows_without_a_single_frame_stay_finite() -> None:
    model = model_of("base")
    set_length_aware(model)
    source, padding_mask = padded()
    assert torch.isfinite(model(source, padding_mask, mask=False, features_only=True)["x"]).all()


def test_gradients_reach_the_folded_norm() -> None:
    """The folded form and the plain one agree on values and gradients where padding is kept out."""
    gradients = []
    for form in ("matmul", "conv1d"):
        model = small_model().double()
        set_length_aware(model)
        source, padding_mask = padded()
        valid = ~padding_mask[:5]
        with device.forced(conv_form=form):
            features = model.feature_extractor(source[:5].double(), valid.sum(dim=1))
        features[:, :, :20].square().sum().backward()
        first = model.feature_extractor.conv_layers[0]
        gradients.append([first[0].weight.grad, first[2].weight.grad, first[2].bias.grad])
    for folded, plain in zip(*gradients, strict=True):
        assert largest_difference(folded, plain) < 1e-5  # the plain one's statistics are fp32
