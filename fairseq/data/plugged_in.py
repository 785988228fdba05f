"""Adapt data sets with fairseq's interface, such as those of plug-ins, to the engine.

In fairseq, a data set returns samples, and its collater builds a batch from them. Here, a worker builds a whole batch
from a plan, with keyed crops and masks (`collate_plan`). The adapter implements the latter with the former.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from fairseq import utils
from fairseq.data.audio_dataset import AudioDataset
from fairseq.data.batch import Batch, NetInput
from fairseq.data.batching import EVALUATION_EPOCH, Batches, BatchPlan, cut_batches
from fairseq.data.options import BatchLimits
from fairseq.masks.batch import Drawn, Rows, draw_masks
from fairseq.masks.settings import Masks

_ORDER, _SAMPLE, _COLLATER = 1, 5, 6  # third numbers of keys


class SampleDataset(Protocol):
    """The minimum interface of a fairseq data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def size(self, index: int) -> Any:
        """Return the number of samples of an utterance; or several sizes, the source's first."""
        ...

    def collater(self, samples: list[Any]) -> Any:
        """Collate results of `__getitem__` into a dict with `net_input`, the model's arguments including `source`."""
        ...


def as_audio_dataset(dataset: AudioDataset | SampleDataset) -> AudioDataset:
    """Return the data set itself if it builds batches from plans, else an adapter around it.

    A subclass of this package's data sets that overrides `__getitem__` or `collater`, as fairseq's plug-ins do, also
    gets the adapter, because `collate_plan` would not call them.
    """
    plans = _definer(dataset, "collate_plan")
    by_sample = [_definer(dataset, name) for name in ("__getitem__", "collater")]
    if plans is not None and all(cls is None or issubclass(plans, cls) for cls in by_sample):
        return cast(AudioDataset, dataset)
    return PluggedInDataset(cast(SampleDataset, dataset))


def _definer(value: object, name: str) -> type | None:
    """Return the class that defines this method of a value; None if there isn't one."""
    return next((cls for cls in type(value).__mro__ if name in vars(cls)), None)


