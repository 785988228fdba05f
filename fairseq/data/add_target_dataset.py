"""Utterances with labels. Letters: B utterances, U units of a label."""

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
from fairseq.data.labels import Labels, find_unusable
from fairseq.data.mapped import shared
from fairseq.frames import ConvSpec, frames_for_samples, receptive_field
from fairseq.masks.settings import Masks

logger = logging.getLogger(__name__)


class AddTargetDataset(LabelledAudioDataset):
    """An audio data set whose batches include labels.

    Args:
        dataset: padded audio. Utterances are never cropped, because a label belongs to the whole utterance.
        labels: the labels of every utterance of the manifest, including those that `dataset` skips.
        pad: index of the padding symbol of targets.
        blank: index of the blank symbol.
        skip_unusable: drop utterances that CTC cannot learn from, instead of raising an error.
    Raises:
        ValueError: the audio is not padded, or CTC cannot learn from a label.
    """

    def __init__(
        self, dataset: FileAudioDataset, labels: Labels, pad: int, blank: int = 0, skip_unusable: bool = False
    ) -> None:
        super().__init__(dataset)
        self.labels = labels
        self.pad_index = pad
        self.blank = blank
        self.skip_unusable = skip_unusable
        self._bucket_labels: np.ndarray | None = None  # the longest label of each bucket, computed on first use
        self._checked_layers: tuple[ConvSpec, ...] | None = None
        self._leave_out_long()
        self._check(None)

    def _leave_out_long(self) -> None:
        too_long = np.flatnonzero(self.dataset.sizes > self.dataset.max_sample_size)
        if len(too_long):
            logger.warning(
                "utterances skipped because they are longer than task.max_sample_size and labels cannot be cropped: %d",
                len(too_long),
            )
            self.dataset.leave_out(too_long)

    def _check(self, conv_layers: Sequence[ConvSpec] | None) -> None:
        """Raise ValueError for utterances that CTC cannot learn from, or drop them."""
        found = find_unusable(self.labels, self.dataset.lines, self.dataset.sizes, conv_layers, self.blank)
        if len(found.indices) == 0:
            return
        listed = "\n".join(f"  {reason}" for reason in found.reasons)
        more = (
            f"\n  and {len(found.indices) - len(found.reasons)} more" if len(found.indices) > len(found.reasons) else ""
        )
        problem = f"CTC cannot learn {len(found.indices)} of {len(self.dataset)} utterances:\n{listed}{more}"
        if not self.skip_unusable:
            raise ValueError(
                f"{problem}\nCorrect these lines, remove them (from the manifest too), or set "
                "task.skip_unusable_labels=true to skip them."
            )
        logger.warning("task.skip_unusable_labels: %s\n", problem)
        self.dataset.leave_out(found.indices)
        self._bucket_labels = None

    def set_masks(self, masks: Masks | None) -> None:
        """Set the masks of the audio, and check labels against the frames of the masks' feature extractor.

        Raises:
            ValueError: a label needs more frames than its utterance has.
        """
        self.dataset.set_masks(masks)
        if masks is not None and masks.conv_layers != self._checked_layers:
            self._check(masks.conv_layers)
            self._checked_layers = masks.conv_layers
            field, stride = receptive_field(masks.conv_layers)
            if self.dataset.augmentation is not None:  # otherwise nothing becomes shorter
                needed = self.dataset.selection.of(self.labels.frames_needed())
                self.dataset.least_samples = shared(field + stride * (needed - 1))

    def label_arrays(self) -> tuple[np.ndarray, ...]:
        return self.labels.units, self.labels.ends

    # -- labels --------------------------------------------------------------------------------------------------------

    def label(self, index: int) -> np.ndarray:
        """Return the units of an utterance's label, U."""
        return self.labels[self.dataset.selection.line(index)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a whole utterance: {"id", "source": float32 S, "label": int64 U}."""
        return {**self.dataset[index], "label": torch.from_numpy(self.label(index).astype(np.int64))}

    def longest_label(self, plan: BatchPlan) -> int:
        """Return U of a batch; with buckets, that of the bucket's longest label, so that a bucket has one shape."""
        lengths = self.labels.lengths
        if not self.dataset.num_buckets:
            return int(lengths[self.dataset.selection.at(plan.indices % len(self))].max())
        if self._bucket_labels is None:
            first, last = (np.searchsorted(self.dataset.buckets, sizes) for sizes in self.dataset.length_range())
            lengths = self.dataset.selection.of(lengths)
            in_bucket = [(first <= bucket) & (bucket <= last) for bucket in range(len(self.dataset.buckets))]
            self._bucket_labels = np.array([lengths[members].max(initial=0) for members in in_bucket])
        return int(self._bucket_labels[plan.bucket])

    def collate_plan(self, plan: BatchPlan) -> Batch:
        """Create the audio's batch for a plan, and add the labels.

        Returns:
            The audio's batch, and
            target: int64, B x U, padded with `pad`.
            target_lengths: int64, B.
            target_weights: float32, B, 1 for rows that count; 0 for filler, and for a row whose unreadable file was
                replaced by one that does not fit.
            input_lengths: frames of each row, int64, B.
            ntokens: units of the rows that count.
        """
        sample = self.dataset.collate_plan(plan)
        ids = sample["id"].tolist()
        width = self.longest_label(plan)
        target = np.full((len(ids), width), self.pad_index, dtype=np.int64)
        lengths = np.zeros(len(ids), dtype=np.int64)
        weights = np.zeros(len(ids), dtype=np.float32)
        for row, (index, whole) in enumerate(zip(ids, sample["whole"], strict=True)):
            label = self.label(index)
            fits = len(label) <= width and whole
            lengths[row] = len(label) if fits else 0
            weights[row] = fits and row < plan.num_valid
            target[row, : lengths[row]] = label[: lengths[row]]
        padding = sample["net_input"].get("padding_mask")
        assert padding is not None, "the constructor rejects audio that is not padded"
        samples = (~padding).sum(dim=1)
        masks = self.dataset.masks
        return {
            **sample,
            "target": torch.from_numpy(target),
            "target_lengths": torch.from_numpy(lengths),
            "target_weights": torch.from_numpy(weights),
            "input_lengths": samples if masks is None else frames_for_samples(samples, masks.conv_layers),
            "ntokens": int(lengths[weights > 0].sum()),
        }

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate results of `__getitem__` into a batch, for tools that use the data set directly."""
        batch = self.dataset.collater(samples)
        if not batch:
            return batch
        kept = [sample["label"] for sample in samples if sample["source"] is not None]
        lengths = torch.tensor([len(label) for label in kept])
        target = torch.full((len(kept), int(lengths.max())), self.pad_index)
        for row, label in zip(target, kept, strict=True):
            row[: len(label)] = label
        return {**batch, "target": target, "target_lengths": lengths, "ntokens": int(lengths.sum())}
