"""What a run records besides its metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fairseq.scoring.greedy_scorer import GreedyScorer
from fairseq.training.records import scorer_of, spread


def test_watched_utterances_are_spread_over_the_set() -> None:
    assert sorted(spread(80, 8)) == list(range(0, 80, 10)) and sorted(spread(3, 8)) == [0, 1, 2]
    assert spread(0, 8) == frozenset() and max(spread(1001, 8)) < 1001 and len(spread(9, 8)) == 8


def test_the_scorer_is_the_criterions_or_the_tasks() -> None:
    scorers = [GreedyScorer(str, 0, 4, 1) for _ in range(2)]

    def trainer(criterion: Any, task: Any) -> Any:
        return SimpleNamespace(criterion=SimpleNamespace(**criterion), task=SimpleNamespace(**task))

    assert scorer_of(trainer({"scorer": scorers[0]}, {"scorer": scorers[1]})) is scorers[0]
    assert scorer_of(trainer({}, {"scorer": scorers[1]})) is scorers[1]
    assert scorer_of(trainer({"scorer": "sacrebleu"}, {})) is None
