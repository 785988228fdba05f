"""Data and batches of the run to be checked: those of the real task, for all ranks, without decoding audio."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from omegaconf import DictConfig

from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.audio_dataset import AudioDataset
from fairseq.data.batching import EVALUATION_EPOCH, Batches, BatchPlan, steps_of_update, update_order
from fairseq.data.iterators import EpochBatchIterator
from fairseq.data.labelled_audio import LabelledAudioDataset
from fairseq.data.options import LoaderOptions
from fairseq.data.plugged_in import as_audio_dataset
from fairseq.dataclass.training_configs import valid_subsets
from fairseq.frames import frames_for_samples
from fairseq.masks.spans import max_masked_frames
from fairseq.tasks.task import Task
from fairseq.training.iterators import training_iterator, validation_iterator


class Launch(NamedTuple):
    """Number of processes of the run."""

    nodes: int
    processes: int  # per node

    @property
    def world(self) -> int:
        return self.nodes * self.processes


class Split(NamedTuple):
    """One manifest's data set and its batches."""

    name: str
    training: bool
    dataset: AudioDataset
    iterator: EpochBatchIterator

    @property
    def batches(self) -> Batches:
        """Batches of the first epoch."""
        return self.iterator.batches(1)


class Shape(NamedTuple):
    """A shape that batches of a split can have: one compiled graph per mode."""

    split: str
    training: bool
    rows: int  # B
    samples: int  # S
    frames: int | None  # T
    masked: int | None  # M
    batches: int  # of this shape in the first epoch
    padding: float  # share of the samples in them that is padding or filler
    plan: BatchPlan  # of one of them

    @property
    def key(self) -> tuple[bool, int, int]:
        return self.training, self.rows, self.samples


def load(cfg: DictConfig, task: Task, launch: Launch) -> list[Split]:
    """Load the training data, then the validation sets.

    `task` must have built the model before, as it takes the masks' settings from it.

    Raises:
        ValueError: a manifest is missing or malformed, or has nothing to train on; or a data set is a plug-in's.
    """
    options = LoaderOptions(seed=cfg.common.seed, num_shards=launch.world)
    splits = []
    for name, training in [(cfg.dataset.train_subset, True), *((name, False) for name in valid_subsets(cfg.dataset))]:
        task.load_dataset(name, combine=training or bool(cfg.dataset.combine_valid_subsets))
        if training:
            iterator = training_iterator(cfg, task, options)
        else:
            iterator = validation_iterator(cfg, task, name, options)
        try:
            iterator.batches(1)
        except ValueError as error:
            raise ValueError(f"{task.split_source(name)}: {error}") from error
        splits.append(Split(name, training, as_audio_dataset(task.dataset(name)), iterator))
        audio(splits[-1])
    return splits


def audio(split: Split) -> FileAudioDataset:
    """Return the data set that holds the audio: the split's, or the one inside it if it adds labels.

    Raises:
        ValueError: it is a plug-in's data set.
    """
    dataset = split.dataset.dataset if isinstance(split.dataset, LabelledAudioDataset) else split.dataset
    if not isinstance(dataset, FileAudioDataset):
        kind = type(dataset).__name__
        raise ValueError(f"{split.name!r} is a {kind}, but fairseq-preflight checks only audio from manifests")
    return dataset


def shapes(split: Split) -> list[Shape]:
    """Every shape of the split's batches over two epochs, shortest first."""
    epochs = (1, 2) if split.training else (1,)
    found: dict[tuple[int, int], Shape] = {}
    dataset = audio(split)
    for epoch in epochs:
        batches = split.iterator.plan_fn(epoch if split.training else EVALUATION_EPOCH)
        sizes = dataset.lengths(batches.indices, epoch if split.training else EVALUATION_EPOCH)
        counts = np.diff(batches.ends, prepend=0)
        real = np.minimum(sizes, np.repeat(batches.lengths, counts))
        of_batch = np.add.reduceat(real, batches.ends - counts) if len(counts) else real
        pairs, first, members = np.unique(
            np.stack([batches.rows, batches.lengths]), axis=1, return_index=True, return_inverse=True
        )
        numbers = np.bincount(members.ravel())
        filled = np.bincount(members.ravel(), weights=of_batch)
        for place, (rows, samples) in enumerate(pairs.T.tolist()):
            if (rows, samples) in found:
                continue
            frames, masked = _frames(dataset, samples)
            number = int(numbers[place])
            padding = 1 - float(filled[place]) / (rows * samples * number)
            plan = batches.plan(int(first[place]), epoch if split.training else EVALUATION_EPOCH, 0)
            met = number if epoch == epochs[0] else 0
            found[rows, samples] = Shape(split.name, split.training, rows, samples, frames, masked, met, padding, plan)
    return sorted(found.values(), key=lambda shape: (shape.samples, shape.rows))


def _frames(dataset: FileAudioDataset, samples: int) -> tuple[int | None, int | None]:
    if dataset.masks is None:
        return None, None
    frames, time = int(frames_for_samples(samples, dataset.masks.conv_layers)), dataset.masks.time
    return frames, None if time is None else max_masked_frames(frames, time)


class Epoch(NamedTuple):
    """An epoch of training in numbers."""

    batches: int
    updates: int
    steps: int  # forward passes of one rank, including those with only filler rows
    seconds: float  # of audio, without padding and filler
    emitted: float  # of audio that the ranks compute, with padding and filler


def epoch_of(split: Split, cfg: DictConfig, launch: Launch) -> Epoch:
    """Count the first epoch, with the update size of later ones (the last entry of update_freq)."""
    batches, dataset = split.batches, audio(split)
    size = launch.world * cfg.optimization.update_freq[-1]
    sequence = update_order(np.arange(len(batches)), batches.buckets, size)
    steps, emitted = 0, 0
    volume = (batches.rows * batches.lengths).tolist()
    for start in range(0, len(sequence), size):
        for step in steps_of_update(sequence[start : start + size], batches.buckets, size, launch.world):
            steps += 1
            emitted += sum(volume[batch] for batch in step.batches)
    rate = cfg.task.sample_rate
    return Epoch(
        len(batches), math.ceil(len(batches) / size), steps, dataset.total_samples(batches, 1) / rate, emitted / rate
    )
