"""The pre-training task: raw audio without labels."""

import logging
import os
import sys

# ChoiceEnum makes the types of choices at run time
# pyright: reportInvalidTypeForm=false
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from omegaconf import II, MISSING
from torch import nn

from fairseq.criterions import per_corpus
from fairseq.data.audio.augment import Augmentation
from fairseq.data.audio.corpora import Corpora, Share, shares
from fairseq.data.audio.manifest import JoinedManifest, Manifest
from fairseq.data.audio.manifest_index import find
from fairseq.data.audio.manifest_options import ManifestOptions
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.audio_dataset import AudioDataset
from fairseq.data.batching import EVALUATION_EPOCH, Batches
from fairseq.data.labelled_audio import LabelledAudioDataset
from fairseq.data.options import BatchLimits
from fairseq.data.storage.reader import CacheOptions
from fairseq.dataclass import ChoiceEnum, FairseqDataclass, Finding, wrong
from fairseq.masks.settings import Masks, PretrainingMasks
from fairseq.models.fairseq_model import BaseFairseqModel
from fairseq.models.wav2vec.config import conv_layer_findings
from fairseq.tasks import register_task
from fairseq.tasks.fairseq_task import FairseqTask

logger = logging.getLogger(__name__)

_OF_MANIFESTS = (FileAudioDataset, LabelledAudioDataset)  # a plug-in's task can load other data sets
TEXT_COMPRESSION_CHOICES = ChoiceEnum(["none", "low", "high"])


@dataclass
class InferredW2vConfig(FairseqDataclass):
    """Model settings that a data-loading worker needs to draw masks; by default those of the model's config."""

    mask_length: int = II("model.mask_length")
    mask_prob: float = II("model.mask_prob")
    mask_selection: str = II("model.mask_selection")
    mask_other: float = II("model.mask_other")
    no_mask_overlap: bool = II("model.no_mask_overlap")
    mask_min_space: int = II("model.mask_min_space")
    mask_channel_length: int = II("model.mask_channel_length")
    mask_channel_prob: float = II("model.mask_channel_prob")
    mask_channel_selection: str = II("model.mask_channel_selection")
    mask_channel_other: float = II("model.mask_channel_other")
    no_mask_channel_overlap: bool = II("model.no_mask_channel_overlap")
    mask_channel_min_space: int = II("model.mask_channel_min_space")
    conv_feature_layers: str = II("model.conv_feature_layers")
    encoder_embed_dim: int = II("model.encoder_embed_dim")

    def check(self) -> Iterator[Finding]:
        yield from conv_layer_findings("task.inferred_w2v_config.conv_feature_layers", self.conv_feature_layers)


