"""What the engine asks of a task."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from fairseq.data.batch import Batch
from fairseq.data.fairseq_dataset import FairseqDataset
from fairseq.data.iterators import EpochBatchIterator
from fairseq.data.options import BatchLimits, LoaderOptions
from fairseq.models.fairseq_model import BaseFairseqModel


class Task(Protocol):
    """Data sets by split, iterators over them, and the model and criterion that learn from them. FairseqTask, which
    registered tasks extend, answers all of it.
    """

    @property
    def sample_rate(self) -> int:
        """Samples of a second of audio."""
        ...

    @property
    def max_quarantined_share(self) -> float:
        """A run stops when more than this share of its files cannot be decoded."""
        ...

    # -- data ----------------------------------------------------------------------------------------------------------

    def load_dataset(self, split: str, task_cfg: Any = None, combine: bool = False) -> None:
        """Load a split.

        Raises:
            ValueError: it cannot be read.
        """
        ...

    def dataset(self, split: str) -> FairseqDataset:
        """A split that has been loaded."""
        ...

    def batch_iterator(
        self, dataset: FairseqDataset, limits: BatchLimits, options: LoaderOptions, epoch: int = 1
    ) -> EpochBatchIterator:
        """Iterator over epochs of updates.

        Raises:
            ValueError: the limits allow no batch.
        """
        ...

    def data_fingerprint(self) -> dict[str, str]:
        """Split -> digest of what it lists."""
        ...

    def split_source(self, split: str) -> str:
        """What messages call a split."""
        ...

    def utterance_name(self, split: str, index: int) -> str:
        """What messages call an utterance of a split."""
        ...

    # -- model and loss ------------------------------------------------------------------------------------------------

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Build the model that the config group `model` names."""
        ...

    def build_criterion(self, cfg: Any) -> nn.Module:
        """Build the criterion that the config group `criterion` names."""
        ...

    def valid_step(
        self, sample: Batch, model: nn.Module, criterion: nn.Module
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Evaluate a batch: (summed loss, sample size, what is logged)."""
        ...

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: nn.Module) -> None:
        """Log what the criterion makes of its logging outputs."""
        ...

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def adapted_weights(self, state: dict[str, Any], model: nn.Module, only_weights: bool) -> dict[str, Tensor]:
        """The weights of a checkpoint as they fit this task's model."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of the task."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint kept."""
        ...
