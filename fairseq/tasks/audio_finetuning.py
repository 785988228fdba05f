"""The fine-tuning task: audio listed in manifests, with label files next to them."""

import functools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import torch
from omegaconf import DictConfig, open_dict
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
from fairseq.masks.settings import FinetuningMasks, Masks
from fairseq.models.fairseq_model import BaseFairseqModel
from fairseq.models.wav2vec import pretrained
from fairseq.scoring.greedy_scorer import GreedyScorer, log_rates, summed
from fairseq.tasks import register_task
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask

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
        if self.augment.speed > 1 and not self.rebuild_batches:
            yield wrong(
                f"task.augment.speed={self.augment.speed} requires task.rebuild_batches=true, because lengths and "
                "batches change each epoch. Set task.rebuild_batches=true, or task.augment.speed=1.",
                "augmentation",
            )


@register_task("audio_finetuning", dataclass=AudioFinetuningConfig)
class AudioFinetuningTask(AudioPretrainingTask):
    """Labelled audio, masked in the data-loading workers as augmentation, and the dictionary of the label units.

    The dictionary is read on first use. A checkpoint's `task_state` also holds it, so a saved model does not need the
    data folder.

    Raises:
        ValueError: the config is invalid; lists all problems.
    """

    def __init__(self, cfg: Any, **kwargs: Any) -> None:
        super().__init__(cfg)
        self.augmentation = Augmentation(cfg.augment.speed, cfg.augment.eq_db, cfg.augment.noise_db)
        self.encoder_cfg: Any = None
        self.state.add_factory("target_dictionary", self.load_target_dictionary)

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

    @property
    def target_dictionary(self) -> Dictionary:
        return self.state.target_dictionary

    def state_dict(self) -> dict[str, Any]:
        """Return the dictionary as plain containers.

        The key differs from fairseq's `target_dictionary`, which must hold a pickled object.
        """
        return {"target_symbols": self.target_dictionary.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the dictionary of a checkpoint: ours, or one converted from an older file."""
        found = state_dict.get("target_symbols", state_dict.get("target_dictionary"))
        if found is not None:
            dictionary = Dictionary.from_state_dict(found) if isinstance(found, Mapping) else found
            self.state.merge_state_dict({"target_dictionary": dictionary})

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

    def _dictionary_name(self) -> str:
        path = self.dictionary_path()
        return path if os.path.exists(path) else "inside the checkpoint"

    def data_fingerprint(self) -> dict[str, str]:
        import hashlib

        digests = super().data_fingerprint()
        for split, dataset in self.datasets.items():
            if not isinstance(dataset, AddTargetDataset):
                continue
            digest = hashlib.blake2b(digests[split].encode(), digest_size=16)
            digest.update(dataset.labels.units.data)
            digest.update(dataset.labels.ends.data)
            digests[split] = digest.hexdigest()
        return digests

    # -- masks and model -----------------------------------------------------------------------------------------------

    def masks(self) -> Optional[Masks]:
        """Return the mask settings of the encoder, including its feature extractor's layers.

        Raises:
            ValueError: the model has not been built.
        """
        if self.encoder_cfg is None:
            return super().masks()
        return FinetuningMasks.from_config(self.encoder_cfg, self.model_cfg.apply_mask)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Build the model, and store the pre-training config in `cfg.w2v_args`, as fairseq does.

        Raises:
            ValueError: this task's sample rate or normalisation differs from the pre-training's.
        """
        model = super().build_model(cfg, from_checkpoint)
        self.encoder_cfg = model.encoder_config()
        if self.encoder_cfg is None:
            return model
        w2v_args = pretrained.as_container(self.model_cfg.w2v_args)
        if isinstance(cfg, DictConfig) and cfg.get("w2v_args") is None:
            with open_dict(cfg):
                cfg.w2v_args = w2v_args
        self._check_audio(w2v_args)
        return model

    def _check_audio(self, w2v_args: Mapping[str, Any]) -> None:
        """Raise ValueError unless sample rate and normalisation match those of pre-training."""
        normalized = pretrained.normalizes(w2v_args)
        if normalized != self.cfg.normalize:
            raise ValueError(
                f"task.normalize is {str(self.cfg.normalize).lower()}, but the model was pre-trained with normalize: "
                f"{str(normalized).lower()}. Set task.normalize={str(normalized).lower()}."
            )
        rate = (w2v_args.get("task") or {}).get("sample_rate")
        if rate is not None and rate != self.cfg.sample_rate:
            raise ValueError(
                f"task.sample_rate is {self.cfg.sample_rate}, but the model was pre-trained at {rate} Hz. Set "
                f"task.sample_rate={rate} and task.resample=true."
            )

    def adapted_weights(self, state: dict[str, Any], model: nn.Module, only_weights: bool) -> dict[str, Tensor]:
        """See FairseqTask. If the checkpoint's dictionary differs, keep the model's own new output layer.

        Raises:
            ValueError: the dictionaries differ, and `only_weights` is false.
        """
        symbols = pretrained.symbols_of(state)
        if symbols is None or symbols == self.target_dictionary.symbols:
            return state["model"]
        size, path = len(self.target_dictionary), self.dictionary_path()
        differ = (
            f"the checkpoint was trained with another dictionary ({len(symbols)} symbols), not {path} ({size} symbols)"
        )
        if not only_weights:
            raise ValueError(
                f"{differ}. Restore the former dictionary; or, to train a new output layer, start a new run with this "
                "checkpoint as checkpoint.finetune_from_model or model.w2v_path."
            )
        logger.warning("%s: the output layer is new and starts from random weights", differ)
        own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(pretrained.HEAD)}
        return {**state["model"], **own}

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