class PluggedInDataset:
    """Adapter that plans and builds batches with a data set's samples and collater.

    The generators of numpy, torch and Python are seeded by seed, epoch and index before the data set uses them, so
    results do not depend on the number of workers or on whether a run was resumed. If the data set has them,
    `set_epoch`, `ordered_indices`, `num_tokens` and `batch_by_size` are used.

    The adapter cannot create filler rows. With several processes, the last batches of an epoch are dropped if there is
    not one for each process.

    Args:
        dataset: the data set.
    """

    makes_filler = False

    def __init__(self, dataset: SampleDataset) -> None:
        self.dataset = dataset
        self.seed = 1
        self.masks: Masks | None = None
        self._tokens: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def size(self, index: int) -> int:
        return _first(self.dataset.size(index))

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: int) -> tuple[np.ndarray, list[int]]:
        fits = np.array([self.size(index) <= max_sizes for index in indices.tolist()], dtype=bool)
        return indices[fits], indices[~fits].tolist()

    def set_epoch(self, epoch: int) -> None:
        listen = getattr(self.dataset, "set_epoch", None)
        if listen is not None:
            listen(epoch)

    def set_masks(self, masks: Masks | None) -> None:
        self.masks = masks

    # -- plans ---------------------------------------------------------------------------------------------------------

    def batches(self, epoch: int, limits: BatchLimits) -> Batches:
        """Split an epoch into batches, in the data set's order and by its own `batch_by_size` if it has one."""
        order = self._order(epoch)
        if limits.max_size is not None:
            order, _ = self.filter_indices_by_size(order, limits.max_size)
        limits.check(int(self.tokens[order].max(initial=0)))
        batch_by_size = getattr(self.dataset, "batch_by_size", None)
        if batch_by_size is not None:
            parts = batch_by_size(
                order,
                max_tokens=limits.max_tokens,
                max_sentences=limits.max_sentences,
                required_batch_size_multiple=limits.multiple,
            )
            order = np.concatenate([order[:0], *(np.asarray(part, dtype=np.int64) for part in parts)])
            ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        else:
            ends = cut_batches(self.tokens[order], limits)
        rows = np.diff(ends, prepend=0)
        lengths = np.maximum.reduceat(self.tokens[order], ends - rows) if len(ends) else ends
        return Batches(order, ends, rows, lengths, np.zeros_like(ends))

    def _order(self, epoch: int) -> np.ndarray:
        ordered_indices = getattr(self.dataset, "ordered_indices", None)
        if ordered_indices is None:
            return np.arange(len(self), dtype=np.int64)
        if epoch != EVALUATION_EPOCH:
            self.set_epoch(epoch)
        with _keyed(self.seed, epoch, _ORDER):
            return np.asarray(ordered_indices(), dtype=np.int64)

    @property
    def tokens(self) -> np.ndarray:
        """Size of each utterance for `dataset.max_tokens`, int64; cached."""
        if self._tokens is None:
            count = getattr(self.dataset, "num_tokens", self.dataset.size)
            self._tokens = np.array([_first(count(index)) for index in range(len(self))], dtype=np.int64)
        return self._tokens

    def total_samples(self, batches: Batches, epoch: int) -> int:
        return int(self.tokens[batches.indices].sum())

    # -- one batch -----------------------------------------------------------------------------------------------------

    def collate_plan(self, plan: BatchPlan) -> Batch:
        """Return the collater's batch with the engine's fields, and with masks unless the collater added them.

        Raises:
            ValueError: the collater's batch has no audio.
        """
        assert plan.num_valid == len(plan.indices), "the plan has filler, but this data set cannot create it"
        samples = []
        for index in plan.indices.tolist():
            with _keyed(self.seed, plan.epoch, _SAMPLE, index):
                samples.append(self.dataset[index])
        with _keyed(self.seed, plan.epoch, _COLLATER, int(plan.indices[0])):
            made = self.dataset.collater(samples)
        source = made["net_input"].get("source") if made and "net_input" in made else None
        if not isinstance(source, Tensor):
            raise ValueError(
                f"{type(self.dataset).__name__}.collater must return a dict whose net_input has the tensor source, "
                f"but for utterances {plan.indices.tolist()} it returned {_shown(made)}."
            )
        ids = made.get("id", plan.indices)
        lengths = _row_lengths(made["net_input"], self.tokens[plan.indices])
        drawn = self._drawn(made["net_input"], torch.as_tensor(ids).tolist(), lengths, plan)
        batch = {
            **made,
            "id": torch.as_tensor(ids),
            "net_input": {**made["net_input"], **drawn.inputs},
            "micro": plan.micro,
            "num_valid": len(source),
            "num_samples": int(lengths.sum()),
            "quarantined": [],
            "few_masked": drawn.few_masked,
            "num_masked": drawn.num_masked,
            "num_frames": drawn.num_frames,
            "whole": [True] * len(source),
        }
        return cast(Batch, batch)

    def _drawn(self, net_input: NetInput, ids: list[int], lengths: np.ndarray, plan: BatchPlan) -> Drawn:
        """Draw the masks of raw audio, B x S, that has none."""
        if net_input["source"].dim() != 2 or "mask_indices" in net_input:
            return Drawn({})
        generators = [np.random.default_rng([self.seed, plan.epoch, key]) for key in ids]
        rows = Rows(net_input["source"].size(1), lengths, len(ids), generators, plan.epoch == EVALUATION_EPOCH)
        return draw_masks(self.masks, rows)


@contextlib.contextmanager
def _keyed(*key: int) -> Iterator[None]:
    """Run a block with the generators of numpy, torch and Python seeded by these numbers, then restore them."""
    states = np.random.get_state(), torch.default_generator.get_state(), random.getstate()
    seed = utils.keyed_seed(*key)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(states[0])
        torch.default_generator.set_state(states[1])
        random.setstate(states[2])


def _first(size: Any) -> int:
    return int(np.asarray(size).reshape(-1)[0])


def _row_lengths(net_input: NetInput, tokens: np.ndarray) -> np.ndarray:
    """Return the samples of each row, int64, B: from its padding, or from `tokens` if it is not raw audio."""
    source, padding = net_input["source"], net_input.get("padding_mask")
    if source.dim() != 2:
        return tokens
    if padding is None:
        return np.full(len(source), source.size(1), dtype=np.int64)
    return source.size(1) - padding.long().sum(dim=1).numpy()


def _shown(made: Any) -> str:
    return f"a dict of {', '.join(map(str, made)) or 'nothing'}" if isinstance(made, dict) else repr(made)
