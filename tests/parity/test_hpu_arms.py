"""Each branch marked `# hpu:` against its stock arm, on the CPU: values and gradients.

They are bit-equal if the mathematics is the same. Otherwise the tolerance has its reason: two orders of the same sums,
of values of order 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fairseq import device as device_layer
from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion
from fairseq.models.wav2vec import contrastive
from fairseq.models.wav2vec.contrastive import Candidates
from fairseq.models.wav2vec.positional_convolution import WeightNormConv1d, block_convolution, multiply_adds
from fairseq.modules import Fp32GroupNorm, GumbelVectorQuantizer, checkpoint_wrapper
from fairseq.modules.attention import additive_mask, matmul_attention
from fairseq.modules.dropout import FairseqDropout, dropout
from fairseq.modules.gelu import GLU
from fairseq.modules.gumbel_vector_quantizer import one_hot
from fairseq.modules.time_convolution import convolve_over_time

ORDER_OF_SUMS = 2e-6


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def both_arms(run: Callable[[], Tensor], inputs: list[Tensor], **forms: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Return stock and HPU results: values, then gradients of an arbitrary sum of them, from the same seed."""
    results = []
    for hpu_arms in (False, True):
        torch.manual_seed(5)
        with device_layer.forced(
            hpu_arms=hpu_arms, conv_form="conv1d", pos_conv_form="conv1d", attention_form="matmul", **forms
        ):
            out = run()
            grads = (
                torch.autograd.grad((out * torch.linspace(-1, 2, out.numel()).view(out.shape)).sum(), inputs)
                if inputs
                else ()
            )
        results.append([out.detach(), *grads])
    return results[0], results[1]


def assert_bit_equal(ours: list[Tensor], stock: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(ours, stock, strict=True)), [
        (a - b).abs().max() for a, b in zip(ours, stock, strict=True)
    ]


