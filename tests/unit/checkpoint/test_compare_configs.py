"""Which settings may change when a run is resumed."""

from __future__ import annotations

from omegaconf import OmegaConf

from fairseq.checkpoint.compare import _completed, differences


def test_the_cache_may_move_but_not_the_task() -> None:
    task = {"_name": "audio_pretraining", "data": "a", "cache_dir": None, "cache_gb": 10.0, "normalize": False}
    task = _completed("task", task)
    now = {**task, "data": "b", "cache_dir": "/cache", "cache_gb": 3.0, "normalize": True}
    found = differences({"task": task}, OmegaConf.create({"task": now, "model": None}), same_data=True)
    assert found == [("task.normalize", False, True)]
