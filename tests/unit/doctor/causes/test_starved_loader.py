"""The run waits for its data."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.causes.loading import starved_loader
from tests.unit.doctor.causes.made_rows import made

CONFIG = {"dataset": {"num_workers": 1}, "task": {"data": "/speech"}, "distributed_training": {"nprocs_per_node": 1}}
CORES = {"cores": 8}


def test_waiting_for_half_of_the_time_is_named_with_the_worker_setting() -> None:
    found = starved_loader(made(20, CONFIG, CORES, data_wait=[50.0] * 9))
    assert found is not None and found.severity == "warning" and (found.begin, found.end) == (21, 180)
    assert "50 % of the time" in found.evidence[0] and "2.0 times as fast" in found.evidence[0]
    assert "dataset.num_workers=1 on a machine with 8 cores" in found.evidence[1]
    assert "dataset.num_workers, to 8" in found.change and "task.cache_dir" in found.change


def test_without_workers_the_advice_is_to_have_some() -> None:
    none = {**CONFIG, "dataset": {"num_workers": 0}}
    found = starved_loader(made(20, none, {"cores": 2}, data_wait=[50.0] * 9))
    assert found is not None and found.change.startswith("Set dataset.num_workers=2")


def test_where_all_cores_work_the_advice_is_about_the_data() -> None:
    config = {
        "dataset": {"num_workers": 8},
        "task": {"data": "s3://bucket/speech", "resample": True},
        "distributed_training": {"nprocs_per_node": 8},
    }
    found = starved_loader(made(20, config, {"cores": 16, "processes": 8}, data_wait=[50.0] * 9))
    assert found is not None and "All cores have a worker" in found.change
    assert "Convert the files" in found.change and "s3://bucket/speech is in an object store" in found.change


def test_short_epochs_are_evidence() -> None:
    records = made(10, CONFIG, CORES, data_wait=[40.0] * 20)
    for i, row in enumerate(records.training.rows):
        row["epoch"] = 1 + 2 * i  # type: ignore[index]
    found = starved_loader(records)
    assert found is not None and any("An epoch has 5 updates" in line for line in found.evidence)


def test_healthy_waits() -> None:
    assert starved_loader(made(20, CONFIG, data_wait=[90.0, 40.0, 30.0, *[2.5] * 30])) is None
    validations = np.where(np.arange(40) % 5 == 0, 45.0, 3.0)
    assert starved_loader(made(20, CONFIG, data_wait=validations)) is None
    assert starved_loader(made(20, CONFIG, loss=[6.0] * 20)) is None


def test_a_row_for_each_update_is_averaged() -> None:
    """Four workers deliver four batches at once: every fourth update waits for 90 % of its time."""
    waits = np.where(np.arange(400) % 4 == 0, 90.0, 3.0)
    assert starved_loader(made(1, CONFIG, data_wait=waits)) is not None
