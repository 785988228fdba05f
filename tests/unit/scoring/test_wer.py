"""Error counts."""

from __future__ import annotations

import math
import random
from functools import cache

import numpy as np
import pytest
import torch

from fairseq.logging import metrics
from fairseq.scoring.greedy_scorer import GreedyScorer, log_rates, summed
from fairseq.scoring.wer import Errors, best_path, character_errors, unit_errors, word_errors


def distance(one: list[str], other: list[str]) -> int:
    """Levenshtein's distance by its definition."""

    @cache
    def between(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(between(i - 1, j) + 1, between(i, j - 1) + 1, between(i - 1, j - 1) + (one[i - 1] != other[j - 1]))

    return between(len(one), len(other))


def test_errors_are_edit_distances() -> None:
    rng = random.Random(3)
    references = [" ".join(rng.choices("abc", k=rng.randint(1, 7))) for _ in range(40)]
    hypotheses = [" ".join(rng.choices("abc", k=rng.randint(0, 7))) for _ in range(40)]
    expected = sum(distance(r.split(), h.split()) for r, h in zip(references, hypotheses, strict=True))
    assert word_errors(references, hypotheses) == Errors(expected, sum(len(r.split()) for r in references))
    by_letter = sum(distance(list(r), list(h)) for r, h in zip(references, hypotheses, strict=True))
    assert character_errors(references, hypotheses) == Errors(by_letter, sum(map(len, references)))


def test_empty_references_and_hypotheses() -> None:
    assert word_errors([""], ["a b"]) == Errors(2, 0) and math.isnan(Errors(2, 0).rate())
    assert word_errors(["a b"], [""]) == Errors(2, 2) and Errors(1, 4).rate() == 25
    assert word_errors([], []) == character_errors([], []) == unit_errors([], []) == Errors(0, 0)
    assert unit_errors([[5, 6, 17]], [[5, 17]]) == Errors(1, 3)


def test_best_path_joins_runs_and_drops_blanks() -> None:
    assert best_path(np.array([0, 5, 5, 0, 5, 6, 6, 0, 0]), 0).tolist() == [5, 5, 6]
    assert best_path(np.array([0, 0]), 0).tolist() == [] and best_path(np.array([], dtype=int), 0).tolist() == []


@pytest.fixture
def scorer() -> GreedyScorer:
    return GreedyScorer(lambda units: "".join(" " if unit == 4 else chr(60 + unit) for unit in units).strip(), 0, 8, 4)


def score(scorer: GreedyScorer, counts: list[float]) -> dict[str, torch.Tensor]:
    path = torch.tensor([[5, 0, 6, 4, 0, 0], [5, 5, 0, 7, 7, 7], [5, 0, 0, 0, 0, 0]])
    target, lengths = torch.tensor([[5, 6, 4], [5, 6, 1], [6, 1, 1]]), torch.tensor([3, 2, 1])
    frames, weights = torch.tensor([6, 4, 2]), torch.tensor(counts)
    return {**scorer.blanks(path, frames, weights), **scorer.score(path, target, frames, lengths, weights)}


def test_sums_of_a_batch(scorer: GreedyScorer) -> None:
    log = score(scorer, [1.0, 1.0, 0.0])
    # row 0 "AB" is right; row 1 hears 5 7 for 5 6; row 2 does not count
    assert {name: value.item() for name, value in log.items() if value.dim() == 0} == {
        "frames": 10,
        "blanks": 4,
        "c_errors": 1,
        "c_total": 5,
        "w_errors": 1,
        "w_total": 2,
    }
    assert log["used"].tolist() == [1, 2, 1, 1]
    assert scorer.take_examples() == [("AB", "AB"), ("AB", "AC")] and scorer.take_examples() == []


def test_hypotheses_of_watched_utterances_are_kept_until_they_are_taken(scorer: GreedyScorer) -> None:
    path = torch.tensor([[5, 0, 6], [5, 5, 7], [7, 0, 0], [6, 6, 6]])
    target, ones = torch.tensor([[5, 6], [5, 6], [6, 7], [6, 1]]), torch.tensor([3, 3, 3, 3])
    arguments = (path, target, ones, torch.tensor([2, 2, 2, 1]), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    scorer.score(*arguments, ids=torch.tensor([4, 5, 9, 4]))  # nothing is watched
    scorer.watched = frozenset({4, 9, 30})
    scorer.score(*arguments)  # by a caller without indices
    assert scorer.take_seen() == {}
    scorer.score(*arguments, ids=torch.tensor([4, 5, 9, 4]))  # the last row does not count
    assert scorer.take_seen() == {4: ("AB", "AB"), 9: ("BC", "C")} and scorer.take_seen() == {}


def test_sums_of_batches_are_those_of_the_set(scorer: GreedyScorer) -> None:
    """Two batches in two processes, each with its own rows: rates are those of all rows, not means of rates."""
    whole, parts = score(scorer, [1.0, 1.0, 1.0]), [score(scorer, [1.0, 0.0, 0.0]), score(scorer, [0.0, 1.0, 1.0])]
    logged = []
    for outputs in ([whole], parts):
        with metrics.aggregate(new_root=True) as aggregator:
            log_rates(summed(outputs))
        logged.append(aggregator.get_smoothed_values())
    assert logged[0] == logged[1]
    assert logged[0]["wer"] == pytest.approx(100 * 2 / 3, abs=1e-3) and logged[0]["uer"] == pytest.approx(
        100 * 2 / 6, abs=1e-3
    )
    assert logged[0]["blanks"] == pytest.approx(100 * 5 / 12, abs=1e-3) and logged[0]["symbols_used"] == 100
