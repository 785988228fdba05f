"""Utterances with one class each. Letter: B utterances."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.batch import Batch
from fairseq.data.batching import BatchPlan
from fairseq.data.labelled_audio import LabelledAudioDataset
from fairseq.data.mapped import shared
from fairseq.frames import ConvSpec, frames_for_samples, receptive_field
from fairseq.masks.settings import Masks

logger = logging.getLogger(__name__)

_SHOWN = 5  # utterances that an error lists


class ClassTargetDataset(LabelledAudioDataset):
    """Padded audio whose batches include a class per utterance. A crop of an utterance has the class of the whole.

    Args:
        dataset: padded audio.
        classes: the class of every utterance of the manifest, int, including those that `dataset` skips.
    Raises:
        ValueError: the audio is not padded.
    """

    def __init__(self, dataset: FileAudioDataset, classes: np.ndarray) -> None:
        super().__init__(dataset)
        assert len(classes) == len(dataset.manifest), "one class per line of the manifest"
        self.classes = shared(classes.astype(np.int32))
        self._checked_layers: tuple[ConvSpec, ...] | None = None

    def set_masks(self, masks: Masks | None) -> None:
        """Set the masks of the audio, and check that every utterance has a frame of the masks' feature extractor.

        Raises:
            ValueError: an utterance has none.
        """
        self.dataset.set_masks(masks)
        if masks is not None and masks.conv_layers != self._checked_layers:
            self._check_frames(masks.conv_layers)
            self._checked_layers = masks.conv_layers
            if self.dataset.augmentation is not None:  # a faster copy must keep a frame
                field, _ = receptive_field(masks.conv_layers)
                self.dataset.least_samples = shared(np.full(len(self), field, dtype=np.int64))

    def _check_frames(self, conv_layers: Sequence[ConvSpec]) -> None:
        frames = np.asarray(frames_for_samples(self.dataset.sizes, list(conv_layers)))
        short = np.flatnonzero(frames < 1)
        if len(short) == 0:
            return
        listed = "; ".join(f"{self.name(index)} ({self.dataset.sizes[index]})" for index in short[:_SHOWN].tolist())
        needed = receptive_field(conv_layers)[0]
        raise ValueError(
            f"{len(short)} of {len(self)} utterances have fewer samples than one frame of the model ({needed}): "
            f"{listed}. Set task.min_sample_size={needed} to skip them."
        )

    def label_arrays(self) -> tuple[np.ndarray, ...]:
        return (self.classes,)

    def label(self, index: int) -> int:
        """Return the class of an utterance."""
        return int(self.classes[self.dataset.selection.line(index)])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a whole utterance: {"id", "source": float32 S, "label": int64 1}."""
        return {**self.dataset[index], "label": torch.tensor([self.label(index)])}

    def collate_plan(self, plan: BatchPlan) -> Batch:
        """Create the audio's batch for a plan, and add the classes.

        Returns:
            The audio's batch, and
            target: int64, B x 1, as fairseq has it.
            target_lengths: int64, B, all 1.
            target_weights: float32, B, 1 for rows that count and 0 for filler.
            ntokens: rows that count.
        """
        sample = self.dataset.collate_plan(plan)
        lines = np.array([self.dataset.selection.line(index) for index in sample["id"].tolist()], dtype=np.int64)
        num_rows = len(lines)
        return {
            **sample,
            "target": torch.from_numpy(self.classes[lines].astype(np.int64)).unsqueeze(1),
            "target_lengths": torch.ones(num_rows, dtype=torch.int64),
            "target_weights": (torch.arange(num_rows) < plan.num_valid).float(),
            "ntokens": plan.num_valid,
        }

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate results of `__getitem__` into a batch, for tools that use the data set directly."""
        batch = self.dataset.collater(samples)
        if not batch:
            return batch
        target = torch.stack([sample["label"] for sample in samples if sample["source"] is not None])
        return {**batch, "target": target, "target_lengths": torch.ones(len(target)).long(), "ntokens": len(target)}
