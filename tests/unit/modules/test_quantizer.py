"""The Gumbel quantizer."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fairseq import device
from fairseq.modules import GumbelVectorQuantizer
from fairseq.modules.gumbel_vector_quantizer import perplexity
from fairseq.training import codes


def quantizer(**changes: object) -> GumbelVectorQuantizer:
    torch.manual_seed(0)
    settings = {
        "dim": 6,
        "num_vars": 5,
        "temp": (2.0, 0.5, 0.9),
        "groups": 2,
        "combine_groups": False,
        "vq_dim": 8,
        "time_first": True,
    }
    return GumbelVectorQuantizer(**{**settings, **changes})


def test_evaluation_picks_the_largest_logit_of_each_group() -> None:
    module = quantizer().eval()
    x = torch.randn(3, 4, 6)
    result = module(x, produce_targets=True)
    logits = F.linear(x, module.weight_proj.weight, module.weight_proj.bias).view(3, 4, 2, 5)
    assert torch.equal(result["targets"], logits.argmax(-1))
    for b in range(3):
        for t in range(4):
            first, second = result["targets"][b, t].tolist()
            assert torch.equal(result["x"][b, t], torch.cat([module.vars[0, first], module.vars[0, 5 + second]]))
    assert result["num_vars"] == 10 and result["temp"] == 2.0
    assert torch.equal(module.forward_idx(x)[1], result["targets"])


def test_training_gives_codewords_bit_for_bit_and_the_straight_through_gradient() -> None:
    module = quantizer().train()
    x = torch.randn(3, 4, 6)
    torch.manual_seed(1)
    result = module(x, produce_targets=True)
    assert torch.equal(result["x"], module.look_up(result["targets"]))
    weights = torch.randn_like(result["x"])
    ours = torch.autograd.grad((result["x"] * weights).sum(), [module.weight_proj.weight, module.vars])

    torch.manual_seed(1)
    logits = F.linear(x, module.weight_proj.weight, module.weight_proj.bias).view(3, 4, 2, 5)
    picks = F.gumbel_softmax(logits, tau=2.0, hard=True)  # draws its noise alike
    expected = torch.einsum("btgv,gvd->btgd", picks, module.vars.view(2, 5, 4)).flatten(2)
    theirs = torch.autograd.grad((expected * weights).sum(), [module.weight_proj.weight, module.vars])
    assert torch.allclose(result["x"], expected, atol=1e-6)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_soft_mixtures() -> None:
    module = quantizer(hard=False).train()
    x = torch.randn(3, 4, 6)
    result = module(x, produce_targets=True)
    assert not torch.equal(result["x"], module.look_up(result["targets"]))


def test_hpu_arm_of_the_look_up() -> None:
    module = quantizer().eval()
    x = torch.randn(3, 4, 6)
    results = []
    for arms in (False, True):
        module.zero_grad()
        with device.forced(hpu_arms=arms):
            out = module(x)["x"]
        out.square().sum().backward()
        results.append((out.detach(), module.vars.grad.clone()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1], atol=1e-6)


def test_bf16_autocast_does_not_reach_the_codebook() -> None:
    module = quantizer().eval()
    x = torch.randn(3, 4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        result = module(x)
    assert result["x"].dtype == torch.float32
    assert torch.equal(result["x"], module(x)["x"])
    assert torch.equal(result["prob_perplexity"], module(x)["prob_perplexity"])


def test_weights_choose_the_frames_of_the_statistics() -> None:
    module = quantizer().eval()
    x = torch.randn(2, 6, 6)
    weights = torch.tensor([[1.0, 1, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0]])
    weighted = module(x, weights=weights)
    chosen = module(x[weights > 0].unsqueeze(0))
    for key in ("prob_perplexity", "code_perplexity"):
        assert weighted[key].item() == pytest.approx(chosen[key].item(), rel=1e-5)
    empty = module(x, weights=torch.zeros(2, 6))
    assert torch.isfinite(empty["prob_perplexity"]) and torch.isfinite(empty["code_perplexity"])


@pytest.mark.parametrize("hpu_arms", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_counts_are_of_the_codes_that_the_perplexity_is_of(hpu_arms: bool, weighted: bool) -> None:
    """In training the codewords are drawn with noise; the perplexity, and so the counts, are without."""
    module = quantizer().train()
    x = torch.randn(3, 40, 6)
    weights = (torch.rand(3, 40) < 0.4).float() if weighted else None
    with device.forced(hpu_arms=hpu_arms):
        result = module(x, produce_targets=True, weights=weights)
    counts = result["code_counts"]
    counting = torch.ones(3, 40) if weights is None else weights
    assert counts.shape == (2, 5) and not counts.requires_grad and counts.dtype == torch.float32
    assert counts.sum(dim=1).tolist() == [counting.sum().item()] * 2
    likely = F.linear(x, module.weight_proj.weight, module.weight_proj.bias).view(3, 40, 2, 5).argmax(-1)
    for group in range(2):
        chosen = likely[..., group][counting > 0]
        assert counts[group].tolist() == torch.bincount(chosen, minlength=5).tolist()
    assert not torch.equal(likely, result["targets"])  # the noise changed some
    by_group = [codes.perplexity([round(count) for count in group]) for group in counts.tolist()]
    assert sum(by_group) == pytest.approx(result["code_perplexity"].item(), rel=1e-5)


def test_perplexity_of_known_distributions() -> None:
    uniform = torch.full((1, 1, 2, 8), 1 / 8)
    assert perplexity(uniform).item() == pytest.approx(16, rel=1e-4)
    assert perplexity(F.one_hot(torch.zeros(1, 3, 2, dtype=torch.long), 8).float()).item() == pytest.approx(2, rel=1e-4)


def test_temperature_falls_to_its_floor() -> None:
    module = quantizer()
    for updates, temperature in ((0, 2.0), (3, 2 * 0.9**3), (100, 0.5)):
        module.set_num_updates(updates)
        assert module.curr_temp == pytest.approx(temperature)


def test_codebook_in_all_its_forms() -> None:
    module = quantizer()
    book = module.codebook()
    assert book.shape == (25, 8)
    codes = torch.tensor([[3, 4]])
    number = module.to_codebook_index(codes)
    assert number.tolist() == [19]
    assert torch.equal(book[number], module.look_up(codes))


def test_draws_from_the_codebook_are_uniform() -> None:
    module = quantizer()
    torch.manual_seed(0)
    drawn = module.sample_from_codebook(500, 20)
    assert drawn.shape == (500, 20, 8)
    numbers = (drawn.unsqueeze(2) == module.codebook()).all(-1).float().argmax(-1)
    shares = torch.bincount(numbers.flatten(), minlength=25) / 10000
    assert (shares - 1 / 25).abs().max() < 5 * math.sqrt(1 / 25 / 10000)
    with pytest.raises(ValueError, match="25"):
        module.sample_from_codebook(1, 25)


def test_combined_groups_share_their_codewords_and_time_may_come_last() -> None:
    module = quantizer(combine_groups=True, time_first=False).eval()
    assert module.vars.shape == (1, 5, 4)
    result = module(torch.randn(3, 6, 4), produce_targets=True)
    assert result["x"].shape == (3, 8, 4)
    first = result["targets"][0, 0]
    assert torch.equal(result["x"][0, :, 0], module.vars[0, first].flatten())


def test_deep_projection_and_normal_codewords() -> None:
    module = quantizer(weight_proj_depth=3, weight_proj_factor=2, std=0.1)
    assert [p.shape for p in module.weight_proj.parameters()][::2] == [(12, 6), (12, 12), (10, 12)]
    assert module.vars.abs().max() < 0.6


@pytest.mark.parametrize(
    ("changes", "named"), [({"vq_dim": 7}, "multiple of model.latent_groups=2"), ({"temp": (1.0, 2.0)}, "latent_temp")]
)
def test_settings_that_do_not_fit_are_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        quantizer(**changes)
