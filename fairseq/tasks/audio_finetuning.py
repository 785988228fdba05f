"""The fine-tuning task: audio listed in manifests, with label files next to them."""

import functools
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor, nn

from fairseq.data.add_target_dataset import AddTargetDataset
from fairseq.data.audio.augment import Augmentation, check_augmentation
from fairseq.data.audio.manifest import JoinedManifest, Manifest
from fairseq.data.batch import Batch
from fairseq.data.data_utils import post_process
from fairseq.data.dictionary import Dictionary
from fairseq.data.labels import Labels, join, read_labels
from fairseq.dataclass import FairseqDataclass, Finding, wrong
from fairseq.dataclass.configs import GenerationConfig
from fairseq.scoring.greedy_scorer import GreedyScorer, log_rates, summed
from fairseq.tasks import register_task
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig
from fairseq.tasks.pretrained_encoder import PretrainedEncoderTask

logger = logging.getLogger(__name__)


@dataclass
class AugmentConfig(FairseqDataclass):
    """Augmentation of training audio, drawn again each epoch; helps most with few speakers. Off in validation."""

    speed: float = field(
        default=1.0,
        metadata={
            "help": "change speed by a random factor from 1/speed to speed, including pitch and formants; 1: off"
        },
    )
    eq_db: float = field(default=0.0, metadata={"help": "raise or lower frequency bands by up to this many dB; 0: off"})
    noise_db: Optional[float] = field(
        default=None,
        metadata={"help": "add noise at a level from this many dB below the speech to 30 dB less; None: off"},
    )

    def check(self) -> Iterator[Finding]:
        for text in check_augmentation(Augmentation(self.speed, self.eq_db, self.noise_db), "task.augment"):
            yield wrong(text, "augmentation")


def augmented_lengths(augment: AugmentConfig, rebuild_batches: bool) -> Iterator[Finding]:
    """Changes of speed need new batches each epoch."""
    if augment.speed > 1 and not rebuild_batches:
        yield wrong(
            f"task.augment.speed={augment.speed} requires task.rebuild_batches=true, because lengths and "
            "batches change each epoch. Set task.rebuild_batches=true, or task.augment.speed=1.",
            "augmentation",
        )


@dataclass
class AudioFinetuningConfig(AudioPretrainingConfig):
    eval_wer: bool = field(
        default=False,
        metadata={
            "help": "compute word error rate in validation; for plug-in criterions, since criterion ctc always does"
        },
    )
    eval_wer_config: GenerationConfig = field(
        default_factory=GenerationConfig,
        metadata={"help": "not offered: for models that generate text; fairseq-infer decodes"},
    )
    eval_wer_tokenizer: Any = field(
        default=None, metadata={"help": "not offered: eval_wer_post_process turns units into words"}
    )
    eval_wer_post_process: str = field(
        default="letter",
        metadata={
            "help": "kind of unit, which determines how units become words: letter, sentencepiece, silence, none ..."
        },
    )
    eval_bleu: bool = field(default=False, metadata={"help": "not offered: for translation"})
    eval_bleu_detok: Optional[str] = field(default=None, metadata={"help": "not offered"})
    eval_bleu_detok_args: str = field(default="{}", metadata={"help": "not offered"})
    eval_tokenized_bleu: bool = field(default=False, metadata={"help": "not offered"})
    eval_bleu_remove_bpe: Optional[str] = field(default=None, metadata={"help": "not offered"})
    eval_bleu_args: str = field(default="{}", metadata={"help": "not offered"})
    eval_bleu_print_samples: bool = field(default=False, metadata={"help": "not offered"})
    autoregressive: bool = field(
        default=False, metadata={"help": "not offered (needs wav2vec_seq2seq): use model wav2vec_ctc"}
    )
    target_dictionary: Optional[str] = field(
        default=None, metadata={"help": "dictionary file; None: dict.<labels>.txt in task.data"}
    )
    eval_uer: bool = field(default=False, metadata={"help": "compute unit error rate in validation; see eval_wer"})
    skip_unusable_labels: bool = field(
        default=False,
        metadata={
            "help": "drop utterances whose label is empty or longer than their frames, instead of raising an error"
        },
    )
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def check(self) -> Iterator[Finding]:
        yield from super().check()
        yield from augmented_lengths(self.augment, self.rebuild_batches)


