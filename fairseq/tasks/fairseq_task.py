"""What all tasks offer to trainers and commands."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fairseq.data.batching import Batches
from fairseq.data.fairseq_dataset import FairseqDataset
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.checks import refuse

logger = logging.getLogger(__name__)


class StatefulContainer:
    """What a task makes once and checkpoints keep, such as dictionaries; made on first use by the factory of its
    name.
    """

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
        if name.startswith("_"):  # not ours: copying and pickling ask for such names before __init__ has run
            raise AttributeError(name)
        if name not in self._state and name in self._factories:
            self._state[name] = self._factories[name]()
        if name not in self._state:
            raise AttributeError(f"the task's state has no {name!r}, nor a factory for it")
        return self._state[name]


class FairseqTask:
    """Data sets by split, iterators over them, and the model and criterion that learn from them.

    Args:
        cfg: the config group `task`, complete.
    """

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> FairseqTask:
        """Make the task; subclasses load here what they need first, such as dictionaries."""
        return cls(cfg)

    @staticmethod
    def logging_outputs_can_be_summed(criterion: Any) -> bool:
        """Whether what the criterion logs may be added up over processes; here it always may."""
        return criterion.logging_outputs_can_be_summed()

    def __init__(self, cfg: Any, **kwargs: Any) -> None:
        refuse(cfg, "task", type(self))
        self.cfg = cfg
        self.datasets: dict[str, FairseqDataset] = {}
        self.state = StatefulContainer()

    # -- data ----------------------------------------------------------------------------------------------------------

    def load_dataset(self, split: str, task_cfg: Any = None, combine: bool = False, **kwargs: Any) -> None:
        """Load a split (train, valid, ...) into `datasets`."""
        raise NotImplementedError

    def dataset(self, split: str) -> FairseqDataset:
        """A split that has been loaded.

        Raises:
            KeyError: it has not.
        """
        if split not in self.datasets:
            raise KeyError(f"the split {split!r} has not been loaded; these have: {', '.join(self.datasets) or 'none'}")
        return self.datasets[split]

    def data_fingerprint(self) -> dict[str, str]:
        """Split -> digest of what it lists, the same wherever the data lies."""
        return {}

    def utterance_name(self, split: str, index: int) -> str:
        """What logs call an utterance of a split."""
        return f"{split}:{index}"

    def split_source(self, split: str) -> str:
        """What messages call a split: where it comes from."""
        return f"the split {split!r}"

    def filter_indices_by_size(
        self, indices: Any, dataset: FairseqDataset, max_positions: Any = None, ignore_invalid_inputs: bool = False
    ) -> Any:
        """`indices` without samples that are longer than `max_positions`.

        Raises:
            ValueError: there are some, and `ignore_invalid_inputs` is off.
        """
        from fairseq.data.data_utils import filter_by_size

        return filter_by_size(indices, dataset, max_positions, raise_exception=not ignore_invalid_inputs)

    def batches(
        self,
        dataset: Any,
        epoch: int,
        max_tokens: int | None,
        max_sentences: int | None,
        required_batch_size_multiple: int,
        max_size: int | None,
    ) -> Batches:
        """Cut an epoch of a data set into batches; the same on every process."""
        return dataset.batches(epoch, max_tokens, max_sentences, required_batch_size_multiple, max_size)

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
        update_freq: int | list[int] = 1,
        shuffle: bool = True,
        start_method: str | None = None,
        skip_remainder_batch: bool = False,
        pin_memory: bool = False,
    ) -> EpochBatchIterator:
        """Iterator over epochs of updates of a data set, for one of `num_shards` processes.

        Args:
            max_tokens: most audio samples a batch, padding included; None: no limit.
            max_sentences: most utterances a batch; None: no limit.
            max_positions: longer samples are an error, or left out with `ignore_invalid_inputs`; None: there is no such
                limit.
            seed: with epoch and utterance, the key of order, crops and masks.
            data_buffer_size: batches to make ahead of time.
            update_freq: batches an update and process; a list gives one for each epoch, the last for all further ones.
            shuffle: for training; else for evaluation, whose batches, crops, masks and negatives are the same each
                time.
            start_method: how worker processes start.
        Raises:
            ValueError: a sample is too long, or the limits allow no batch.
        """
        dataset.seed = seed
        max_size = self._largest_size(dataset, max_positions, ignore_invalid_inputs)

        def plan(epoch: int) -> Batches:
            return self.batches(dataset, epoch, max_tokens, max_sentences, required_batch_size_multiple, max_size)

        return EpochBatchIterator(
            dataset,
            plan,
            seed=seed,
            num_shards=num_shards,
            shard_id=shard_id,
            num_workers=num_workers,
            epoch=epoch,
            buffer_size=data_buffer_size,
            update_freq=update_freq,
            fixed=not shuffle,
            skip_remainder_batch=skip_remainder_batch,
            start_method=start_method,
            pin_memory=pin_memory,
        )

    def _largest_size(self, dataset: Any, max_positions: Any, ignore_invalid_inputs: bool) -> int | None:
        """The limit that batches are cut under; None if no sample exceeds `max_positions`."""
        if max_positions is None:
            return None
        import numpy as np

        everything = np.arange(len(dataset))
        kept = self.filter_indices_by_size(everything, dataset, max_positions, ignore_invalid_inputs)
        if len(kept) == len(everything):
            return None
        return int(max_positions if isinstance(max_positions, (int, float)) else max_positions[0])

    # -- model and loss ------------------------------------------------------------------------------------------------

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model that the config group `model` names."""
        from fairseq import models

        return models.build_model(cfg, self, from_checkpoint)

    def build_criterion(self, cfg: Any) -> nn.Module:
        """Build the criterion that the config group `criterion` names."""
        from fairseq import criterions

        return criterions.build_criterion(cfg, self)

    def valid_step(
        self, sample: dict[str, Any], model: nn.Module, criterion: nn.Module
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Evaluate a batch: (summed loss, sample size, what is logged)."""
        model.eval()
        with torch.no_grad():
            return criterion(model, sample)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log what the criterion makes of its logging outputs."""
        criterion.reduce_metrics(logging_outputs)

    def adapted_weights(self, state: dict[str, Any], model: nn.Module, only_weights: bool) -> dict[str, Tensor]:
        """The weights of a checkpoint as they fit this task's model; `state` stays as it is.

        Args:
            only_weights: optimizer and schedule start anew, so weights may be replaced.
        """
        return state["model"]

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return self.state.state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state.merge_state_dict(state_dict)

    def max_positions(self) -> Any:
        """Longest input that the task allows; None: any."""
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
        args: the arguments, which stay as they are.
    """

    @classmethod
    def setup_task(cls, cfg: Namespace, **kwargs: Any) -> LegacyFairseqTask:
        """Make the task of old command-line arguments."""
        return cls(cfg, **kwargs)

    def __init__(self, args: Namespace, **kwargs: Any) -> None:
        super().__init__(None)
        self.args = args
        self.dataset_to_epoch_iter: dict[Any, EpochBatchIterator] = {}

    def has_sharded_data(self, split: str) -> bool:
        """Whether `args.data` names several folders."""
        return os.pathsep in (vars(self.args).get("data") or "")
