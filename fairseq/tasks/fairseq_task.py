"""The base class of tasks: the interface that trainers and commands use."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from fairseq.data.audio.corpora import Share
from fairseq.data.audio_dataset import AudioDataset
from fairseq.data.batch import Batch
from fairseq.data.batching import Batches
from fairseq.data.data_utils import filter_by_size
from fairseq.data.fairseq_dataset import FairseqDataset
from fairseq.data.iterators import EpochBatchIterator
from fairseq.data.options import BatchLimits, LoaderOptions
from fairseq.data.plugged_in import as_audio_dataset
from fairseq.dataclass.checks import refuse
from fairseq.masks.settings import Masks
from fairseq.models.fairseq_model import BaseFairseqModel

logger = logging.getLogger(__name__)


class StatefulContainer:
    """Task state that checkpoints save, such as dictionaries; a factory creates each item on first use."""

    def __init__(self) -> None:
        self._state: dict[str, Any] = {}
        self._factories: dict[str, Callable[[], Any]] = {}

    def add_factory(self, name: str, factory: Callable[[], Any]) -> None:
        self._factories[name] = factory

    def merge_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state.update(state_dict)

    @property
    def state_dict(self) -> dict[str, Any]:
        return self._state

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and pickling look up such names before __init__ has run
            raise AttributeError(name)
        if name not in self._state and name in self._factories:
            self._state[name] = self._factories[name]()
        if name not in self._state:
            raise AttributeError(f"the task's state has no {name!r}, and no factory for it")
        return self._state[name]


@runtime_checkable
class HasDictionaryFile(Protocol):
    """A task that reads the symbols of an output layer from a file, unless a checkpoint has them.

    Only a method: a check of `target_dictionary` would read the file.
    """

    def dictionary_path(self) -> str: ...


class FairseqTask:
    """Data sets by split, iterators over them, and the model and criterion that learn from them.

    Args:
        cfg: the complete config group `task`.
    """

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> FairseqTask:
        """Create the task; subclasses load here what they need first, such as dictionaries."""
        return cls(cfg)

    @staticmethod
    def logging_outputs_can_be_summed(criterion: Any) -> bool:
        """Return whether the criterion's logging outputs can be summed over processes; here always True."""
        return criterion.logging_outputs_can_be_summed()

    def __init__(self, cfg: Any, **kwargs: Any) -> None:
        refuse(cfg, "task", type(self))
        self.cfg = cfg
        self.datasets: dict[str, FairseqDataset] = {}
        self.state = StatefulContainer()

    # -- data ----------------------------------------------------------------------------------------------------------

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz, to log durations in seconds."""
        return 16_000

    @property
    def max_quarantined_share(self) -> float:
        """Largest share of files that cannot be decoded; above it the run stops."""
        return 0.0

    def load_dataset(self, split: str, task_cfg: Any = None, combine: bool = False, **kwargs: Any) -> None:
        """Load a split (train, valid, ...) into `datasets`."""
        raise NotImplementedError

    def dataset(self, split: str) -> FairseqDataset:
        """Return the data set of a loaded split.

        Raises:
            KeyError: the split has not been loaded.
        """
        if split not in self.datasets:
            raise KeyError(f"the split {split!r} has not been loaded; loaded: {', '.join(self.datasets) or 'none'}")
        return self.datasets[split]

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora that metrics are logged of; empty if there is only one."""
        return ()

    def corpus_shares(self, split: str) -> list[tuple[str, Share]]:
        """Return the corpora of a split, and how much each contributes to an epoch of training."""
        return []

    def data_fingerprint(self) -> dict[str, str]:
        """Return a digest of each split's listing, which does not depend on where the data is stored."""
        return {}

    def utterance_name(self, split: str, index: int) -> str:
        """Return the name of an utterance of a split in logs."""
        return f"{split}:{index}"

    def split_source(self, split: str) -> str:
        """Return the source of a split, such as a path, for messages."""
        return f"the split {split!r}"

    def filter_indices_by_size(
        self, indices: Any, dataset: AudioDataset, max_positions: Any = None, ignore_invalid_inputs: bool = False
    ) -> Any:
        """Remove samples that are longer than `max_positions` from `indices`.

        Raises:
            ValueError: a sample is too long, and `ignore_invalid_inputs` is false.
        """
        return filter_by_size(indices, dataset, max_positions, raise_exception=not ignore_invalid_inputs)

    def masks(self) -> Masks | None:
        """Return the settings of the masks that data-loading workers draw; None: batches without masks."""
        return None

    def batches(self, dataset: AudioDataset, epoch: int, limits: BatchLimits) -> Batches:
        """Split an epoch of a data set into batches; the result is the same on every process."""
        return dataset.batches(epoch, limits)

    def batch_iterator(
        self, dataset: FairseqDataset, limits: BatchLimits, options: LoaderOptions, epoch: int = 1
    ) -> EpochBatchIterator:
        """Call `get_batch_iterator`, which plug-in tasks can override; the engine uses this method.

        Raises:
            ValueError: see `get_batch_iterator`.
        """
        return self.get_batch_iterator(dataset=dataset, epoch=epoch, **limits.keywords(), **options.keywords())

    def get_batch_iterator(
        self,
        dataset: Any,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        max_positions: Any = None,
        ignore_invalid_inputs: bool = False,
        required_batch_size_multiple: int = 1,
        seed: int = 1,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        data_buffer_size: int = 0,
        update_freq: int | Sequence[int] = 1,
        shuffle: bool = True,
        start_method: str | None = None,
        skip_remainder_batch: bool = False,
        pin_memory: bool = False,
    ) -> EpochBatchIterator:
        """Create an iterator over a data set's epochs and updates for one of `num_shards` processes, as in fairseq.

        See BatchLimits for `max_tokens` to `required_batch_size_multiple`, and LoaderOptions for the rest.

        Args:
            dataset: a data set of this package, or one with fairseq's interface (see `fairseq.data.plugged_in`).
            max_positions: longer samples raise an error, or are dropped with `ignore_invalid_inputs`; None: no limit.
            shuffle: True for training; False for evaluation, where batches, crops, masks and negatives are the same
                each time.
        Raises:
            ValueError: a sample is too long, the limits allow no batch, or the mask settings are unknown.
        """
        options = LoaderOptions(
            seed=seed,
            num_shards=num_shards,
            shard_id=shard_id,
            update_freq=(update_freq,) if isinstance(update_freq, int) else tuple(update_freq),
            evaluation=not shuffle,
            skip_remainder_batch=skip_remainder_batch,
            num_workers=num_workers,
            buffer_size=data_buffer_size,
            start_method=start_method,
            pin_memory=pin_memory,
        )
        audio = as_audio_dataset(dataset)
        audio.seed = seed
        audio.set_masks(self.masks())
        max_size = self._largest_size(audio, max_positions, ignore_invalid_inputs)
        limits = BatchLimits(max_tokens, max_sentences, required_batch_size_multiple, max_size)
        return EpochBatchIterator(audio, lambda number: self.batches(audio, number, limits), options, epoch)

    def _largest_size(self, dataset: AudioDataset, max_positions: Any, ignore_invalid_inputs: bool) -> int | None:
        """Return the size limit to apply; None if no sample exceeds `max_positions`."""
        if max_positions is None:
            return None
        everything = np.arange(len(dataset))
        kept = self.filter_indices_by_size(everything, dataset, max_positions, ignore_invalid_inputs)
        if len(kept) == len(everything):
            return None
        return int(max_positions if isinstance(max_positions, (int, float)) else max_positions[0])

    # -- model and loss ------------------------------------------------------------------------------------------------

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Build the model that the config group `model` names."""
        from fairseq import models

        return models.build_model(cfg, self, from_checkpoint)

    def build_criterion(self, cfg: Any) -> nn.Module:
        """Build the criterion that the config group `criterion` names."""
        from fairseq import criterions

        return criterions.build_criterion(cfg, self)

    def valid_step(
        self, sample: Batch, model: nn.Module, criterion: nn.Module
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Evaluate a batch; return (summed loss, sample size, logging output)."""
        model.eval()
        with torch.no_grad():
            return criterion(model, sample)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Let the criterion compute metrics from its logging outputs, and log them."""
        criterion.reduce_metrics(logging_outputs)

    def adapted_weights(self, state: dict[str, Any], model: nn.Module, only_weights: bool) -> dict[str, Tensor]:
        """Return a checkpoint's weights adapted to this task's model; `state` is not changed.

        Args:
            state: the checkpoint.
            model: the model to load into.
            only_weights: optimizer and schedule are not resumed, so weights can be replaced.
        """
        return state["model"]

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return self.state.state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state.merge_state_dict(state_dict)

    def max_positions(self) -> Any:
        """Return the longest input that the task allows; None: no limit."""
        return None

    @property
    def source_dictionary(self) -> Any:
        return None

    @property
    def target_dictionary(self) -> Any:
        return None


class LegacyFairseqTask(FairseqTask):
    """A task that takes old command-line arguments instead of a config group.

    Args:
        args: the arguments, which are not changed.
    """

    @classmethod
    def setup_task(cls, cfg: Namespace, **kwargs: Any) -> LegacyFairseqTask:
        """Create the task from old command-line arguments."""
        return cls(cfg, **kwargs)

    def __init__(self, args: Namespace, **kwargs: Any) -> None:
        super().__init__(None)
        self.args = args
        self.dataset_to_epoch_iter: dict[Any, EpochBatchIterator] = {}

    def has_sharded_data(self, split: str) -> bool:
        """Return whether `args.data` names several folders."""
        return os.pathsep in (vars(self.args).get("data") or "")
