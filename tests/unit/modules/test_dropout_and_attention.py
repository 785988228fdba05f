"""Dropout from sign bits, and attention in its forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq import device
from fairseq.modules import FairseqDropout, MultiheadAttention, blockwise_attention
from fairseq.modules.attention import additive_mask, attend, matmul_attention
from fairseq.modules.dropout import can_draw_signs, draw_signs, dropout

DTYPES = [torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", DTYPES)
def test_share_scale_and_gradient_of_dropout(dtype: torch.dtype, p: float) -> None:
    torch.manual_seed(0)
    x = (torch.rand(301, 333) + 1).to(dtype).requires_grad_()
    out = dropout(x, p)
    kept = out != 0
    assert kept.double().mean().item() == pytest.approx(1 - p, abs=5 * math.sqrt(p * (1 - p) / x.numel()))
    assert (out[kept] / x[kept]).double().mean().item() == pytest.approx(1 / (1 - p), rel=2e-3)
    out.sum().backward()
    assert torch.equal(x.grad != 0, kept)
    assert x.grad[kept].double().mean().item() == pytest.approx(1 / (1 - p), rel=2e-3)


def test_places_are_independent() -> None:
    """Neighbours share a 64-bit draw: they must be dropped independently of each other."""
    torch.manual_seed(0)
    signs, share = draw_signs(torch.Size([4, 50_000]), 0.3, torch.bfloat16)
    dropped = (signs < 0).double()
    assert share == pytest.approx(0.3, abs=2**-15)
    for distance in (1, 2, 3, 4, 8):
        both = (dropped[:, distance:] * dropped[:, :-distance]).mean().item()
        assert both == pytest.approx(0.09, abs=5 * math.sqrt(0.09 * 0.91 / dropped.numel()))


def test_dropout_follows_the_seed_and_is_off_outside_of_training() -> None:
    x = torch.randn(10, 7)
    module = FairseqDropout(0.4)
    torch.manual_seed(4)
    first = module(x)
    torch.manual_seed(4)
    assert torch.equal(module(x), first) and not torch.equal(module(x), first)
    assert module.eval()(x) is x and dropout(x, 0.0) is x


@pytest.mark.parametrize("x", [torch.randn(8, 6).t(), torch.randn(4, 5, 6)[:, ::2], torch.ones(3, 0)])
def test_dropout_of_strided_and_empty_tensors(x: Tensor) -> None:
    torch.manual_seed(0)
    out = dropout(x, 0.5)
    kept = out != 0
    assert out.shape == x.shape and torch.allclose(out[kept], x[kept] * 2)


def test_probabilities_that_bits_would_round_away_take_torchs_dropout() -> None:
    assert not can_draw_signs(1e-6, torch.bfloat16) and not can_draw_signs(1.0, torch.bfloat16)
    assert not dropout(torch.ones(50), 1.0).any()


def heads(dtype: torch.dtype = torch.double) -> list[Tensor]:
    """q, k, v as B x H x T x D views of T x B x C, and a mask with rows of every kind."""
    torch.manual_seed(0)
    return [
        torch.randn(9, 2, 12, dtype=dtype).unflatten(-1, (3, 4)).permute(1, 2, 0, 3).requires_grad_() for _ in range(3)
    ]


@pytest.mark.parametrize("block", [1, 200, 10**6])
@pytest.mark.parametrize("with_mask", [False, True])
def test_attention_in_blocks_equals_the_written_out_form(
    monkeypatch: pytest.MonkeyPatch, block: int, with_mask: bool
) -> None:
    monkeypatch.setattr(blockwise_attention, "_BLOCK", block)
    q, k, v = heads()
    mask = torch.randn(2, 3, 9, 9, dtype=torch.double, requires_grad=True) if with_mask else None
    inputs = [q, k, v] + ([mask] if mask is not None else [])
    weights = torch.randn(2, 3, 9, 4, dtype=torch.double)
    results = []
    for form in ("blocks", "matmul", "sdpa"):
        with device.forced(attention_form=form):
            out, _ = attend(q, k, v, mask, 0.0)
        results.append([out, *torch.autograd.grad((out * weights).sum(), inputs)])
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.slow
def test_gradient_of_attention_with_dropout_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise_attention, "_BLOCK", 200)
    mask = torch.zeros(2, 1, 1, 9, dtype=torch.double)
    mask[0, ..., 6:] = -torch.inf

    def seeded(*inputs: Tensor) -> Tensor:
        torch.manual_seed(3)
        return blockwise_attention.blockwise_attention(*inputs, mask, 0.3)

    assert torch.autograd.gradcheck(seeded, tuple(heads()))


def test_dropout_in_blocks_drops_weights_and_keeps_their_mean() -> None:
    """With the identity as values, the output is the weights themselves."""
    torch.manual_seed(0)
    T = 64
    q, k = torch.randn(2, 20, 3, T, 8)
    v = torch.eye(T).expand(20, 3, T, T)
    plain = blockwise_attention.blockwise_attention(q, k, v, None, 0.0)
    dropped = blockwise_attention.blockwise_attention(q, k, v, None, 0.25)
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.005)
    assert torch.allclose(dropped[kept], plain[kept] / 0.75, rtol=1e-4)


def test_attention_does_not_hide_what_is_not_finite() -> None:
    q, k, v = heads()
    with torch.no_grad():
        q[0, 0, 0, 0] = float("nan")
    out = blockwise_attention.blockwise_attention(q, k, v, None, 0.5)
    assert out[0, 0, 0].isnan().all() and out[1].isfinite().all()


def test_weights_by_head_and_averaged() -> None:
    torch.manual_seed(0)
    module = MultiheadAttention(12, 3).eval()
    x = torch.randn(9, 2, 12)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 5:] = True
    out, weights = module(x, key_padding_mask=padding, need_weights=True)
    _, by_head = module(x, key_padding_mask=padding, need_head_weights=True)
    fast, none = module(x, key_padding_mask=padding)
    assert none is None and torch.allclose(out, fast, atol=1e-6)
    assert weights.shape == (2, 9, 9) and by_head.shape == (3, 2, 9, 9)
    assert torch.allclose(by_head.mean(0), weights) and torch.allclose(weights.sum(-1), torch.ones(2, 9))
    assert not weights[1, :, 5:].any()


def test_attention_equals_torchs_module() -> None:
    """Keys and values of other widths, a boolean mask over positions, and padding."""
    torch.manual_seed(0)
    ours = MultiheadAttention(12, 3, kdim=7, vdim=5).eval()
    theirs = torch.nn.MultiheadAttention(12, 3, kdim=7, vdim=5).eval()
    theirs.q_proj_weight.data, theirs.k_proj_weight.data, theirs.v_proj_weight.data = (
        ours.q_proj.weight.data,
        ours.k_proj.weight.data,
        ours.v_proj.weight.data,
    )
    theirs.in_proj_bias.data = torch.cat([ours.q_proj.bias.data, ours.k_proj.bias.data, ours.v_proj.bias.data])
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    query, key, value = torch.randn(6, 2, 12), torch.randn(8, 2, 7), torch.randn(8, 2, 5)
    padding = torch.zeros(2, 8, dtype=torch.bool)
    padding[0, 6:] = True
    unseen = torch.rand(6, 8) < 0.3
    unseen[:, 0] = False
    expected, _ = theirs(query, key, value, key_padding_mask=padding, attn_mask=unseen, need_weights=False)
    assert torch.allclose(ours(query, key, value, key_padding_mask=padding, attn_mask=unseen)[0], expected, atol=1e-6)


def test_masks_add_up() -> None:
    like = torch.zeros(1)
    assert additive_mask(None, None, like) is None
    padding = torch.tensor([[False, True]])
    both = additive_mask(padding, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), like)
    assert both.tolist() == [[[[1.0, -math.inf], [3.0, -math.inf]]]]


def test_written_out_dropout_is_torchs() -> None:
    q, k, v = heads(torch.float)
    torch.manual_seed(0)
    _, weights = matmul_attention(q, k, v, None, 0.5)
    torch.manual_seed(0)
    expected = F.dropout(torch.softmax(q @ k.transpose(-2, -1) / 2, -1), 0.5)
    assert torch.allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize("block", [1, 40, 150, 2**20])
def test_attention_without_gradient_is_the_same_and_keeps_no_weights(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Blocks of rows where one head has more scores than a block, of heads otherwise; masks of one row and of all."""
    monkeypatch.setattr(blockwise_attention, "_BLOCK", block)
    torch.manual_seed(2)
    q, k, v = (torch.randn(2, 3, 11, 4) for _ in range(3))
    padding = torch.zeros(2, 1, 1, 11).masked_fill(torch.arange(11) > 7, float("-inf"))
    for mask in (None, padding, torch.randn(2, 3, 11, 11)):
        expected = (q @ k.transpose(2, 3) / 2 + (0 if mask is None else mask)).softmax(-1) @ v
        with torch.no_grad():
            found = blockwise_attention.blockwise_attention(q, k, v, mask, 0.0)
        assert torch.allclose(found, expected, atol=1e-6)
