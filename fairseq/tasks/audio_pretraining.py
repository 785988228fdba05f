"""Learning from raw audio without labels."""

import hashlib
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

from fairseq.data.add_target_dataset import AddTargetDataset
from fairseq.data.audio.augment import Augmentation
from fairseq.data.audio.manifest import JoinedManifest, Manifest
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset, ManifestOptions
from fairseq.data.audio_dataset import AudioDataset
from fairseq.data.batching import EVALUATION_EPOCH, Batches
from fairseq.data.options import BatchLimits
from fairseq.dataclass import ChoiceEnum, FairseqDataclass, Finding, wrong
from fairseq.masks.settings import Masks, PretrainingMasks
from fairseq.models.fairseq_model import BaseFairseqModel
from fairseq.models.wav2vec.config import conv_layer_findings
from fairseq.tasks import register_task
from fairseq.tasks.fairseq_task import FairseqTask

logger = logging.getLogger(__name__)

_OF_MANIFESTS = (FileAudioDataset, AddTargetDataset)  # a plug-in's task may load others
TEXT_COMPRESSION_CHOICES = ChoiceEnum(["none", "low", "high"])


@dataclass
class InferredW2vConfig(FairseqDataclass):
    """What a data-loading worker must know of the model to draw its masks; taken from the model's config unless set
    here.
    """

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
    data: str = field(default=MISSING, metadata={"help": "folder of the manifests, <split>.tsv"})
    labels: Optional[str] = field(
        default=None,
        metadata={
            "help": "extension of label files beside the manifests (ltr, wrd, phn): makes this task audio_finetuning"
        },
    )
    multi_corpus_keys: Optional[str] = field(
        default=None,
        metadata={
            "help": "comma-separated names of corpora to mix: a split is then <data>/<key>/<split>.tsv of each, or "
            "is itself written key:manifest,key:manifest"
        },
    )
    multi_corpus_sampling_weights: Optional[str] = field(
        default=None,
        metadata={
            "help": "comma-separated shares of the corpora in an epoch, in the order of multi_corpus_keys; sum 1"
        },
    )
    binarized_dataset: bool = field(
        default=False, metadata={"help": "not offered: manifests of any size load as they are", "refused": True}
    )
    sample_rate: int = field(
        default=16_000,
        metadata={"help": "Hz; what the audio must have, or is converted to with resample", "at_least": 1},
    )
    normalize: bool = field(
        default=False, metadata={"help": "audio of zero mean and unit variance (with extractor_mode layer_norm)"}
    )
    enable_padding: bool = field(
        default=False, metadata={"help": "pad a batch to its longest utterance; else crop to its shortest"}
    )
    max_sample_size: Optional[int] = field(
        default=None, metadata={"help": "longer utterances are cropped to this many samples", "at_least": 1}
    )
    min_sample_size: Optional[int] = field(
        default=None, metadata={"help": "shorter utterances (samples) are left out", "at_least": 0}
    )
    num_batch_buckets: int = field(
        default=0,
        metadata={
            "help": (
                "round padded lengths up to this many sizes, each with one batch shape (0: off); needs enable_padding"
            ),
            "at_least": 0,
        },
    )
    precompute_mask_indices: bool = field(
        default=False,
        metadata={"help": "fairseq's switch for masks drawn by the data-loading workers; here they always are"},
    )
    inferred_w2v_config: Optional[InferredW2vConfig] = field(
        default=None, metadata={"help": "mask settings for the workers; None: the model's"}
    )
    tpu: bool = II("common.tpu")
    text_compression_level: TEXT_COMPRESSION_CHOICES = field(
        default="none",
        metadata={"help": "fairseq's compression of file names; has no effect, they are held compactly in any case"},
    )
    rebuild_batches: bool = field(
        default=True, metadata={"help": "cut new batches each epoch; else shuffle those of the first"}
    )
    precompute_mask_config: Optional[Any] = field(
        default=None, metadata={"help": "not offered (data2vec 2): see inferred_w2v_config", "refused": True}
    )
    post_save_script: Optional[str] = field(default=None, metadata={"help": "not offered", "refused": True})
    subsample: float = field(default=1.0, metadata={"help": "share of the utterances to train on, drawn by seed"})
    seed: int = II("common.seed")
    resample: bool = field(
        default=False,
        metadata={
            "help": "convert files of another sample rate while reading (needs the extra `resample`); else an error"
        },
    )
    max_quarantined_share: float = field(
        default=0.01,
        metadata={
            "help": (
                "a run stops when more than this share of its files cannot be decoded; until then they are replaced"
            ),
            "share": True,
        },
    )

    def check(self) -> Iterator[Finding]:
        longest, shortest = self.max_sample_size, self.min_sample_size
        if longest is not None and shortest is not None and shortest > longest:
            yield wrong(
                f"task.min_sample_size is {shortest} but task.max_sample_size is {longest}: every utterance would be "
                "left out.",
                "batches",
            )
        if self.num_batch_buckets > 0 and not (self.enable_padding or self.labels):  # with labels, audio is padded
            yield wrong(
                f"task.num_batch_buckets is {self.num_batch_buckets} but task.enable_padding is false: buckets need "
                "padding.",
                "buckets-without-padding",
            )
        if not 0 < self.subsample <= 1:
            yield wrong(f"task.subsample is {self.subsample}; it must be above 0 and at most 1.", "corpora")
        yield from self._corpora()

    def _corpora(self) -> Iterator[Finding]:
        """Names and shares of several corpora."""
        keys, weights = self.multi_corpus_keys, self.multi_corpus_sampling_weights
        if keys is None:
            if weights is not None:
                yield wrong(
                    "task.multi_corpus_sampling_weights is set but task.multi_corpus_keys is not: weights of what?",
                    "corpora",
                )
            return
        for key in _split_commas(keys):
            if Path(key).is_absolute():
                yield wrong(
                    f"task.multi_corpus_keys names {key!r}: it must be the names of folders in task.data, such as "
                    "books,calls.",
                    "corpora",
                )
        if weights is None:
            return
        if len(_split_commas(weights)) != len(_split_commas(keys)):
            yield wrong(
                f"task.multi_corpus_sampling_weights is {weights!r}: it must be {len(_split_commas(keys))} numbers, "
                "one for each of task.multi_corpus_keys.",
                "corpora",
            )
            return
        try:
            shares = [float(text) for text in _split_commas(weights)]
        except ValueError:
            yield wrong(
                f"task.multi_corpus_sampling_weights is {weights!r}; it must be comma-separated numbers.", "corpora"
            )
            return
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            yield wrong(
                f"task.multi_corpus_sampling_weights is {weights!r}; shares must not be negative and sum to 1.",
                "corpora",
            )


