"""Epochs of updates: order, sharding, workers, and continuing in the middle."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.batch_workers import WorkerDied
from fairseq.data.iterators import EpochBatchIterator, UpdateIterator, sensible_workers
from fairseq.data.options import BatchLimits, LoaderOptions
from tests.unit.data.small_corpus import make_dataset

LIMITS = BatchLimits(max_tokens=11_000)


def make_iterator(dataset: FileAudioDataset, **options: Any) -> EpochBatchIterator:
    epoch, freq = options.pop("epoch", 1), options.pop("update_freq", 1)
    update_freq = (freq,) if isinstance(freq, int) else tuple(freq)
    loader = LoaderOptions(update_freq=update_freq, **options)
    return EpochBatchIterator(dataset, lambda number: dataset.batches(number, LIMITS), loader, epoch)


def content(sample: dict[str, Any]) -> tuple:
    """All that a batch holds, comparable."""
    return (
        sample["micro"],
        sample["num_valid"],
        *[(name, tensor.numpy().tobytes()) for name, tensor in sorted(sample["net_input"].items())],
    )


def real_content(updates: list[list[dict[str, Any]]]) -> list[list[tuple]]:
    """For each update its batches that count, by micro number."""
    return [sorted(content(sample) for sample in update if sample["num_valid"]) for update in updates]


def ids_of(updates: list[list[dict[str, Any]]]) -> list[int]:
    return [i for update in updates for sample in update for i in sample["id"][: sample["num_valid"]].tolist()]


def test_an_epoch_holds_everything_once_in_an_order_of_its_own(manifest: Path) -> None:
    iterator = make_iterator(make_dataset(manifest), update_freq=2)
    epochs = [[sample for update in iterator.next_epoch_itr() for sample in update] for _ in range(2)]
    for samples in epochs:
        assert sorted(ids_of([samples])) == list(range(20))
    assert ids_of([epochs[0]]) != ids_of([epochs[1]])
    assert iterator.epoch == 2 and iterator.end_of_epoch() and iterator.next_epoch_idx == 3
    again = make_iterator(make_dataset(manifest), update_freq=2, epoch=2)
    assert [content(s) for update in again.next_epoch_itr() for s in update] == [content(s) for s in epochs[1]]
    other_seed = make_iterator(make_dataset(manifest, seed=2), update_freq=2, epoch=2, seed=2)
    assert [content(s) for update in other_seed.next_epoch_itr() for s in update] != [content(s) for s in epochs[1]]


def test_counts(manifest: Path) -> None:
    iterator = make_iterator(make_dataset(manifest), update_freq=3)
    batches = len(iterator.batches(1))
    assert len(iterator) == -(-batches // 3) and iterator.n == 0
    updates = iterator.next_epoch_itr()
    assert len(updates) == updates.total == len(iterator)
    next(updates)
    assert (updates.n, iterator.n, len(updates)) == (1, 1, len(iterator) - 1) and updates.has_next()
    rest = list(updates)
    assert not updates.has_next() and iterator.end_of_epoch() and len(updates) == 0
    assert iterator.iterations_in_epoch == batches == 3 + sum(map(len, rest))


@pytest.mark.parametrize("options", [{}, {"pad": True}, {"pad": True, "num_buckets": 3}])
@pytest.mark.parametrize("world_size, update_freq", [(2, 2), (4, 1)])
def test_an_update_does_not_depend_on_how_it_is_shared_out(
    manifest: Path, options: dict, world_size: int, update_freq: int
) -> None:
    alone = list(make_iterator(make_dataset(manifest, **options), update_freq=4).next_epoch_itr())
    ranks = []
    for rank in range(world_size):
        iterator = make_iterator(
            make_dataset(manifest, **options), num_shards=world_size, shard_id=rank, update_freq=update_freq
        )
        ranks.append(list(iterator.next_epoch_itr()))
    assert len({len(updates) for updates in ranks}) == 1
    together = [[sample for rank in ranks for sample in rank[u]] for u in range(len(ranks[0]))]
    assert real_content(together) == real_content(alone)
    for update in zip(*ranks, strict=True):
        assert len({len(steps) for steps in update}) == 1, "a rank has more steps than another"
        for step in zip(*update, strict=True):
            assert len({sample["micro"] for sample in step}) == world_size
            if "num_buckets" in options:
                assert len({sample["net_input"]["source"].shape for sample in step}) == 1


@pytest.mark.parametrize("pad", [False, True])
def test_the_number_of_workers_changes_nothing(manifest: Path, pad: bool) -> None:
    found = []
    for workers in (0, 1, 2):
        iterator = make_iterator(make_dataset(manifest, pad=pad), update_freq=2, num_workers=workers, buffer_size=5)
        found.append([content(s) for _ in range(2) for update in iterator.next_epoch_itr() for s in update])
    assert found[0] == found[1] == found[2]


def test_spawned_workers(manifest: Path) -> None:
    plain = [content(s) for update in make_iterator(make_dataset(manifest)).next_epoch_itr() for s in update]
    spawned = make_iterator(make_dataset(manifest), num_workers=1, start_method="spawn").next_epoch_itr()
    assert [content(s) for update in spawned for s in update] == plain


def test_loading_leaves_torchs_generator_alone(manifest: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    list(make_iterator(make_dataset(manifest), num_workers=1).next_epoch_itr())
    assert torch.rand(1) == expected


def test_evaluation_is_the_same_each_epoch_and_training_is_not(manifest: Path) -> None:
    iterator = make_iterator(make_dataset(manifest), evaluation=True)
    first, second = ([content(s) for update in iterator.next_epoch_itr() for s in update] for _ in range(2))
    assert first == second and iterator.epoch == 2
    training = make_iterator(make_dataset(manifest))
    by_id = []
    for _ in range(2):
        rows = {}
        for update in training.next_epoch_itr():
            for sample in update:
                rows |= dict(zip(sample["id"].tolist(), sample["net_input"]["mask_indices"].tolist(), strict=True))
        by_id.append(rows)
    assert all(by_id[0][i] != by_id[1][i] for i in range(20))


def test_without_shuffle_batches_keep_the_order_of_length(manifest: Path) -> None:
    iterator = make_iterator(make_dataset(manifest))
    lengths = [s["net_input"]["source"].shape[1] for update in iterator.next_epoch_itr(shuffle=False) for s in update]
    assert lengths == sorted(lengths, reverse=True)


def test_first_batch(manifest: Path) -> None:
    iterator = make_iterator(make_dataset(manifest))
    batch = iterator.first_batch
    assert batch["net_input"]["source"].shape[0] == len(batch["id"]) and iterator.n == 0


# -- continuing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"pad": True, "num_buckets": 3}])
@pytest.mark.parametrize("done", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_continuing_gives_what_an_unbroken_run_gives(manifest: Path, options: dict, done: int, workers: int) -> None:
    unbroken = make_iterator(make_dataset(manifest, **options), update_freq=2)
    expected = [[content(s) for s in update] for _ in range(3) for update in unbroken.next_epoch_itr()]
    broken = make_iterator(make_dataset(manifest, **options), update_freq=2, num_workers=workers)
    list(broken.next_epoch_itr())
    updates = broken.next_epoch_itr()
    for _ in range(done):
        next(updates)
    state, iterations = broken.state_dict(), broken.iterations_in_epoch
    updates.close()
    assert state["epoch"] == 2 and state["iterations_in_epoch"] == iterations
    continued = make_iterator(make_dataset(manifest, **options), update_freq=2, num_workers=workers)
    continued.load_state_dict(state)
    assert (continued.n, continued.epoch, continued.next_epoch_idx) == (done, 2, 2)
    assert continued.state_dict() == state
    found = [[content(s) for s in update] for _ in range(2) for update in continued.next_epoch_itr()]
    assert found == expected[len(expected) - len(found) :]
    assert continued.iterations_in_epoch == unbroken.iterations_in_epoch


@pytest.mark.parametrize("done", [1, 3, None])
def test_an_update_that_is_taken_back_is_the_next_one(manifest: Path, done: int | None) -> None:
    """Of the first epoch's updates the last one handed out was not trained; None: it was the epoch's last."""
    iterator = make_iterator(make_dataset(manifest), update_freq=2)
    updates = iterator.next_epoch_itr()
    taken = [next(updates) for _ in range(len(updates) if done is None else done)]
    iterator.take_back(taken[-1])
    continued = make_iterator(make_dataset(manifest), update_freq=2)
    continued.load_state_dict(iterator.state_dict())
    assert continued.next_epoch_idx == 1
    assert real_content([next(continued.next_epoch_itr())]) == real_content([taken[-1]])


def test_a_state_of_the_end_of_an_epoch_begins_the_next(manifest: Path) -> None:
    iterator = make_iterator(make_dataset(manifest), update_freq=2)
    list(iterator.next_epoch_itr())
    state = iterator.state_dict()
    assert (state["epoch"], state["batches_in_epoch"]) == (2, 0)
    expected = [content(s) for update in iterator.next_epoch_itr() for s in update]
    continued = make_iterator(make_dataset(manifest), update_freq=2)
    continued.load_state_dict(state)
    assert [content(s) for update in continued.next_epoch_itr() for s in update] == expected


@pytest.mark.parametrize("options", [{}, {"pad": True, "num_buckets": 3}])
def test_no_batch_is_lost_when_processes_or_update_freq_change(manifest: Path, options: dict) -> None:
    """One process with update_freq 2, then two with 2, then one with 1, all in one epoch."""
    seen: list[int] = []
    state = None
    for world_size, update_freq, updates_done in [(1, 2, 1), (2, 2, 1), (1, 1, None)]:
        states = []
        for rank in range(world_size):
            iterator = make_iterator(
                make_dataset(manifest, **options), num_shards=world_size, shard_id=rank, update_freq=update_freq
            )
            if state is not None:
                iterator.load_state_dict(state)
            updates = iterator.next_epoch_itr()
            taken = list(updates) if updates_done is None else [next(updates) for _ in range(updates_done)]
            seen += ids_of(taken)
            states.append({key: value for key, value in iterator.state_dict().items() if key != "iterations_in_epoch"})
        assert all(other == states[0] for other in states)
        state = iterator.state_dict()
    assert Counter(seen) == Counter(range(20))


def test_changed_data_are_not_continued_silently(manifest: Path) -> None:
    iterator = make_iterator(make_dataset(manifest))
    next(iterator.next_epoch_itr())
    changed = make_iterator(make_dataset(manifest, min_sample_size=4000))
    with pytest.raises(ValueError, match="reset_dataloader"):
        changed.load_state_dict(iterator.state_dict())


def test_a_state_of_fairseqs(manifest: Path) -> None:
    expected = [content(s) for update in make_iterator(make_dataset(manifest)).next_epoch_itr() for s in update]
    iterator = make_iterator(make_dataset(manifest), num_shards=2, shard_id=0)
    iterator.load_state_dict({"version": 2, "epoch": 1, "iterations_in_epoch": 2, "shuffle": True})
    (first,) = next(iterator.next_epoch_itr())
    assert content(first)[2:] == expected[4][2:]
    iterator.load_state_dict({"epoch": 5, "iterations_in_epoch": 999})  # its epoch had more batches: it is over
    assert iterator.epoch == 6


def test_update_freq_of_each_epoch_and_remainders(manifest: Path) -> None:
    iterator = make_iterator(make_dataset(manifest), update_freq=[1, 3])
    batches = len(iterator.batches(1))
    assert [len(iterator.next_epoch_itr()), batches] == [batches, batches]
    for _ in iterator._current:
        pass
    assert len(iterator.next_epoch_itr()) == -(-batches // 3)
    size = batches - 1
    cut = make_iterator(make_dataset(manifest), update_freq=size, skip_remainder_batch=True)
    assert [len(update) for update in cut.next_epoch_itr()] == [size]


# -- workers -----------------------------------------------------------------------------------------------------------


class Broken:
    """Stands for a data set whose third batch goes wrong."""

    def __init__(self, failure: Any) -> None:
        self.failure = failure

    def __call__(self, plan: Any) -> dict:
        if plan.micro == 2:
            self.failure()
        return {"micro": plan.micro}


def iterate(failure: Any, workers: int) -> list:
    from fairseq.data.batching import BatchPlan

    plans = [[BatchPlan(np.zeros(1, dtype=np.int64), 1, 1, 0, 1, micro)] for micro in range(6)]
    return list(UpdateIterator(Broken(failure), iter(plans), len(plans), options=LoaderOptions(num_workers=workers)))


def user_mistake() -> None:
    raise ValueError("a.flac has a sample rate of 8000 Hz")


def program_mistake() -> None:
    raise KeyError("a bug")


def sudden_death() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_users_mistake_comes_without_the_workers_traceback(workers: int) -> None:
    with pytest.raises(ValueError, match="^a.flac has a sample rate of 8000 Hz$"):
        iterate(user_mistake, workers)


def test_a_bug_comes_with_it() -> None:
    with pytest.raises(KeyError, match="a bug"):
        iterate(program_mistake, 0)
    with pytest.raises(RuntimeError, match=r"(?s)worker failed.*in program_mistake.*KeyError: 'a bug'"):
        iterate(program_mistake, 2)


def test_a_dead_worker_says_what_to_do() -> None:
    with pytest.raises(WorkerDied, match="was killed by SIGKILL.*dataset.num_workers=0"):
        iterate(sudden_death, 1)


def ignores_the_trainers_signals() -> None:
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)


def test_workers_leave_signals_to_the_trainer() -> None:
    assert len(iterate(ignores_the_trainers_signals, 1)) == 6


def test_workers_are_capped(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("fairseq.data.update_iterator.available_cores", lambda: 8)
    assert [sensible_workers(6, 1), sensible_workers(0, 8), sensible_workers(2, 4)] == [6, 0, 2]
    assert not caplog.records
    assert [sensible_workers(6, 4), sensible_workers(6, 100)] == [2, 1]
    assert "dataset.num_workers is 6, but 8 cores are shared by 4 process(es): using 2" in caplog.text