def assert_close(ours: list[Tensor], stock: list[Tensor], tolerance: float = ORDER_OF_SUMS) -> None:
    """Compare the largest difference, relative to the largest value."""
    for a, b in zip(ours, stock, strict=True):
        assert ((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item() < tolerance


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("channels", "kernel", "stride"), [(1, 10, 5), (16, 3, 2), (16, 2, 2)])
def test_convolution_over_an_image_of_one_row(channels: int, kernel: int, stride: int, bias: bool) -> None:
    """The weight keeps its shape C' x C x K, and its gradient has that shape."""
    torch.manual_seed(0)
    conv, x = nn.Conv1d(channels, 16, kernel, stride=stride, bias=bias), numbers(2, channels, 203)
    stock, hpu = both_arms(lambda: convolve_over_time(x, conv, "conv1d"), [x, *conv.parameters()])
    assert hpu[2].shape == conv.weight.shape
    assert_close(hpu, stock)


def test_group_norm_of_one_channel_a_group_as_instance_norm() -> None:
    norm, x = Fp32GroupNorm(8, 8, affine=True), numbers(3, 8, 50)
    with torch.no_grad():
        norm.weight.copy_(numbers(8, seed=1))
        norm.bias.copy_(numbers(8, seed=2))
    stock, hpu = both_arms(lambda: norm(x), [x, norm.weight, norm.bias])
    assert_close(hpu, stock, 1e-5)  # the gradient of x is a difference of sums that are a hundred times larger


def test_several_channels_a_group_stay_a_group_norm() -> None:
    norm, x = Fp32GroupNorm(2, 8, affine=True), numbers(3, 8, 50)
    assert_bit_equal(*both_arms(lambda: norm(x), [x, norm.weight]))


@pytest.mark.parametrize(
    ("channels", "groups", "kernel", "frames"), [(12, 3, 7, 20), (48, 4, 128, 77), (8, 2, 16, 3), (12, 3, 8, 1)]
)
def test_positional_convolution_in_blocks(channels: int, groups: int, kernel: int, frames: int) -> None:
    torch.manual_seed(0)
    conv, x = WeightNormConv1d(channels, kernel, groups), numbers(2, channels, frames)
    inputs = [x, *conv.parameters()]
    results = []
    for form in ("conv1d", "blocks"):
        with device_layer.forced(pos_conv_form=form):
            out = conv(x)
        results.append([out.detach(), *torch.autograd.grad((out * numbers(*out.shape, seed=3).detach()).sum(), inputs)])
    assert_close(results[1], results[0])


def test_positional_convolution_in_blocks_adds_up_in_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    conv, x = WeightNormConv1d(48, 128, 4), numbers(2, 48, 77).detach()
    exact = conv(x)
    with torch.autocast("cpu", torch.bfloat16), device_layer.forced(pos_conv_form="blocks"):
        out = conv(x)
    assert out.dtype == torch.bfloat16
    assert ((out.float() - exact).norm() / exact.norm()).item() < 1e-2  # bf16 has steps of 2^-8


def test_fewest_operations_are_the_default_form_on_hpu() -> None:
    counts = {form: multiply_adds(form, channels=768, kernel_size=128, groups=16) for form in ("conv1d", "blocks")}
    print("\nmultiply-adds a frame of base:", counts)
    assert counts["conv1d"] == 768 * 48 * 128 and counts["blocks"] == 768 * 48 * 136
    for kind in ("hpu", "lazy"):
        assert device_layer._make(kind).pos_conv_form(torch.bfloat16, 48) == min(counts, key=counts.__getitem__)


def test_blocks_count_what_they_compute() -> None:
    """`multiply_adds` counts the operations of the products."""
    x, weight = torch.zeros(1, 12, 64), torch.zeros(12, 4, 16)
    with FlopCounterMode(display=False) as flops:
        block_convolution(x, weight, torch.zeros(12), 8, 3)
    per_frame = flops.get_total_flops() / 2 / 72  # 65 frames come out, 9 blocks of 8
    assert per_frame == multiply_adds("blocks", 12, 16, 3)


def quantizer(train: bool) -> GumbelVectorQuantizer:
    torch.manual_seed(0)
    made = GumbelVectorQuantizer(6, 5, (2.0, 0.5, 0.999), groups=2, combine_groups=False, vq_dim=8, time_first=True)
    made.set_num_updates(100)
    return made.train(train)


@pytest.mark.parametrize("padded", [False, True])
def test_quantizer_in_training(padded: bool) -> None:
    """Noise, hard choice, one-hot rows, product with the codewords, and the temperature's tensor."""
    made, x = quantizer(train=True), numbers(2, 7, 6)
    weights = (torch.arange(14).view(2, 7) % 3 > 0).float() if padded else None

    def run() -> Tensor:
        result = made(x, produce_targets=True, weights=weights)
        return torch.cat([result["x"].flatten(), result["prob_perplexity"].view(1), result["targets"].flatten()])

    assert_bit_equal(*both_arms(run, [x, *made.parameters()]))


def test_quantizer_in_evaluation() -> None:
    """The look-up as a product with one-hot rows: equal values, and gradients that sum in another order."""
    made, x = quantizer(train=False), numbers(2, 7, 6)
    stock, hpu = both_arms(lambda: made(x)["x"], [made.vars])
    assert torch.equal(hpu[0], stock[0])
    assert_close(hpu, stock)


def test_one_hot_rows() -> None:
    codes, like = torch.tensor([[0, 3], [2, 1]]), torch.zeros(2, 2, 4)
    stock, hpu = both_arms(lambda: one_hot(codes, like), [])
    assert_bit_equal(hpu, stock)
    assert torch.equal(stock[0], F.one_hot(codes, 4).float())


def test_noise_of_an_exponential_of_zero_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    made = quantizer(train=True)
    monkeypatch.setattr(Tensor, "exponential_", lambda x: x.zero_())
    with device_layer.forced(hpu_arms=True):
        assert torch.isfinite(made(numbers(1, 3, 6))["x"]).all()


@pytest.mark.parametrize("share_dropped", [0.0, 0.3])
def test_attention_with_padding(share_dropped: float) -> None:
    q, k, v = (numbers(2, 3, 6, 4, seed=seed) for seed in range(3))
    padding = torch.tensor([[False] * 6, [False] * 3 + [True] * 3])

    def run() -> Tensor:
        return matmul_attention(q, k, v, additive_mask(padding, None, q), share_dropped)[0]

    stock, hpu = both_arms(run, [q, k, v])
    assert_bit_equal(hpu, stock)
    with device_layer.forced(hpu_arms=True):
        assert torch.isfinite(additive_mask(padding, None, q)).all()


@pytest.mark.parametrize("across", [False, True])
def test_contrast_with_impossible_negatives(across: bool) -> None:
    """Negatives with the positive's codeword, and in rows with fewer candidates than others."""
    codes = torch.randint(3, (2, 6), generator=torch.Generator().manual_seed(0))
    table, x = numbers(3, 5), numbers(2, 6, 5, seed=1)
    counts, own = torch.tensor([6, 4]), torch.arange(6).expand(2, 6)

    def run() -> Tensor:
        found = Candidates(table[codes], codes, counts, own)
        logits = [contrastive.logits_within_rows(x, found, contrastive.draw_within_rows(found, 8), 0.1)]
        if across:
            logits.append(contrastive.logits_across_rows(x, found, contrastive.draw_across_rows(found, 8), 0.1))
        target = torch.where(torch.arange(6) < counts.view(2, 1), 0, -100)
        return F.cross_entropy(torch.cat(logits, 2).flatten(0, 1), target.flatten(), reduction="none")

    stock, hpu = both_arms(run, [x, table])
    assert torch.isfinite(stock[0]).all()
    assert_bit_equal(hpu, stock)


def test_binary_loss_leaves_out_the_same_candidates() -> None:
    criterion = Wav2vecCriterion(infonce=False)
    logits, counts = numbers(6, 4), torch.tensor([1.0, 1, 0, 1, 1, 1])
    out = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) < 0.3
    out[:, 0] = False

    def run() -> Tensor:
        with_fill = contrastive._fill(logits, out)
        return criterion._loss_per_frame(with_fill, torch.zeros(6, dtype=torch.long), counts)

    assert_bit_equal(*both_arms(run, [logits]))


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    """The draws differ from the stock arm's; the gradient has the mask of the values."""
    x = torch.ones(400, 500, requires_grad=True)
    for hpu_arms in (False, True):
        torch.manual_seed(0)
        with device_layer.forced(hpu_arms=hpu_arms):
            out = dropout(x, 0.1)
        assert (out == 0).float().mean().item() == pytest.approx(0.1, abs=0.003)
        assert out.detach().unique().tolist() == pytest.approx([0, 1 / 0.9], rel=1e-4)
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert torch.equal(grad, out.detach())


