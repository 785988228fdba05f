"""Base class of audio data sets whose batches include labels."""

from __future__ import annotations

import numpy as np

from fairseq.data.audio.manifest import JoinedManifest
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.base_wrapper_dataset import BaseWrapperDataset
from fairseq.data.batching import Batches, BatchPlan
from fairseq.data.options import BatchLimits


class LabelledAudioDataset(BaseWrapperDataset):
    """Padded audio, and a label for each utterance, which subclasses add to `collate_plan`.

    Args:
        dataset: the audio.
    Raises:
        ValueError: the audio is not padded.
    """

    dataset: FileAudioDataset
    makes_filler = True

    def __init__(self, dataset: FileAudioDataset) -> None:
        super().__init__(dataset)
        if not dataset.pad:
            raise ValueError(
                "labels need padding (task.enable_padding=true): without it, audio is cropped to the shortest "
                "utterance of its batch, but labels are not."
            )

    @property
    def seed(self) -> int:
        return self.dataset.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.dataset.seed = seed

    @property
    def manifest(self) -> JoinedManifest:
        return self.dataset.manifest

    def name(self, index: int) -> str:
        """Return the name of an utterance in logs."""
        return self.dataset.name(index)

    def batches(self, epoch: int, limits: BatchLimits) -> Batches:
        return self.dataset.batches(epoch, limits)

    def total_samples(self, batches: Batches, epoch: int) -> int:
        return self.dataset.total_samples(batches, epoch)

    def expect_plan(self, plan: BatchPlan) -> None:
        """See `ReadsAhead`."""
        self.dataset.expect_plan(plan)

    def label_arrays(self) -> tuple[np.ndarray, ...]:
        """Return the arrays that hold the labels of all lines of the manifest; runs compare their checksum."""
        raise NotImplementedError