def _split_commas(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


@register_task("audio_pretraining", dataclass=AudioPretrainingConfig)
class AudioPretrainingTask(FairseqTask):
    """Audio of manifests, masked by the data-loading workers.

    Raises:
        ValueError: all problems of the config together.
    """

    def __init__(self, cfg: Any, **kwargs: Any) -> None:
        super().__init__(cfg)
        if str(cfg.text_compression_level) != "none":
            logger.info("task.text_compression_level has no effect: file names are held compactly in any case")
        self.model_cfg: Any = None

    # -- data ----------------------------------------------------------------------------------------------------------

    @property
    def sample_rate(self) -> int:
        return self.cfg.sample_rate

    @property
    def max_quarantined_share(self) -> float:
        return self.cfg.max_quarantined_share

    def load_dataset(self, split: str, task_cfg: Any = None, combine: bool = False, **kwargs: Any) -> None:
        """Load <data>/<split>.tsv, or the split's manifests of several corpora.

        Args:
            task_cfg: another AudioPretrainingConfig for normalisation and padding, such as a checkpoint's; None: the
                task's own.
            combine: join valid.tsv, valid1.tsv, valid2.tsv ... if `split` is "valid" (dataset.combine_valid_subsets).
        Raises:
            ValueError: a manifest is missing or malformed.
        """
        cfg = self.cfg if task_cfg is None else task_cfg
        paths, weights = self._manifests(split, combine)
        self.datasets[split] = self._audio(
            cfg, JoinedManifest([Manifest(path) for path in paths]), weights, pad=cfg.enable_padding
        )

    def _audio(
        self,
        cfg: Any,
        manifest: JoinedManifest,
        weights: Optional[list[float]],
        pad: bool,
        augmentation: Optional[Augmentation] = None,
    ) -> FileAudioDataset:
        """The data set of a split's manifests; `weights` of several corpora."""
        return FileAudioDataset(
            manifest,
            sample_rate=cfg.sample_rate,
            max_sample_size=self.cfg.max_sample_size,
            min_sample_size=self.cfg.min_sample_size,
            pad=pad,
            normalize=cfg.normalize,
            num_buckets=self.cfg.num_batch_buckets,
            options=ManifestOptions(self.cfg.seed, self.cfg.resample, cfg.subsample, weights, augmentation),
        )

    def _manifests(self, split: str, combine: bool) -> tuple[list[str], Optional[list[float]]]:
        """Paths of a split's manifests, and the weights of their corpora if they are weighted."""
        data = self.cfg.data
        if self.cfg.multi_corpus_keys is None:
            names = [split]
            if combine and split == "valid":
                number = 1
                while os.path.exists(os.path.join(data, f"{split}{number}.tsv")):
                    names.append(f"{split}{number}")
                    number += 1
            return [os.path.join(data, f"{name}.tsv") for name in names], None
        keys = _split_commas(self.cfg.multi_corpus_keys)
        if ":" in split:  # fairseq: the split itself says which manifest each corpus has
            pairs = [part.partition(":") for part in _split_commas(split)]
            chosen = [(key.strip(), os.path.join(data, f"{name.strip()}.tsv")) for key, _, name in pairs]
        else:
            chosen = [(key, os.path.join(data, key, f"{split}.tsv")) for key in keys]
        unknown = [key for key, _ in chosen if key not in keys]
        if unknown:
            raise ValueError(
                f"the split {split!r} names the corpus {unknown[0]!r}; task.multi_corpus_keys has {', '.join(keys)}"
            )
        paths = [path for _, path in chosen]
        if self.cfg.multi_corpus_sampling_weights is None or len(paths) == 1:
            return paths, None
        shares = dict(zip(keys, map(float, _split_commas(self.cfg.multi_corpus_sampling_weights)), strict=True))
        weights = [shares[key] for key, _ in chosen]
        if sum(weights) <= 0:
            raise ValueError(f"the corpora of the split {split!r} have no weight in task.multi_corpus_sampling_weights")
        return paths, [weight / sum(weights) for weight in weights]

    def data_fingerprint(self) -> dict[str, str]:
        digests = {}
        for split, dataset in self.datasets.items():
            if not isinstance(dataset, _OF_MANIFESTS):
                continue
            digest = hashlib.blake2b(digest_size=16)
            for manifest in dataset.manifest.manifests:
                digest.update(manifest.listing())
            digests[split] = digest.hexdigest()
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
        """Mask settings: task.inferred_w2v_config, else the model's; None for a model whose config knows no masks.

        Negatives of validation batches come from the worker if the model takes all of them from the utterance's masked
        frames.
        """
        inferred, model = self.cfg.inferred_w2v_config, self.model_cfg
        if inferred is None and model is None:
            raise ValueError("masks need the model's settings: build the model first, or fill task.inferred_w2v_config")
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
        """Build the model, and remember its settings for the masks."""
        model = super().build_model(cfg, from_checkpoint)
        self.model_cfg = getattr(model, "cfg", cfg)  # completed by its dataclass, where the model keeps it
        return model

    def max_positions(self) -> tuple[int, int]:
        return sys.maxsize, sys.maxsize
