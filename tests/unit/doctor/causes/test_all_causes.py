"""What every cause must bear: records that say nothing, and columns that are not there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fairseq.doctor.causes  # noqa: F401  registers them
from fairseq.doctor.findings import CAUSES, SEVERITIES, Finding, examine
from fairseq.doctor.records import INTERVAL, Records, Rows

DOCS = Path(__file__).resolve().parents[4] / "docs"
COLUMNS = [
    *("loss", "loss_0", "loss_1", "loss_2", "accuracy", "prob_perplexity", "code_perplexity", "temp", "gnorm", "clip"),
    *("loss_scale", "lr", "wps", "ups", "wpb", "bsz", "audio_s_per_s", "audio_s_per_update", "data_wait", "train_wall"),
    *("rank_wait", "slowest_rank", "skipped", "few_masked", "wall", "nll_loss", "uer", "wer", "symbols_used", "blanks"),
    *("blank_share", "padding", "masked_share", "host_gb", "device_gb", "host_cpu", "graphs", "cpu_fallbacks"),
    *("time_forward", "time_backward", "time_exchange", "time_optimizer", "time_validate", "time_save"),
]


def row(update: int, value: object) -> dict[str, Any]:
    return {"num_updates": update, "epoch": 1 + update // 100, **dict.fromkeys(COLUMNS, value)}


def records(rows: list[dict[str, Any]], config: dict[str, Any] | None = None) -> Records:
    valid = [one for one in rows if one["num_updates"] % 100 == 0]
    return Records({INTERVAL: Rows(rows), "valid": Rows(valid)}, config, starts=[0])


NOTHING = {
    "no records": Records(),
    "rows without columns": records([{"num_updates": 20 * i, "epoch": 1} for i in range(1, 60)]),
    "one row": records([row(20, 1.0)]),
    "one row of a validation": Records({"valid": Rows([row(20, 1.0)])}),
    "values that are None": records([row(20 * i, None) for i in range(1, 60)]),
    "texts": records([row(20 * i, "much") for i in range(1, 60)]),
    "lines without content": Records(codes=[{"num_updates": 1}], hypotheses=[{"num_updates": 1}]),
}
ODD = {
    "nan": records([row(20 * i, "nan") for i in range(1, 60)]),
    "inf": records([row(20 * i, "inf") for i in range(1, 60)]),
    "0": records([row(20 * i, 0.0) for i in range(1, 60)]),
    "below 0": records([row(20 * i, -1.0) for i in range(1, 60)]),
    "settings of other kinds": records(
        [row(20 * i, 1.0) for i in range(1, 60)],
        {
            group: dict.fromkeys(
                ("clip_norm", "num_workers", "lr", "max_update", "latent_temp", "warmup_updates"), "no"
            )
            for group in ("common", "optimization", "dataset", "model", "lr_scheduler", "task", "criterion")
        },
    ),
    "an update twice": records([row(20 * (i // 2), 1.0) for i in range(2, 60)]),
}


@pytest.mark.parametrize("name", CAUSES)
@pytest.mark.parametrize("kind", NOTHING)
def test_records_that_say_nothing_show_nothing(name: str, kind: str) -> None:
    assert CAUSES[name](NOTHING[kind]) is None


@pytest.mark.parametrize("name", CAUSES)
@pytest.mark.parametrize("kind", ODD)
def test_a_cause_bears_odd_values(name: str, kind: str) -> None:
    with np.errstate(all="ignore"):
        found = CAUSES[name](ODD[kind])
    assert found is None or is_sound(found, name)


def is_sound(finding: Finding, name: str) -> bool:
    assert finding.name == name and finding.severity in SEVERITIES
    assert finding.title.endswith(".") and finding.change.endswith(".") and finding.evidence
    assert not re.search(r"\bnan\b", " ".join(finding.evidence)), "a number that is not known is not evidence"
    assert 0 <= finding.begin <= finding.end and finding.badness > 0
    return True


@pytest.mark.parametrize("name", CAUSES)
def test_a_cause_is_explained_under_its_name(name: str) -> None:
    lines = (DOCS / "doctor.md").read_text(encoding="utf-8").splitlines()
    headings = [line.lstrip("#").strip() for line in lines if line.startswith("#")]
    assert name in headings


def test_a_cause_changes_neither_rows_nor_settings() -> None:
    before = records([row(20 * i, 1.0) for i in range(1, 60)], {"optimization": {"clip_norm": 0.1}})
    first = examine(before)
    assert examine(before) == first and len(before.training) == 59
