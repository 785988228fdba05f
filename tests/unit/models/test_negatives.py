"""Negatives: where they are drawn from, and the logits against them, compared with loops that spell the definition
out.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_model import gradients, masked_batch, small_model
from torch import Tensor

from fairseq import device
from fairseq.models.wav2vec import contrastive
from fairseq.models.wav2vec.contrastive import Candidates


def candidates(counts: list[int], width: int, own: Tensor | None = None, num_codes: int = 4) -> Candidates:
    """Random candidates; the positives are the candidates themselves unless `own` says otherwise."""
    B = len(counts)
    codes = torch.randint(num_codes, (B, width))
    table = torch.randn(num_codes, 6)
    if own is None:
        own = torch.arange(width).expand(B, width)
    return Candidates(table[codes], codes, torch.tensor(counts), own)


def test_draws_within_rows_are_uniform_over_the_other_candidates() -> None:
    torch.manual_seed(0)
    counts = [5, 2, 7]
    drawn = contrastive.draw_within_rows(candidates(counts, 7), 6000)
    for row, count in enumerate(counts):
        for m in range(count):
            shares = torch.bincount(drawn[row, m], minlength=7).double() / 6000
            others = [k for k in range(count) if k != m]
            assert shares[m] == 0 and shares[count:].sum() == 0
            deviation = math.sqrt(1 / len(others) / 6000)
            assert all(abs(shares[k].item() - 1 / len(others)) < 5 * deviation for k in others)


@pytest.mark.parametrize("counts", [[1, 3], [0, 3]])
def test_rows_without_a_second_candidate_get_indices_in_range(counts: list[int]) -> None:
    drawn = contrastive.draw_within_rows(candidates(counts, 3), 50)
    assert drawn.min() >= 0 and drawn.max() < 3


def test_draws_step_over_the_frames_own_place() -> None:
    """With candidates everywhere, masked frames stand at other places than their number."""
    own = torch.tensor([[1, 4, 5]])
    drawn = contrastive.draw_within_rows(candidates([6], 8, own), 500)
    for m, place in enumerate(own[0].tolist()):
        assert set(drawn[0, m].tolist()) == set(range(6)) - {place}


def test_draws_across_rows_are_uniform_over_all_valid_candidates() -> None:
    torch.manual_seed(0)
    counts, width = [3, 0, 4], 5
    drawn = contrastive.draw_across_rows(candidates(counts, width), 8000)
    valid = [row * width + k for row, count in enumerate(counts) for k in range(count)]
    for row, count in enumerate(counts):
        for m in range(count):
            shares = torch.bincount(drawn[row, m], minlength=15).double() / 8000
            own = row * width + m
            assert shares[own] == 0
            others = [place for place in valid if place != own]
            assert shares[others].sum().item() == pytest.approx(1)
            assert (shares[others] - 1 / len(others)).abs().max() < 5 * math.sqrt(1 / len(others) / 8000)


def spelled_out(x: Tensor, positive: Tensor, negatives: list[Tensor], temperature: float) -> list[float]:
    """Logits of one masked frame by definition."""
    logits = [F.cosine_similarity(x, positive, dim=0).item() / temperature]
    for negative in negatives:
        same = torch.equal(negative, positive)
        logits.append(-math.inf if same else F.cosine_similarity(x, negative, dim=0).item() / temperature)
    return logits


@pytest.mark.parametrize("with_codes", [True, False])
def test_logits_within_and_across_rows(with_codes: bool) -> None:
    torch.manual_seed(0)
    own = torch.tensor([[2, 0, 1], [4, 1, 3]])
    found = candidates([5, 5], 5, own)
    if not with_codes:
        found = found._replace(codes=None)
    x = torch.randn(2, 3, 6)
    within, across = contrastive.draw_within_rows(found, 7), contrastive.draw_across_rows(found, 7)
    ours = torch.cat(
        [contrastive.logits_within_rows(x, found, within, 0.5), contrastive.logits_across_rows(x, found, across, 0.5)],
        dim=2,
    )
    for b in range(2):
        for m in range(3):
            flat = found.targets.flatten(0, 1)
            negatives = [found.targets[b, k] for k in within[b, m]] + [flat[k] for k in across[b, m]]
            expected = spelled_out(x[b, m], found.targets[b, own[b, m]], negatives, 0.5)
            assert ours[b, m].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert torch.isinf(ours).any() and torch.isfinite(ours[..., 0]).all()


def test_hpu_fill_is_finite_and_has_the_same_exponential() -> None:
    torch.manual_seed(0)
    found = candidates([5], 5, num_codes=2)
    x, within = torch.randn(1, 5, 6), contrastive.draw_within_rows(found, 9)
    stock = contrastive.logits_within_rows(x, found, within, 0.1)
    with device.forced(hpu_arms=True):
        hpu = contrastive.logits_within_rows(x, found, within, 0.1)
    assert torch.isfinite(hpu).all() and not torch.isfinite(stock).all()
    assert torch.equal(hpu.softmax(-1), stock.softmax(-1))


KINDS = [
    ({"num_negatives": 5}, 5),
    ({"num_negatives": 0, "cross_sample_negatives": 4}, 4),
    ({"num_negatives": 0, "codebook_negatives": 3}, 3),
    ({"num_negatives": 5, "cross_sample_negatives": 4, "codebook_negatives": 3}, 12),
    ({"negatives_from_everywhere": True}, 5),
    ({"negatives_from_everywhere": True, "cross_sample_negatives": 4, "quantize_targets": False}, 9),
    ({"quantize_targets": False}, 5),
    ({"target_glu": True, "codebook_negatives": 3}, 8),
    ({"quantize_input": True}, 5),
    ({"quantize_input": True, "same_quantizer": True, "latent_dim": 12}, 5),
    ({"quantizer_depth": 2, "quantizer_factor": 2}, 5),
    ({"latent_dim": 8}, 5),
]


@pytest.mark.parametrize(("settings", "negatives"), KINDS, ids=lambda value: str(value))
def test_every_kind_of_target_and_negative_trains(settings: dict[str, Any], negatives: int) -> None:
    """Shape of the logits, and a gradient for every parameter."""
    model = small_model(**settings).train()
    net_input = masked_batch(model, [4000, 2900], [13, 9])
    del net_input["negative_indices"]
    output = model(**net_input)
    assert output["x"].shape == (1 + negatives, 2, 15) and output["x"].dtype == torch.float32
    assert ("prob_perplexity" in output) == (model.quantizer is not None or model.input_quantizer is not None)
    logits, targets = model.get_logits(output), model.get_targets(None, output)
    assert logits.shape == (30, 1 + negatives)
    assert targets.view(15, 2).t().tolist() == [[0] * 13 + [-100] * 2, [0] * 9 + [-100] * 6]
    loss = F.cross_entropy(logits, targets, reduction="sum") + sum(model.get_extra_losses(output))
    loss.backward()
    for name, grad in gradients(model).items():
        assert torch.isfinite(grad).all(), name
        if not name.endswith("k_proj.bias"):
            assert grad.any(), f"{name} has no gradient"


def test_given_negatives_are_used_with_candidates_everywhere_too() -> None:
    """They count masked frames; with quantization per frame the logits are those of negatives among the masked
    frames.
    """
    net_input = masked_batch(small_model(), [4000, 2900], [13, 9])
    outputs = [
        small_model(negatives_from_everywhere=everywhere).eval()(**net_input)["x"] for everywhere in (False, True)
    ]
    counted = net_input["masked_weights"] > 0
    assert torch.equal(outputs[0][:, counted].isinf(), outputs[1][:, counted].isinf())
    assert torch.allclose(outputs[0][:, counted].exp(), outputs[1][:, counted].exp(), rtol=1e-4)


def test_negatives_that_point_at_filler_are_impossible() -> None:
    model = small_model().eval()
    net_input = masked_batch(model, [4000], [6])
    net_input["negative_indices"][0, :6, 0] = 6
    assert torch.isinf(model(**net_input)["x"][1, 0, :6]).all()


def test_no_negatives_at_all_is_an_error() -> None:
    model = small_model(num_negatives=0)
    net_input = masked_batch(model, [4000], [6])
    del net_input["negative_indices"]
    with pytest.raises(ValueError, match="model.num_negatives"):
        model(**net_input)
