"""Padding in batches."""

from __future__ import annotations

from fairseq.doctor.causes.padding import padding
from tests.unit.doctor.causes.made_rows import made


def task(**keys: object) -> dict:
    return {"task": keys, "dataset": {"max_tokens": 1400000, "required_batch_size_multiple": 8}}


def test_few_buckets_are_named() -> None:
    found = padding(made(20, task(enable_padding=True, num_batch_buckets=1), padding=[55.0] * 8))
    assert found is not None and found.severity == "warning" and (found.begin, found.end) == (21, 160)
    assert found.change.startswith("Set task.num_batch_buckets=7") and "max_sample_size" in found.change
    assert "55 %" in found.evidence[0] and "task.num_batch_buckets=1" in found.evidence[1]


def test_without_buckets_the_advice_is_about_the_batches() -> None:
    config = task(enable_padding=True, num_batch_buckets=0, max_sample_size=250000)
    found = padding(made(20, config, padding=[22.0] * 8))
    assert found is not None and found.severity == "note"
    assert "required_batch_size_multiple" in found.change and "task.enable_padding=false" in found.change
    labels = padding(made(20, task(enable_padding=True, num_batch_buckets=0, labels="ltr"), padding=[40.0] * 8))
    assert labels is not None and "task.enable_padding=false" not in labels.change


def test_usual_padding() -> None:
    assert padding(made(20, padding=[12.0] * 20)) is None
    assert padding(made(20, padding=[60.0, 40.0, *[3.0] * 20])) is None
    assert padding(made(20, loss=[6.0] * 20)) is None