@register_task("audio_finetuning", dataclass=AudioFinetuningConfig)
class AudioFinetuningTask(PretrainedEncoderTask):
    """Labelled audio, masked in the data-loading workers as augmentation, and the dictionary of the label units.

    Raises:
        ValueError: the config is invalid; lists all problems.
    """

    def __init__(self, cfg: Any, **kwargs: Any) -> None:
        super().__init__(cfg)
        self.augmentation = Augmentation(cfg.augment.speed, cfg.augment.eq_db, cfg.augment.noise_db)

    # -- dictionary ----------------------------------------------------------------------------------------------------

    def dictionary_path(self) -> str:
        """Return the path of the dictionary file.

        Raises:
            ValueError: `task.labels` is not set.
        """
        if self.cfg.target_dictionary is not None:
            return self.cfg.target_dictionary
        if not self.cfg.labels:
            raise ValueError(
                "task.labels is not set. audio_finetuning needs the extension of the label files: set task.labels=ltr, "
                "for example."
            )
        return os.path.join(self.cfg.data, f"dict.{self.cfg.labels}.txt")

    def load_target_dictionary(self) -> Dictionary:
        """Read the dictionary.

        Raises:
            ValueError: the file is missing or malformed; names file and line.
        """
        return Dictionary.load(self.dictionary_path())

    # -- data ----------------------------------------------------------------------------------------------------------

    def load_dataset(self, split: str, task_cfg: Any = None, combine: bool = False, **kwargs: Any) -> None:
        """Load <data>/<split>.tsv and <data>/<split>.<labels>, or those of several corpora.

        Args:
            split: name of the split.
            task_cfg: see AudioPretrainingTask.load_dataset.
            combine: see AudioPretrainingTask.load_dataset.
        Raises:
            ValueError: a file is missing or malformed, line counts differ, or CTC cannot learn from a label.
        """
        cfg = self.cfg if task_cfg is None else task_cfg
        paths, weights = self._manifests(split, combine)
        manifests = [Manifest(path) for path in paths]
        labels = join([self._labels(path, manifest) for path, manifest in zip(paths, manifests, strict=True)])
        augmentation = None if self.augmentation == Augmentation() else self.augmentation
        audio = self._audio(cfg, split, JoinedManifest(manifests), weights, pad=True, augmentation=augmentation)
        dictionary = self.target_dictionary
        dataset = AddTargetDataset(audio, labels, dictionary.pad(), dictionary.bos(), self.cfg.skip_unusable_labels)
        if self.encoder_cfg is not None:
            dataset.set_masks(self.masks())  # compares labels with frames
        self.datasets[split] = dataset
        used = np.count_nonzero(np.bincount(labels.units[: 1 << 24]))
        logger.info(
            "%s: %d labels, %d units, %d of the dictionary's %d symbols used",
            split,
            len(labels),
            len(labels.units),
            used,
            len(dictionary),
        )

    def _labels(self, manifest_path: str, manifest: Manifest) -> Labels:
        """Read the label file of a manifest: one label per line of the manifest."""
        path = f"{os.path.splitext(manifest_path)[0]}.{self.cfg.labels}"
        dictionary = self.target_dictionary
        labels = read_labels(path, dictionary, "the dictionary " + self._dictionary_name())
        if len(labels) != len(manifest):
            raise ValueError(
                f"{path} has {len(labels)} lines, but {manifest_path} has {len(manifest)} utterances. Line n of the "
                "labels must belong to line n + 1 of the manifest, whose first line is the root. Create both files "
                "again from the same list of recordings."
            )
        return labels

    def dictionary_source(self) -> str:
        return self.dictionary_path()

    def _dictionary_name(self) -> str:
        path = self.dictionary_path()
        return path if os.path.exists(path) else "inside the checkpoint"

    # -- error rates ---------------------------------------------------------------------------------------------------

    def valid_step(
        self, sample: Batch, model: nn.Module, criterion: nn.Module
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """See FairseqTask; with task.eval_wer or eval_uer, also count errors unless the criterion does."""
        loss, sample_size, log = super().valid_step(sample, model, criterion)
        if (self.cfg.eval_wer or self.cfg.eval_uer) and "w_total" not in log:
            log = {**log, **self._errors(sample, model)}
        return loss, sample_size, log

    @torch.no_grad()
    def _errors(self, sample: Batch, model: Any) -> dict[str, Any]:
        """Count wrong words and units in a batch."""
        assert "target" in sample and "target_lengths" in sample, "the data sets of this task have labels"
        assert "target_weights" in sample and "input_lengths" in sample
        path = model.get_logits(model(**sample["net_input"])).argmax(dim=-1).t()
        lengths = sample["input_lengths"].clamp(1, path.size(1))
        target, units, weights = sample["target"], sample["target_lengths"], sample["target_weights"]
        return self.scorer.score(path, target, lengths, units, weights, ids=sample["id"])

    @functools.cached_property
    def scorer(self) -> GreedyScorer:
        """Error counter for criterions that do not count errors."""
        dictionary = self.target_dictionary

        def words(units: Iterable[int]) -> str:
            return post_process(dictionary.string(units), self.cfg.eval_wer_post_process)

        return GreedyScorer(words, dictionary.bos(), len(dictionary), dictionary.nspecial)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """See FairseqTask; after validation, also log the first references and hypotheses."""
        super().reduce_metrics(logging_outputs, criterion)
        scorer = criterion.scorer if hasattr(criterion, "scorer") else self.scorer
        if scorer is self.scorer:
            log_rates(summed(logging_outputs))
        for reference, hypothesis in scorer.take_examples():
            logger.info("REF: %s", reference)
            logger.info("HYP: %s", hypothesis)
