"""The classification task: audio listed in manifests, with one label per utterance."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
from omegaconf import II

from fairseq.data.audio.augment import Augmentation
from fairseq.data.audio.manifest import JoinedManifest, Manifest
from fairseq.data.class_target_dataset import ClassTargetDataset
from fairseq.data.classes import FOLDER, ClassColumn, LabelSource, dictionary_of, encode
from fairseq.data.dictionary import Dictionary
from fairseq.dataclass import Finding, wrong
from fairseq.tasks import register_task
from fairseq.tasks.audio_finetuning import AugmentConfig, augmented_lengths
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig
from fairseq.tasks.pretrained_encoder import PretrainedEncoderTask

logger = logging.getLogger(__name__)


@dataclass
class AudioClassificationConfig(AudioPretrainingConfig):
    target_dictionary: Optional[str] = field(
        default=None,
        metadata={
            "help": "file with the classes in order, one `class count` per line; None: dict.<labels>.txt in task.data "
            "if there is one, else the labels of the training data, sorted"
        },
    )
    label_table: Optional[str] = field(
        default=None,
        metadata={
            "help": ".csv or .tsv file with a header line: a column with the utterances' paths or file names, and the "
            "column task.labels with their labels"
        },
    )
    label_pattern: Optional[str] = field(
        default=None,
        metadata={
            "help": "take labels from the manifests' paths: a regular expression whose first group is the label, or "
            "`folder` for the name of the file's folder"
        },
    )
    train_subset: str = II("dataset.train_subset")
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def pads(self) -> bool:
        return True

    def check(self) -> Iterator[Finding]:
        yield from super().check()
        yield from augmented_lengths(self.augment, self.rebuild_batches)
        if self.label_table is not None and self.label_pattern is not None:
            yield wrong("task.label_table and task.label_pattern are both set. Set only one of them.", "classification")
        if self.label_pattern is not None and self.label_pattern != FOLDER and "(" not in self.label_pattern:
            yield wrong(
                f"task.label_pattern is {self.label_pattern!r}, which has no group. Put the part that is the label in "
                f"parentheses, as in '_([a-z]+)_', or use {FOLDER}.",
                "classification",
            )
        if not self.labels and self.label_table is None and self.label_pattern is None:
            yield wrong(
                "task.labels is not set: classification needs labels. Set task.labels to the extension of label files "
                "next to the manifests, or task.label_table, or task.label_pattern.",
                "classification",
            )


@register_task("audio_classification", dataclass=AudioClassificationConfig)
class AudioClassificationTask(PretrainedEncoderTask):
    """Audio with one label per utterance, masked in the data-loading workers as augmentation, and the classes.

    Raises:
        ValueError: the config is invalid; lists all problems.
    """

    head = "pooling_layer.projection."

    cfg: AudioClassificationConfig

    def __init__(self, cfg: AudioClassificationConfig) -> None:
        super().__init__(cfg)
        self.augmentation = Augmentation(cfg.augment.speed, cfg.augment.eq_db, cfg.augment.noise_db)
        self._columns: dict[str, ClassColumn] = {}  # by manifest

    # -- classes -------------------------------------------------------------------------------------------------------

    def load_target_dictionary(self) -> Dictionary:
        """Make the dictionary of the classes: one symbol per class, no special symbols.

        The counts are those of the training data, which class weights need.

        Raises:
            ValueError: labels are missing or malformed, or there is only one class.
        """
        columns = self._labels_of(self.cfg.train_subset)
        found = dictionary_of(ClassColumn.joined(columns))
        path = self._dictionary_file()
        if path is None:
            return found
        dictionary = Dictionary.load(path, add_special_symbols=False)
        dictionary.count = [found.count[found.indices[name]] if name in found else 0 for name in dictionary.symbols]
        return dictionary

    def _dictionary_file(self) -> str | None:
        """Return the file with the classes; None if there is none."""
        if self.cfg.target_dictionary is not None:
            return self.cfg.target_dictionary
        path = os.path.join(self.cfg.data, f"dict.{self.cfg.labels}.txt")
        return path if self.cfg.labels and os.path.exists(path) else None

    def dictionary_source(self) -> str:
        return self._dictionary_file() or f"the split {self.cfg.train_subset!r} in {self.cfg.data}"

    def label_source(self) -> LabelSource:
        """Return where labels are."""
        return LabelSource(self.cfg.labels, self.cfg.label_table, self.cfg.label_pattern)

    def _labels_of(self, split: str) -> list[ClassColumn]:
        """Return the labels of a split's manifests, each read once."""
        paths, _ = self._manifests(split, combine=split == "valid")
        return [self._labels(path, Manifest(path)) for path in paths]

    def _labels(self, path: str, manifest: Manifest) -> ClassColumn:
        if path not in self._columns:
            self._columns[path] = self.label_source().read(path, manifest)
        return self._columns[path]

    # -- data ----------------------------------------------------------------------------------------------------------

    def load_dataset(
        self, split: str, task_cfg: AudioPretrainingConfig | None = None, combine: bool = False, **kwargs: Any
    ) -> None:
        """Load <data>/<split>.tsv and its labels, or those of several corpora.

        Args:
            split: name of the split.
            task_cfg: see AudioPretrainingTask.load_dataset.
            combine: see AudioPretrainingTask.load_dataset.
        Raises:
            ValueError: a file is missing or malformed, an utterance has no label, or its label is not a class.
        """
        cfg = self.cfg if task_cfg is None else task_cfg
        paths, weights = self._manifests(split, combine)
        manifests = [Manifest(path) for path in paths]
        dictionary, source = self.target_dictionary, self.dictionary_source()
        parts = [
            encode(self._labels(path, manifest), dictionary, manifest, source)
            for path, manifest in zip(paths, manifests, strict=True)
        ]
        classes = np.concatenate(parts)
        augmentation = None if self.augmentation == Augmentation() else self.augmentation
        audio = self._audio(cfg, split, JoinedManifest(manifests), weights, pad=True, augmentation=augmentation)
        dataset = ClassTargetDataset(audio, classes)
        if self.encoder_cfg is not None:
            dataset.set_masks(self.masks())  # checks that every utterance has a frame
        self.datasets[split] = dataset
        used = np.bincount(classes[audio.lines], minlength=len(dictionary))
        logger.info(
            "%s: %d utterances of %d of %d classes; the smallest has %d, the largest %d",
            split,
            len(dataset),
            int((used > 0).sum()),
            len(dictionary),
            int(used.min()),
            int(used.max()),
        )