@dataclass
class AudioPretrainingConfig(FairseqDataclass):
    data: str = field(default=MISSING, metadata={"help": "folder that holds the manifests, <split>.tsv"})
    labels: Optional[str] = field(
        default=None,
        metadata={
            "help": "extension of the label files next to the manifests (ltr, wrd, phn); selects audio_finetuning"
        },
    )
    multi_corpus_keys: Optional[str] = field(
        default=None,
        metadata={
            "help": "comma-separated names of corpora to mix; a split is <data>/<key>/<split>.tsv of each corpus, or "
            "is written as key:manifest,key:manifest"
        },
    )
    multi_corpus_sampling_weights: Optional[str] = field(
        default=None,
        metadata={
            "help": "comma-separated shares of the corpora in an epoch, in the order of multi_corpus_keys; sum to 1"
        },
    )
    multi_corpus_sampling_alpha: Optional[float] = field(
        default=None,
        metadata={
            "help": "instead of weights: a corpus gets a share of an epoch's audio proportional to n ** alpha, with n "
            "its hours after max_sample_size, as in XLS-R; 1: as they are, 0: all the same",
            "share": True,
        },
    )
    binarized_dataset: bool = field(
        default=False, metadata={"help": "not offered: plain manifests of any size load directly", "refused": True}
    )
    sample_rate: int = field(
        default=16_000,
        metadata={"help": "Hz; files must have this rate, or are converted to it with resample", "at_least": 1},
    )
    normalize: bool = field(
        default=False,
        metadata={"help": "normalise audio to zero mean and unit variance (for extractor_mode layer_norm)"},
    )
    enable_padding: bool = field(
        default=False, metadata={"help": "pad batches to their longest utterance; otherwise crop to the shortest"}
    )
    max_sample_size: Optional[int] = field(
        default=None, metadata={"help": "crop longer utterances to this many samples", "at_least": 1}
    )
    min_sample_size: Optional[int] = field(
        default=None, metadata={"help": "drop utterances with fewer samples", "at_least": 0}
    )
    num_batch_buckets: int = field(
        default=0,
        metadata={
            "help": (
                "round padded lengths up to this many sizes, each with one batch shape; 0: off; needs enable_padding"
            ),
            "at_least": 0,
        },
    )
    precompute_mask_indices: bool = field(
        default=False,
        metadata={"help": "no effect (fairseq: draw masks in the data-loading workers, which is always done here)"},
    )
    inferred_w2v_config: Optional[InferredW2vConfig] = field(
        default=None, metadata={"help": "mask settings for the data-loading workers; None: the model's"}
    )
    tpu: bool = II("common.tpu")
    text_compression_level: TEXT_COMPRESSION_CHOICES = field(
        default="none",
        metadata={"help": "no effect (fairseq: compress file names, which are always stored compactly here)"},
    )
    rebuild_batches: bool = field(
        default=True, metadata={"help": "form new batches each epoch; otherwise shuffle those of the first"}
    )
    precompute_mask_config: Optional[Any] = field(
        default=None, metadata={"help": "not offered (data2vec 2): see inferred_w2v_config", "refused": True}
    )
    post_save_script: Optional[str] = field(default=None, metadata={"help": "not offered", "refused": True})
    subsample: float = field(default=1.0, metadata={"help": "share of the utterances to train on, selected by seed"})
    seed: int = II("common.seed")
    resample: bool = field(
        default=False,
        metadata={
            "help": "convert files of another sample rate while reading (needs the extra `resample`); otherwise they "
            "are an error"
        },
    )
    max_quarantined_share: float = field(
        default=0.01,
        metadata={
            "help": (
                "stop the run if more than this share of its files cannot be decoded; until then they are replaced"
            ),
            "share": True,
        },
    )

    cache_dir: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder on a local disk that keeps audio read from object stores; processes of a machine may share "
            "it; None: audio is read from the store in each epoch"
        },
    )
    cache_gb: float = field(
        default=10.0,
        metadata={"help": "limit of cache_dir in GB; what was not used for the longest time is removed first"},
    )

    def pads(self) -> bool:
        """Return whether batches are padded; with labels they are."""
        return self.enable_padding or bool(self.labels)

    def check(self) -> Iterator[Finding]:
        longest, shortest = self.max_sample_size, self.min_sample_size
        if longest is not None and shortest is not None and shortest > longest:
            yield wrong(
                f"task.min_sample_size is {shortest}, but task.max_sample_size is {longest}. The minimum must not "
                "exceed the maximum.",
                "batches",
            )
        if self.num_batch_buckets > 0 and not self.pads():
            yield wrong(
                f"task.num_batch_buckets={self.num_batch_buckets} requires task.enable_padding=true. Set "
                "task.enable_padding=true, or num_batch_buckets=0.",
                "buckets-without-padding",
            )
        if not 0 < self.subsample <= 1:
            yield wrong(f"task.subsample is {self.subsample}: it must be above 0 and at most 1.", "corpora")
        if not self.cache_gb > 0:
            yield wrong(f"task.cache_gb is {self.cache_gb}: it must be above 0.", "corpora")
        yield from self._corpora()

    def _corpora(self) -> Iterator[Finding]:
        """Check the names and shares of several corpora."""
        keys, weights = self.multi_corpus_keys, self.multi_corpus_sampling_weights
        alpha = self.multi_corpus_sampling_alpha
        if weights is not None and alpha is not None:
            yield wrong(
                f"task.multi_corpus_sampling_alpha is {alpha}, but task.multi_corpus_sampling_weights is set too. Set "
                "only one of them.",
                "corpora",
            )
        if keys is None:
            for name, value in (("weights", weights), ("alpha", alpha)):
                if value is not None:
                    yield wrong(
                        f"task.multi_corpus_sampling_{name} is set, but task.multi_corpus_keys is not. Set both, or "
                        "only the keys.",
                        "corpora",
                    )
            return
        names = _split_commas(keys)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            yield wrong(f"task.multi_corpus_keys names {twice!r} twice. Name each corpus once.", "corpora")
        for key in _split_commas(keys):
            if Path(key).is_absolute():
                yield wrong(
                    f"task.multi_corpus_keys has {key!r}, which is an absolute path. It must list names of folders in "
                    "task.data, such as books,calls.",
                    "corpora",
                )
        if weights is None:
            return
        if len(_split_commas(weights)) != len(_split_commas(keys)):
            yield wrong(
                f"task.multi_corpus_sampling_weights is {weights!r}; it must have {len(_split_commas(keys))} numbers, "
                "one for each of task.multi_corpus_keys.",
                "corpora",
            )
            return
        try:
            shares = [float(text) for text in _split_commas(weights)]
        except ValueError:
            yield wrong(
                f"task.multi_corpus_sampling_weights is {weights!r}: it must be comma-separated numbers.", "corpora"
            )
            return
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            yield wrong(
                f"task.multi_corpus_sampling_weights is {weights!r}; shares must be at least 0 and sum to 1.",
                "corpora",
            )


