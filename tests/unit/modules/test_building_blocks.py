"""Small modules, each against what it is by definition."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairseq import device
from fairseq.models.wav2vec.utils import pad_to_multiple
from fairseq.modules import (
    Fp32GroupNorm,
    Fp32InstanceNorm,
    Fp32LayerNorm,
    GradMultiply,
    MultiheadAttention,
    RelPositionalEncoding,
    RelPositionMultiHeadedAttention,
    RotaryPositionalEmbedding,
    SamePad,
    TransposeLast,
    gelu,
    init_bert_params,
)
from fairseq.modules.conformer_layer import activation_module
from fairseq.modules.espnet_multihead_attention import relative_shift
from fairseq.modules.folded_group_norm import fold_group_norm
from fairseq.modules.rotary_positional_embedding import apply_rotary_pos_emb
from fairseq.modules.time_convolution import frames_with_spare, windows


def test_grad_multiply() -> None:
    x = torch.ones(3, requires_grad=True)
    out = GradMultiply.apply(x, 0.25)
    out.sum().backward()
    assert torch.equal(out, x) and x.grad.tolist() == [0.25] * 3


@pytest.mark.parametrize(("kernel", "causal", "left"), [(4, False, 9), (5, False, 10), (4, True, 7)])
def test_same_pad(kernel: int, causal: bool, left: int) -> None:
    x = torch.arange(10.0).view(1, 1, 10)
    assert SamePad(kernel, causal)(x).tolist() == x[..., :left].tolist()


def test_transpose_last() -> None:
    x = torch.randn(2, 3, 4)
    assert torch.equal(TransposeLast()(x), x.transpose(1, 2))
    assert torch.equal(TransposeLast(deconstruct_idx=1)([None, x]), x.transpose(1, 2))


@pytest.mark.parametrize("mixes", [True, False], ids=["mixed kernels", "fp32 copies"])
@pytest.mark.parametrize(
    "norm",
    [Fp32LayerNorm(6), Fp32GroupNorm(6, 6), Fp32GroupNorm(2, 6), Fp32InstanceNorm(6, affine=True)],
    ids=["layer", "channel", "group", "instance"],
)
def test_norms_keep_fp32_statistics_in_half_precision(
    monkeypatch: pytest.MonkeyPatch, norm: nn.Module, mixes: bool
) -> None:
    """A large mean would leave bf16 statistics without a digit."""
    monkeypatch.setattr(device.base.Device, "norms_mix_dtypes", mixes)
    torch.manual_seed(0)
    x = (torch.randn(2, 6, 6) * 3 + 40).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), norm(x.float()), atol=2e-2)


def test_group_norm_of_one_channel_a_group_takes_the_hpu_arm() -> None:
    torch.manual_seed(0)
    norm = Fp32GroupNorm(6, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    results = []
    for arms in (False, True):
        x = torch.randn(2, 6, 50, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with device.forced(hpu_arms=arms):
            out = norm(x)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), [x, norm.weight, norm.bias])])
    for stock, hpu in zip(*results, strict=True):
        assert torch.allclose(stock, hpu, atol=1e-5, rtol=1e-5)


def test_instance_norm_over_the_other_dimension() -> None:
    x = torch.randn(2, 7, 5)
    assert torch.equal(Fp32InstanceNorm(5, transpose_last=True)(x), F.instance_norm(x.transpose(1, 2)).transpose(1, 2))


def test_gelu_is_computed_in_fp32() -> None:
    x = torch.randn(100).bfloat16()
    assert torch.equal(gelu(x), F.gelu(x.float()).bfloat16())


def test_relative_sinusoids_by_definition() -> None:
    T, C = 5, 8
    table = RelPositionalEncoding(100, C)
    long, short = table(torch.zeros(9, 2, C)), table(torch.zeros(T, 2, C))
    assert long.shape == (17, 1, C) and short.shape == (9, 1, C)
    for row in range(2 * T - 1):
        distance = T - 1 - row
        for i in range(C // 2):
            angle = distance / 10000 ** (2 * i / C)
            assert short[row, 0, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert short[row, 0, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert not table.state_dict()


def test_relative_shift_by_definition() -> None:
    T = 6
    x = torch.randn(2, 3, T, 2 * T - 1)
    shifted = relative_shift(x)
    for i in range(T):
        for j in range(T):
            assert torch.equal(shifted[:, :, i, j], x[:, :, i, T - 1 - i + j])


def test_relative_attention_by_definition() -> None:
    torch.manual_seed(0)
    T, C, H = 5, 8, 2
    module = RelPositionMultiHeadedAttention(C, H, 0.0).eval()
    x = torch.randn(T, 1, C)
    table = RelPositionalEncoding(T, C)(x)
    out, _ = module(x, x, x, table)
    q, k, v = (projection(x)[:, 0].view(T, H, -1) for projection in (module.linear_q, module.linear_k, module.linear_v))
    p = module.linear_pos(table)[:, 0].view(2 * T - 1, H, -1)
    gathered = torch.zeros(T, H, C // H)
    for h in range(H):
        for i in range(T):
            scores = [
                ((q[i, h] + module.pos_bias_u[h]) @ k[j, h] + (q[i, h] + module.pos_bias_v[h]) @ p[T - 1 - i + j, h])
                / math.sqrt(C // H)
                for j in range(T)
            ]
            gathered[i, h] = torch.stack(scores).softmax(0) @ v[:, h]
    assert torch.allclose(out[:, 0], module.linear_out(gathered.flatten(1)), atol=1e-5)


def test_rotary_turns_keep_lengths_and_see_distances_only() -> None:
    torch.manual_seed(0)
    cos, sin = RotaryPositionalEmbedding(8)(torch.zeros(1), seq_len=10)
    q, k = torch.randn(2, 8)
    turned_q, turned_k = apply_rotary_pos_emb(q.expand(10, 1, 1, 8), k.expand(10, 1, 1, 8), cos, sin)
    assert torch.allclose(turned_q.norm(dim=-1), q.norm().expand(10, 1, 1), atol=1e-5)
    scores = torch.einsum("tbhd,sbhd->ts", turned_q, turned_k)
    for distance in range(-3, 4):
        diagonal = torch.diagonal(scores, distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)


@pytest.mark.parametrize(("length", "multiple", "expected"), [(7, 4, 8), (8, 4, 8), (5, 1, 5)])
def test_pad_to_multiple(length: int, multiple: int, expected: int) -> None:
    x = torch.ones(2, length, 3)
    padded, added = pad_to_multiple(x, multiple, dim=-2, value=9)
    assert padded.shape == (2, expected, 3) and added == expected - length
    assert (padded[:, length:] == 9).all() and torch.equal(padded[:, :length], x)
    assert pad_to_multiple(None, multiple) == (None, 0)


def test_bert_initialisation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(100, 200), nn.Embedding(100, 50, padding_idx=3), MultiheadAttention(100, 2), nn.LayerNorm(5)
    )
    model.apply(init_bert_params)
    for weight in (model[0].weight, model[2].q_proj.weight, model[2].out_proj.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05) and abs(weight.mean().item()) < 1e-3
    assert not model[0].bias.any() and not model[1].weight[3].any() and model[1].weight[4].any()


@pytest.mark.parametrize("conv_bias", [False, True])
def test_a_folded_group_norm_is_the_norm_of_the_convolution(conv_bias: bool) -> None:
    """Also for audio with an offset, and for a filter that takes out nearly all that the audio holds."""
    torch.manual_seed(0)
    conv, norm = nn.Conv1d(1, 5, 10, stride=5, bias=conv_bias), Fp32GroupNorm(5, 5)
    nn.init.normal_(norm.weight)
    with torch.no_grad():
        conv.weight[0, 0] = torch.tensor([1.0, -2, 1] + [0] * 7)
    audio = torch.sin(torch.arange(4000) * 0.02).expand(2, -1) + 0.3 + 0.001 * torch.randn(2, 4000)
    columns = windows(audio, 10, 5, (4000 - 10) // 5 + 1)
    weight, bias = fold_group_norm(columns, conv, norm)
    folded = torch.baddbmm(bias.unsqueeze(1), columns, weight.transpose(1, 2)).transpose(1, 2)
    reference = nn.Sequential(conv.double(), nn.GroupNorm(5, 5).double())
    reference[1].load_state_dict(norm.state_dict())
    exact = reference(audio.double().unsqueeze(1))
    assert (folded - exact).abs().max() < 1e-3 * exact.abs().max()


@pytest.mark.parametrize(
    ("frames", "strides", "expected"), [(31999, [2] * 6, 32000), (64, [2] * 6, 64), (1, [2, 3], 6), (7, [], 7)]
)
def test_frames_with_spare(frames: int, strides: list[int], expected: int) -> None:
    assert frames_with_spare(frames, strides) == expected


def test_windows_of_audio() -> None:
    audio = torch.arange(1.0, 12).view(1, 11)
    assert windows(audio, 4, 3, 4)[0].tolist() == [[1, 2, 3, 4], [4, 5, 6, 7], [7, 8, 9, 10], [10, 11, 0, 0]]


def test_activations_of_the_conformer() -> None:
    assert isinstance(activation_module("swish"), nn.SiLU)
    with pytest.raises(ValueError, match="sine"):
        activation_module("sine")
