"""Runs of a few updates: they show nothing of what a model learns, whatever their values are."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import fairseq.doctor.causes  # noqa: F401  registers them
from fairseq.doctor.findings import Finding, cause, examine
from fairseq.doctor.records import INTERVAL, Records, Rows
from tests.unit.doctor.causes.made_runs import CTC, PRETRAINING, changed

Value = float | Callable[[int], float]


def rows(count: int, every: int = 1, /, **columns: Value) -> Rows:
    """Make rows; a column is a number, or a function of the update."""
    return Rows(
        {
            "num_updates": update,
            "epoch": update,
            **{name: value(update) if callable(value) else value for name, value in columns.items()},
        }
        for update in range(every, every * count + 1, every)
    )


def pretraining(updates: int, length: int | None = None) -> Records:
    """Make a smoke test of pre-training, with all that is odd in the first updates: see the values of each column."""
    length = updates if length is None else length
    columns: dict[str, Value] = {
        "loss_0": lambda n: max(3.46, 4.3 - 0.01 * n),  # random weights cost more than guessing among 11 candidates
        "loss_2": lambda n: 0.02 * 1.5 ** min(n, 15),
        "gnorm": lambda n: 0.2 * 1.4 ** min(n, 15),
        "code_perplexity": lambda n: 60.0 if n < 3 else 5.0,
        "prob_perplexity": 110.0,
        "accuracy": lambda n: 0.9 if n < 3 else 0.2,
        "lr": 0.005,
        "audio_s_per_update": 5.0,
        "bsz": 2.0,
        "wpb": 20.0,  # few masks
        "loss_scale": lambda n: 2.0**-n,
    }
    valid = rows(updates // 2, 2, loss_0=lambda n: 4.0 + 0.1 * n, code_perplexity=4.0, loss_2=0.001)
    counts = [[1000] * 20 + [0] * 300] * 2
    codes = [{"split": "train", "num_updates": update, "counts": counts} for update in range(1, updates + 1)]
    config = changed(
        PRETRAINING,
        model={"num_negatives": 10},
        optimization={"max_update": length, "lr": [0.0005]},
        lr_scheduler={"warmup_updates": 1},
    )
    return Records({INTERVAL: rows(updates, **columns), "valid": valid}, config, codes=codes, starts=[0])


def fine_tuning(updates: int, length: int | None = None) -> Records:
    length = updates if length is None else length
    training = rows(updates, loss=lambda n: 200.0 / n, gnorm=lambda n: 1.4 ** min(n, 15), lr=0.005, blank_share=100.0)
    valid = rows(updates // 2, 2, wer=lambda n: 100.0 + 3 * n, uer=98.0, symbols_used=10.0, blank_share=60.0)
    config = changed(
        CTC,
        optimization={"max_update": length, "lr": [0.005]},
        model={"freeze_finetune_updates": 10_000 if length < 100 else 0},
    )
    return Records({INTERVAL: training, "valid": valid}, config, starts=[0])


def alarms(records: Records) -> set[str]:
    return {found.name for found in examine(records) if found.severity != "note"}


@pytest.mark.parametrize("make", [pretraining, fine_tuning])
@pytest.mark.parametrize("updates", [2, 4, 6, 10, 19])
def test_a_trial_raises_no_alarm(make: Callable[..., Records], updates: int) -> None:
    assert alarms(make(updates)) == set()
    assert alarms(make(updates, length=100_000)) == set()  # the beginning of a run


def test_the_same_values_are_findings_once_a_run_has_had_the_time_to_learn() -> None:
    for updates, expected in ((99, False), (200, True)):
        records = pretraining(updates)
        config = changed(PRETRAINING, model={"num_negatives": 10}, optimization={"max_update": 200, "lr": [1e-7]})
        records.config = config
        assert ("plateau" in alarms(records)) == expected
    assert {"blanks-only", "few-symbols"} <= alarms(fine_tuning(200))
    assert not {"blanks-only", "few-symbols"} & alarms(fine_tuning(90))


def test_a_rate_that_moves_no_weights_is_no_reason_to_blame_the_labels() -> None:
    records = fine_tuning(200)
    slow = rows(200, loss=lambda n: 200.0 / n, lr=3e-5, blank_share=100.0)
    assert "blanks-only" not in alarms(Records({INTERVAL: slow}, records.config))


def test_a_cause_is_looked_for_once_the_records_cover_its_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairseq.doctor.findings.CAUSES", own := {})
    found = Finding("late", "note", "Late.", ["."], ".", 1, 2)
    function = cause("late", updates=50)(lambda records: found)
    assert function(Records()) is found  # a test of the function itself
    for every, count, expected in ((1, 49, []), (1, 50, [found]), (10, 5, [found]), (200, 2, [found]), (200, 1, [])):
        assert [found for function in own.values() if function(Records({INTERVAL: rows(count, every)}))] == expected


def test_updates_before_the_first_row_are_not_covered() -> None:
    resumed = Rows({"num_updates": update, "epoch": 1} for update in range(100_010, 100_041, 10))
    assert Records({INTERVAL: resumed}).covered == 40
    assert Records().covered == 0