def _split_commas(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


@register_task("audio_pretraining", dataclass=AudioPretrainingConfig)
class AudioPretrainingTask(FairseqTask):
    """Audio listed in manifests, masked in the data-loading workers.

    Raises:
        ValueError: the config is invalid; lists all problems.
    """

    def __init__(self, cfg: Any, **kwargs: Any) -> None:
        super().__init__(cfg)
        if str(cfg.text_compression_level) != "none":
            logger.info("task.text_compression_level has no effect: file names are always stored compactly")
        self.model_cfg: Any = None

    # -- data ----------------------------------------------------------------------------------------------------------

    @property
    def sample_rate(self) -> int:
        return self.cfg.sample_rate

    @property
    def max_quarantined_share(self) -> float:
        return self.cfg.max_quarantined_share

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora that metrics are logged of; empty if there is only one."""
        names = _split_commas(self.cfg.multi_corpus_keys or "")
        return tuple(names) if len(names) > 1 else ()

    def corpus_shares(self, split: str) -> list[tuple[str, Share]]:
        """Return the corpora of a split, and how much each contributes to an epoch of training."""
        dataset = self.dataset(split)
        audio = dataset.dataset if isinstance(dataset, LabelledAudioDataset) else dataset
        if not self.corpora or not isinstance(audio, FileAudioDataset):
            return []
        names = [self.corpora[number] for number in self._corpora_of(split)]
        found = shares(audio.amounts(), audio.weights, self.sample_rate)
        return list(zip(names, found, strict=True))

    def load_dataset(self, split: str, task_cfg: Any = None, combine: bool = False, **kwargs: Any) -> None:
        """Load <data>/<split>.tsv, or the split's manifests of several corpora.

        Args:
            split: name of the split.
            task_cfg: another AudioPretrainingConfig, such as a checkpoint's, to take normalisation and padding from;
                None: the task's own.
            combine: join valid.tsv, valid1.tsv, valid2.tsv ... if `split` is "valid" (dataset.combine_valid_subsets).
        Raises:
            ValueError: a manifest is missing or malformed.
        """
        cfg = self.cfg if task_cfg is None else task_cfg
        paths, weights = self._manifests(split, combine)
        manifest = JoinedManifest([Manifest(path) for path in paths])
        self.datasets[split] = self._audio(cfg, split, manifest, weights, pad=cfg.enable_padding)

    def _audio(
        self,
        cfg: Any,
        split: str,
        manifest: JoinedManifest,
        weights: Optional[list[float]],
        pad: bool,
        augmentation: Optional[Augmentation] = None,
    ) -> FileAudioDataset:
        """Create the data set of a split's manifests; `weights` are the shares of several corpora."""
        return FileAudioDataset(
            manifest,
            sample_rate=cfg.sample_rate,
            max_sample_size=self.cfg.max_sample_size,
            min_sample_size=self.cfg.min_sample_size,
            pad=pad,
            normalize=cfg.normalize,
            num_buckets=self.cfg.num_batch_buckets,
            options=ManifestOptions(
                self.cfg.seed,
                self.cfg.resample,
                cfg.subsample,
                weights,
                augmentation,
                CacheOptions(self.cfg.cache_dir, self.cfg.cache_gb),
                self.cfg.multi_corpus_sampling_alpha if len(manifest.manifests) > 1 else None,
                Corpora(tuple(self._corpora_of(split)), len(self.corpora)) if self.corpora else None,
            ),
        )

    def _chosen(self, split: str) -> list[tuple[str, str]]:
        """Return (corpus, name of its manifest) of a split of several corpora."""
        keys = _split_commas(self.cfg.multi_corpus_keys or "")
        if ":" not in split:
            return [(key, os.path.join(key, split)) for key in keys]
        # fairseq: the split itself names the manifest of each corpus
        pairs = [part.partition(":") for part in _split_commas(split)]
        chosen = [(key.strip(), name.strip()) for key, _, name in pairs]
        unknown = [key for key, _ in chosen if key not in keys]
        if unknown:
            raise ValueError(
                f"the split {split!r} names the corpus {unknown[0]!r}, but task.multi_corpus_keys has only "
                f"{', '.join(keys)}. Correct the split, or add the corpus."
            )
        return chosen

    def _corpora_of(self, split: str) -> list[int]:
        """Return the corpus of each manifest of a split, as a number in `corpora`."""
        return [self.corpora.index(key) for key, _ in self._chosen(split)]

    def _manifests(self, split: str, combine: bool) -> tuple[list[str], Optional[list[float]]]:
        """Return the paths of a split's manifests, and the weights of their corpora if there are any."""
        data = self.cfg.data
        if self.cfg.multi_corpus_keys is None:
            names = [split]
            if combine and split == "valid":
                number = 1
                while os.path.exists(find(os.path.join(data, f"{split}{number}.tsv"))):
                    names.append(f"{split}{number}")
                    number += 1
            return [os.path.join(data, f"{name}.tsv") for name in names], None
        keys, chosen = _split_commas(self.cfg.multi_corpus_keys), self._chosen(split)
        paths = [os.path.join(data, f"{name}.tsv") for _, name in chosen]
        if self.cfg.multi_corpus_sampling_weights is None or len(paths) == 1:
            return paths, None
        shares = dict(zip(keys, map(float, _split_commas(self.cfg.multi_corpus_sampling_weights)), strict=True))
        weights = [shares[key] for key, _ in chosen]
        if sum(weights) <= 0:
            raise ValueError(
                f"all corpora of the split {split!r} have weight 0 in task.multi_corpus_sampling_weights. Give at "
                "least one a weight above 0."
            )
        return paths, [weight / sum(weights) for weight in weights]

    def data_fingerprint(self) -> dict[str, str]:
        digests = {}
        for split, dataset in self.datasets.items():
            if not isinstance(dataset, _OF_MANIFESTS):
                continue
            digests[split] = dataset.manifest.digest()
        return digests

    def utterance_name(self, split: str, index: int) -> str:
        dataset = self.dataset(split)
        return dataset.name(index) if isinstance(dataset, _OF_MANIFESTS) else super().utterance_name(split, index)

    def split_source(self, split: str) -> str:
        dataset = self.dataset(split)
        return dataset.manifest.path if isinstance(dataset, _OF_MANIFESTS) else super().split_source(split)

    def batches(self, dataset: AudioDataset, epoch: int, limits: BatchLimits) -> Batches:
        if epoch != EVALUATION_EPOCH and not self.cfg.rebuild_batches:
            epoch = 1
        return super().batches(dataset, epoch, limits)

    # -- masks and model -----------------------------------------------------------------------------------------------

    def masks(self) -> Optional[Masks]:
        """Return the mask settings: task.inferred_w2v_config, else the model's; None if the model has no masks.

        The worker draws the negatives of validation batches if the model takes all of them from the utterance's masked
        frames.

        Raises:
            ValueError: the model has not been built, and task.inferred_w2v_config is not set.
        """
        inferred, model = self.cfg.inferred_w2v_config, self.model_cfg
        if inferred is None and model is None:
            raise ValueError("masks need the model's settings: build the model first, or set task.inferred_w2v_config.")
        if model is None or not hasattr(model, "mask_prob"):
            return None if inferred is None else PretrainingMasks.from_config(inferred)
        elsewhere = model.negatives_from_everywhere or model.cross_sample_negatives > 0 or model.codebook_negatives > 0
        return PretrainingMasks.from_config(
            model if inferred is None else inferred,
            model.mask_dropout,
            num_negatives=0 if elsewhere else model.num_negatives,
            same_count=model.require_same_masks,
            model=model,
        )

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Build the model, and keep its settings for the masks."""
        model = super().build_model(cfg, from_checkpoint)
        self.model_cfg = getattr(model, "cfg", cfg)  # the model's own copy, if any, has all defaults filled in
        return model

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: nn.Module) -> None:
        """See FairseqTask; with several corpora, also log the metrics of each."""
        own, of_corpora = per_corpus.split(logging_outputs)
        super().reduce_metrics(own, criterion)
        per_corpus.log(self.corpora, of_corpora)

    def max_positions(self) -> tuple[int, int]:
        return sys.maxsize, sys.maxsize
