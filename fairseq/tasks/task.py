"""The interface of a task that the engine relies on."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from fairseq.data.audio.corpora import Share
from fairseq.data.batch import Batch
from fairseq.data.fairseq_dataset import FairseqDataset
from fairseq.data.iterators import EpochBatchIterator
from fairseq.data.options import BatchLimits, LoaderOptions
from fairseq.models.fairseq_model import BaseFairseqModel


class Task(Protocol):
    """Data sets by split, iterators over them, and the model and criterion that learn from them.

    FairseqTask, the base class of registered tasks, implements all of it.
    """

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz."""
        ...

    @property
    def max_quarantined_share(self) -> float:
        """Largest share of files that cannot be decoded; above it the run stops."""
        ...

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora that metrics are logged of; empty if there is only one."""
        ...

    # -- data ----------------------------------------------------------------------------------------------------------

    def load_dataset(self, split: str, task_cfg: Any = None, combine: bool = False) -> None:
        """Load a split.

        Raises:
            ValueError: the split cannot be read.
        """
        ...

    def dataset(self, split: str) -> FairseqDataset:
        """Return the data set of a loaded split."""
        ...

    def batch_iterator(
        self, dataset: FairseqDataset, limits: BatchLimits, options: LoaderOptions, epoch: int = 1
    ) -> EpochBatchIterator:
        """Create an iterator over epochs of updates.

        Raises:
            ValueError: the limits allow no batch.
        """
        ...

    def corpus_shares(self, split: str) -> list[tuple[str, Share]]:
        """Return the corpora of a split, and how much each contributes to an epoch of training."""
        ...

    def data_fingerprint(self) -> dict[str, str]:
        """Return a digest of each split's listing."""
        ...

    def split_source(self, split: str) -> str:
        """Return the source of a split for messages."""
        ...

    def utterance_name(self, split: str, index: int) -> str:
        """Return the name of an utterance of a split for messages."""
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
        """Evaluate a batch; return (summed loss, sample size, logging output)."""
        ...

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: nn.Module) -> None:
        """Let the criterion compute metrics from its logging outputs, and log them."""
        ...

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def adapted_weights(self, state: dict[str, Any], model: nn.Module, only_weights: bool) -> dict[str, Tensor]:
        """Return a checkpoint's weights adapted to this task's model."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the task state that checkpoints save."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the task state of a checkpoint."""
        ...
