"""The strategies by which processes share a model train the same, in two processes on CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import strategy_runs

CASES = {"base": {}, "conformer": strategy_runs.CONFORMER}


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_all_strategies_train_the_same(name: str, corpus: Path, tmp_path: Path) -> None:
    """With dropout, layerdrop, two micro-batches an update, activation checkpointing and a running average."""
    cfg = strategy_runs.settings(corpus, tmp_path, model=CASES[name])
    reports = strategy_runs.compare(cfg, 4, tmp_path / "report")
    for report in reports:
        ddp, flat = report["pytorch_ddp"], report["flat"]
        assert flat["losses"] == ddp["losses"]  # sums of two numbers have one order
        assert flat["held"] == ddp["held"]
        assert [report[backend]["name"] for backend in report] == list(strategy_runs.BACKENDS)
