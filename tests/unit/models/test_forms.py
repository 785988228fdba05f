"""Every form of a computation, and every branch marked `# hpu:`, gives the same values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_model import gradients, largest_difference, masked_batch, small_model
from torch import Tensor

from fairseq import device
from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion
from fairseq.models.wav2vec.feature_extractor import ConvFeatureExtractionModel
from fairseq.models.wav2vec.positional_convolution import GroupedConv1d, WeightNormConv1d, make_conv_pos

STOCK = {"conv_form": "conv1d", "pos_conv_form": "conv1d", "attention_form": "matmul"}
FORMS = [
    {"conv_form": "conv2d"},
    {"conv_form": "matmul"},
    {"pos_conv_form": "conv2d"},
    {"pos_conv_form": "blocks"},
    {"attention_form": "sdpa"},
    {"attention_form": "blocks"},
    {"hpu_arms": True},
]


def name_of(form: dict[str, Any]) -> str:
    return "-".join(f"{key}={value}" for key, value in form.items())


def step(settings: dict[str, Any], form: dict[str, Any], train: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one batch with padding."""
    model = small_model(**settings).train(train)
    net_input = masked_batch(model, [4000, 2900], [13, 9])
    criterion = Wav2vecCriterion(infonce=True, loss_weights=[0.1, 10.0])
    torch.manual_seed(3)
    with device.forced(**{**STOCK, **form}):
        loss, _, _ = criterion(model, {"net_input": net_input})
        loss.backward()
    return loss.detach(), gradients(model)


@pytest.mark.parametrize("form", FORMS, ids=name_of)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"extractor_mode": "layer_norm", "conv_bias": True, "layer_norm_first": True},
        {"conv_bias": True, "pos_conv_depth": 3},
        {"layer_type": "conformer", "attn_type": "espnet", "pos_enc_type": "rel_pos", "depthwise_conv_kernel_size": 5},
        {"layer_type": "conformer", "attn_type": "espnet", "pos_enc_type": "rope", "depthwise_conv_kernel_size": 5},
        {"layer_type": "conformer", "pos_enc_type": "abs", "depthwise_conv_kernel_size": 5},
    ],
    ids=["base", "large", "bias-and-stack", "rel_pos", "rope", "conformer-abs"],
)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_forms_agree(form: dict[str, Any], settings: dict[str, Any], train: bool) -> None:
    loss, grads = step(settings, form, train)
    stock_loss, stock_grads = step(settings, {}, train)
    assert loss.item() == pytest.approx(stock_loss.item(), rel=2e-6)
    for name, grad in grads.items():
        if name.endswith(("k_proj.bias", "linear_k.bias", "conv_layers.0.0.bias")):
            continue  # zero but for rounding: the softmax, and the first norm, take such a shift away
        assert largest_difference(grad, stock_grads[name]) < 2e-4, name


@pytest.mark.parametrize("mode", ["default", "layer_norm"])
@pytest.mark.parametrize("samples", [4000, 4001, 4079, 90])
def test_conv_forms_agree_at_every_length(mode: str, samples: int) -> None:
    """Lengths that leave frames unread at the end of a layer, down to one frame."""
    torch.manual_seed(0)
    extractor = ConvFeatureExtractionModel([(8, 10, 5), (8, 3, 2), (8, 5, 2), (8, 2, 3), (8, 1, 1)], mode=mode).double()
    source = torch.randn(2, samples, dtype=torch.double, requires_grad=True)
    results = []
    for form in ("conv1d", "conv2d", "matmul"):
        with device.forced(conv_form=form):
            out = extractor(source)
        weights = torch.linspace(-1, 1, out.numel(), dtype=torch.double).view(out.shape)
        results.append([out.detach(), *torch.autograd.grad((out * weights).sum(), [source, *extractor.parameters()])])
    for other in results[1:]:
        for ours, stock in zip(other, results[0], strict=True):
            assert ours.shape == stock.shape
            assert largest_difference(ours, stock) < 1e-9


@pytest.mark.parametrize("conv_bias", [False, True])
def test_conv_forms_lose_alike_in_bf16(conv_bias: bool) -> None:
    """Under autocast every form differs from fp32 by about bf16's precision; none by twice as much as another."""
    torch.manual_seed(0)
    extractor = ConvFeatureExtractionModel([(32, 10, 5)] + [(32, 3, 2)] * 3 + [(32, 2, 2)], conv_bias=conv_bias)
    source = torch.randn(2, 8000)
    exact = extractor(source)
    errors = {}
    for form in ("conv1d", "conv2d", "matmul"):
        with device.forced(conv_form=form), torch.autocast("cpu", torch.bfloat16):
            out = extractor(source)
        assert out.dtype == torch.bfloat16
        errors[form] = (out.float() - exact).norm().item() / exact.norm().item()
    assert max(errors.values()) < 2e-2
    assert max(errors.values()) < 2 * min(errors.values()), errors


def test_pos_conv_forms_agree_with_torchs_weight_norm() -> None:
    torch.manual_seed(0)
    ours = make_conv_pos(12, 8, 3)
    theirs = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(12, 12, 8, padding=4, groups=3), dim=2)
    theirs.bias.data.copy_(ours[0].bias)
    theirs.parametrizations.weight.original0.data.copy_(ours[0].weight_g)
    theirs.parametrizations.weight.original1.data.copy_(ours[0].weight_v)
    x = torch.randn(2, 12, 33)
    expected = torch.nn.functional.gelu(theirs(x)[:, :, :-1])
    for form in ("conv1d", "conv2d", "blocks"):
        with device.forced(pos_conv_form=form):
            assert largest_difference(ours(x), expected) < 1e-6


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 12, 16, 48])
@pytest.mark.parametrize("kernel", [3, 8, 16, 19, 128])
def test_positional_convolutions_are_right_in_bf16(width: int, kernel: int) -> None:
    """oneDNN's own convolution is not, on some processors with few channels a group: its output is unrelated."""
    torch.manual_seed(0)
    x = torch.randn(2, 4 * width, 77)
    for convolution in (WeightNormConv1d(4 * width, kernel, groups=4), GroupedConv1d(4 * width, kernel, groups=4)):
        results = []
        for dtype in (None, torch.bfloat16):
            with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                out = convolution(x.requires_grad_())
            weighted = (out.float() * torch.rand(out.shape, generator=torch.Generator().manual_seed(1))).sum()
            results.append([out.detach(), *torch.autograd.grad(weighted, [x, *convolution.parameters()])])
        for exact, found in zip(*results, strict=True):
            assert (found.float() - exact).norm() <= 0.02 * exact.norm()


def test_one_channel_a_group_in_bf16() -> None:
    """As an image, oneDNN takes minutes for it: such a convolution is one over time whatever the form."""
    convolution = WeightNormConv1d(16, 32, groups=16)
    x = torch.randn(3, 16, 150)
    with torch.no_grad():
        expected = convolution(x)
        with device.forced(pos_conv_form="conv2d"), torch.autocast("cpu", torch.bfloat16):
            found = convolution(x)
    assert found.dtype == torch.bfloat16
    assert (found - expected).norm() <= 0.01 * expected.norm()
