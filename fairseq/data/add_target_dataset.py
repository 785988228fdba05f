"""Utterances with their labels. Letters: B utterances, U units of a label."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fairseq.data.audio.manifest import JoinedManifest
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.base_wrapper_dataset import BaseWrapperDataset
from fairseq.data.batch import Batch
from fairseq.data.batching import Batches, BatchPlan
from fairseq.data.labels import Labels, find_unusable
from fairseq.data.options import BatchLimits
from fairseq.frames import ConvSpec, frames_for_samples, receptive_field
from fairseq.masks.settings import Masks

logger = logging.getLogger(__name__)


class AddTargetDataset(BaseWrapperDataset):
    """A data set of audio whose batches bring their labels along.

    Args:
        dataset: audio, padded; an utterance is never cropped, since its label is of the whole of it.
        labels: of every utterance of the manifest, those included that `dataset` leaves out.
        pad: what fills the rows of targets up.
        blank: number of the blank symbol.
        skip_unusable: leave utterances out that CTC cannot learn from; else they are an error.
    """

    dataset: FileAudioDataset
    makes_filler = True

    def __init__(
        self, dataset: FileAudioDataset, labels: Labels, pad: int, blank: int = 0, skip_unusable: bool = False
    ) -> None:
        super().__init__(dataset)
        if not dataset.pad:
            raise ValueError(
                "labels need padding: without it a batch's audio is cropped to its shortest utterance, and labels "
                "are not"
            )
        self.labels = labels
        self.pad_index = pad
        self.blank = blank
        self.skip_unusable = skip_unusable
        self._bucket_labels: np.ndarray | None = None  # the longest label of each bucket, once it is asked for
        self._checked_layers: tuple[ConvSpec, ...] | None = None
        self._leave_out_long()
        self._check(None)

    def _leave_out_long(self) -> None:
        too_long = np.flatnonzero(self.dataset.sizes > self.dataset.max_sample_size)
        if len(too_long):
            logger.warning(
                "%d utterances are longer than task.max_sample_size: left out, as labels cannot be cropped",
                len(too_long),
            )
            self.dataset.leave_out(too_long)

    def _check(self, conv_layers: Sequence[ConvSpec] | None) -> None:
        """Raise ValueError for what cannot be learned, or leave it out."""
        found = find_unusable(self.labels, self.dataset.lines, self.dataset.sizes, conv_layers, self.blank)
        if len(found.indices) == 0:
            return
        listed = "\n".join(f"  {reason}" for reason in found.reasons)
        more = (
            f"\n  and {len(found.indices) - len(found.reasons)} more" if len(found.indices) > len(found.reasons) else ""
        )
        told = f"{len(found.indices)} of {len(self.dataset)} utterances cannot be learned by CTC:\n{listed}{more}"
        if not self.skip_unusable:
            raise ValueError(
                f"{told}\nCorrect or remove these lines (in the manifest too); task.skip_unusable_labels=true "
                "leaves them out"
            )
        logger.warning("task.skip_unusable_labels: %s\n", told)
        self.dataset.leave_out(found.indices)
        self._bucket_labels = None

    # -- what the audio answers ----------------------------------------------------------------------------------------

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
        """What logs call an utterance."""
        return self.dataset.name(index)

    def set_masks(self, masks: Masks | None) -> None:
        """As the audio's; from the feature extractor's spec that comes with them, labels are compared with frames.

        Raises:
            ValueError: a label is longer than its utterance's frames allow.
        """
        self.dataset.set_masks(masks)
        if masks is not None and masks.conv_layers != self._checked_layers:
            self._check(masks.conv_layers)
            self._checked_layers = masks.conv_layers
            field, stride = receptive_field(masks.conv_layers)
            needed = self.labels.frames_needed()[self.dataset.lines]
            self.dataset.least_samples = field + stride * (needed - 1)

    def batches(self, epoch: int, limits: BatchLimits) -> Batches:
        return self.dataset.batches(epoch, limits)

    def total_samples(self, batches: Batches, epoch: int) -> int:
        return self.dataset.total_samples(batches, epoch)

    # -- labels --------------------------------------------------------------------------------------------------------

    def label(self, index: int) -> np.ndarray:
        """Units of an utterance, U."""
        return self.labels[int(self.dataset.lines[index])]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A whole utterance: {"id", "source": float32 S, "label": int64 U}."""
        return {**self.dataset[index], "label": torch.from_numpy(self.label(index).astype(np.int64))}

    def longest_label(self, plan: BatchPlan) -> int:
        """U of a batch. With buckets it is that of the bucket's longest label, so that a bucket has one shape."""
        lengths = self.labels.lengths
        if not self.dataset.num_buckets:
            return int(lengths[self.dataset.lines[plan.indices % len(self)]].max())
        if self._bucket_labels is None:
            first, last = (np.searchsorted(self.dataset.buckets, sizes) for sizes in self.dataset.length_range())
            lengths = lengths[self.dataset.lines]
            in_bucket = [(first <= bucket) & (bucket <= last) for bucket in range(len(self.dataset.buckets))]
            self._bucket_labels = np.array([lengths[members].max(initial=0) for members in in_bucket])
        return int(self._bucket_labels[plan.bucket])

    def collate_plan(self, plan: BatchPlan) -> Batch:
        """As the audio's, with the labels.

        Returns:
            Also target: int64, B x U, filled up with `pad`; target_lengths: int64, B; input_lengths: frames of each
                row, int64, B;
            target_weights: float32, B, 1 for rows that count, 0 for filler and for the rare row in which the stand-in
                of an unreadable
            file does not fit; ntokens: units of the rows that count.
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
        samples = (~sample["net_input"]["padding_mask"]).sum(dim=1)
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
        """A batch of what `__getitem__` returned; for tools that use the data set by hand."""
        batch = self.dataset.collater(samples)
        if not batch:
            return batch
        kept = [sample["label"] for sample in samples if sample["source"] is not None]
        lengths = torch.tensor([len(label) for label in kept])
        target = torch.full((len(kept), int(lengths.max())), self.pad_index)
        for row, label in zip(target, kept, strict=True):
            row[: len(label)] = label
        return {**batch, "target": target, "target_lengths": lengths, "ntokens": int(lengths.sum())}
