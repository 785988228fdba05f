"""Normalising, clipping and skipping, all without reading the device."""

from __future__ import annotations

import math

import pytest
import torch

from fairseq.training import gradients


def params_with_gradient(*values: float) -> list[torch.Tensor]:
    params = [torch.nn.Parameter(torch.zeros(1)) for _ in values]
    for param, value in zip(params, values, strict=True):
        param.grad = torch.tensor([value])
    return params


def test_the_norm_is_that_of_the_mean_gradient() -> None:
    params = params_with_gradient(30.0, 40.0)
    prepared = gradients.prepare(params, lambda: torch.tensor(10.0), torch.tensor(5.0), world_size=2, clip_norm=0.0)
    assert prepared.divide_by.item() == 10 / 2 * 5
    assert prepared.norm.item() == pytest.approx(50 / 25) and prepared.found_inf.item() == 0


def test_clipping_is_folded_into_the_divisor() -> None:
    prepared = gradients.prepare(params_with_gradient(30.0, 40.0), lambda: torch.tensor(1.0), None, 1, clip_norm=5.0)
    assert prepared.norm.item() == 50 and 50 / prepared.divide_by.item() == pytest.approx(5.0, rel=1e-5)
    within = gradients.prepare(params_with_gradient(3.0, 4.0), lambda: torch.tensor(1.0), None, 1, clip_norm=5.1)
    assert within.divide_by.item() == 1


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_found(bad: float) -> None:
    prepared = gradients.prepare(params_with_gradient(1.0, bad), lambda: torch.tensor(1.0), None, 1, clip_norm=1.0)
    assert prepared.found_inf.item() == 1 and math.isfinite(prepared.divide_by.item())


def test_an_update_of_filler_alone_divides_by_one() -> None:
    assert gradients.prepare(params_with_gradient(0.0), lambda: torch.tensor(0.0), None, 1, 0.0).divide_by.item() == 1


def record(log: gradients.UpdateLog, norm: float, update: int) -> None:
    bad = not math.isfinite(norm)
    log.record(
        gradients.Prepared(torch.tensor(norm), torch.tensor(1.0), torch.tensor(float(bad))),
        update,
        [torch.tensor([update, 7])],
    )


def fetch(log: gradients.UpdateLog) -> list[float]:
    return torch.cat([value.flatten() for value in log.pending()]).tolist()


def test_skipped_updates_are_told_with_their_utterances() -> None:
    log = gradients.UpdateLog(torch.device("cpu"), limit=3, room=2)
    for update, norm in enumerate([1.0, math.nan, 2.0, math.inf, math.nan]):
        record(log, norm, update)
    settled = log.settle(fetch(log))
    assert settled.norms == [1.0, 2.0] and settled.too_many_in_a_row == 0
    assert settled.skipped == [(1, [1, 7]), (3, [3, 7]), (4, [4, 7])]
    record(log, math.nan, 5)  # the third in a row, over a fetch
    assert log.settle(fetch(log)).too_many_in_a_row == 3


def test_a_run_of_skipped_updates_counts_even_if_it_ended_before_the_fetch() -> None:
    log = gradients.UpdateLog(torch.device("cpu"), limit=2, room=8)
    for update, norm in enumerate([math.nan, math.nan, 1.0]):
        record(log, norm, update)
    assert log.settle(fetch(log)).too_many_in_a_row == 2
    record(log, math.nan, 3)
    assert log.settle(fetch(log)).too_many_in_a_row == 0


def test_frozen_parameters_have_no_gradient_and_others_have_one() -> None:
    trained, left_out, frozen, zeros = params = params_with_gradient(3.0, 0.0, 0.0, 0.0)
    left_out.grad = frozen.grad = None
    gradients.complete(params, {frozen, zeros})
    assert trained.grad == 3 and left_out.grad == 0 and frozen.grad is None and zeros.grad is None
    kept = trained.grad
    gradients.zero_in_place(params, {frozen, zeros})
    assert trained.grad is kept and kept == 0 and left_out.grad == 0 and frozen.grad is None and zeros.grad is None