class ScaledDropout(nn.Module):
    """Dropout of a product with a weight: weight times gradient is the output if the masks are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(()) + 0.5)
        self.dropout = FairseqDropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x * self.weight)


@pytest.mark.parametrize("kind", ["cpu", pytest.param("lazy", marks=pytest.mark.needs("lazy"))])
def test_recomputed_activations_have_the_same_dropout_masks(kind: str) -> None:
    """Three blocks: each has its own masks, and its gradient uses the masks of its output."""
    torch.manual_seed(0)
    device = device_layer._make(kind)
    device.claim()
    blocks = nn.Sequential(*[checkpoint_wrapper(ScaledDropout()) for _ in range(3)]).to(kind)
    x = numbers(40, 50).detach().to(kind).requires_grad_()
    losses = []
    for seed in (1, 2, 1):
        blocks.zero_grad()
        with device_layer.forced(hpu_arms=True):
            device.seed(seed)
            losses.append(blocks(x).sum())
            losses[-1].backward()
            device.mark_step()
        for block in blocks:
            assert (block.weight * block.weight.grad).item() == pytest.approx(losses[-1].item(), rel=1e-4)
    assert losses[0].item() == losses[2].item() != losses[1].item()
    kept = blocks(torch.ones(40, 50, device=kind)) != 0
    assert 0.08 < kept.float().mean().item() < 0.17  # an eighth: three independent masks


@pytest.mark.parametrize("dim", [1, -1])
def test_gated_linear_unit(dim: int) -> None:
    x = numbers(3, 8, 6)
    assert_close(*both_arms(lambda: GLU(dim)(x), [x]), 1e-7)  # the last bit of a product


def test_gelu_in_the_form_that_hpu_computes() -> None:
    """HPU always uses the tanh form, unless PT_HPU_FORCE_TANH_FOR_GELU is 0.

    Values differ from the exact form by less than 1e-3, slopes by less than 1e-2.
    """
    x = torch.linspace(-6, 6, 10_001, dtype=torch.double, requires_grad=True)
    exact, tanh = F.gelu(x), F.gelu(x, approximate="tanh")
    slopes = [torch.autograd.grad(y.sum(), x)[0] for y in (exact, tanh)]
    values = (exact - tanh).abs().max().item()
    slope = (slopes[0] - slopes[1]).abs().max().item()
    print(f"\nGELU, tanh against erf: values differ by {values:.2e}, slopes by {slope:.2e}")
    assert 1e-5 < values < 1e-3 and 1e-5 < slope < 1e-2
