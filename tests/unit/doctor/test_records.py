"""A run's records by column."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq.doctor import findings
from fairseq.doctor.findings import Finding, cause, examine
from fairseq.doctor.records import Records, Rows


def test_columns_bear_missing_values_texts_and_rows_that_come_later():
    rows = Rows([{"num_updates": 20, "epoch": 1, "loss": 6.5}, {"num_updates": 40, "epoch": 1, "loss": "nan"}])
    assert np.array_equal(rows.values("loss"), [6.5, np.nan], equal_nan=True)
    rows.append({"num_updates": 60, "epoch": 2, "loss": "inf", "who": "rank 0"})
    assert np.array_equal(rows.values("loss"), [6.5, np.nan, np.inf], equal_nan=True)
    assert rows.updates.tolist() == [20, 40, 60] and rows.updates.dtype == np.int64
    assert np.isnan(rows.values("who")).all() and not rows.has("gnorm") and rows.has("loss")


def test_a_run_without_intervals_is_judged_by_its_epochs():
    epochs, valid = Rows([{"num_updates": 7, "epoch": 1}]), Rows([{"num_updates": 7, "epoch": 1}])
    records = Records({"train": epochs, "valid": valid}, {"optimization": {"lr": [0.1], "max_epoch": None}})
    assert records.training is epochs and records.validation == {"valid": valid}
    assert records.setting("optimization.lr") == [0.1]
    assert records.setting("optimization.max_epoch", 0) == 0 and records.setting("task.nosuch.deep", 3) == 3


def test_the_most_severe_findings_come_first(monkeypatch):
    monkeypatch.setattr(findings, "CAUSES", {})

    def planted(name: str, severity: findings.Severity, begin: int) -> Finding:
        return Finding(name, severity, "title", [], "change", begin, begin)

    cause("late")(lambda records: planted("late", "error", 9))
    cause("nothing")(lambda records: None)
    cause("note")(lambda records: planted("note", "note", 1))
    cause("early")(lambda records: planted("early", "error", 2))
    assert [finding.name for finding in examine(Records())] == ["early", "late", "note"]
    with pytest.raises(ValueError, match="already registered"):
        cause("late")(lambda records: None)


def test_compact_rows_have_the_columns_of_all_rows():
    many = [{"num_updates": update, "epoch": 1, "loss": update / 2} for update in range(2500)]
    many[2200]["clip"] = 100.0  # a name that comes after the first rows were dropped
    kept, compact = Rows(many), Rows(many, is_compact=True)
    for rows in (kept, compact):
        assert len(rows) == 2500 and rows.updates.tolist() == list(range(2500))
        assert rows.values("loss").tolist() == [update / 2 for update in range(2500)]
        assert np.flatnonzero(np.isfinite(rows.values("clip"))).tolist() == [2200]
    assert len(kept.rows) == 2500 and compact.rows[-1] == many[-1]
    assert all(1 <= len(Rows(many[:count], is_compact=True).rows) < 1000 for count in (999, 1000, 1001, 2500))
    with pytest.raises(ValueError, match="read-only"):
        compact.values("loss")[0] = 1.0


def test_lists_texts_and_truths_in_a_column_leave_its_numbers_as_they_are():
    rows = Rows([{"num_updates": u, "a": a} for u, a in enumerate([1, None, True, "nan", "x", [3.0], "-inf", 2.5])])
    found = rows.values("a")
    np.testing.assert_array_equal(found, [1, np.nan, 1, np.nan, np.nan, np.nan, -np.inf, 2.5])
    assert not Rows([{"num_updates": 1, "a": [1.0]}, {"num_updates": 2, "a": [2.0]}]).has("a")
