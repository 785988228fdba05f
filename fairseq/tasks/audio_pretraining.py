"""Learning from raw audio without labels."""

import hashlib
import logging
import os
import sys
from dataclasses import dataclass, field
from typing import Any, Optional

from omegaconf import II, MISSING

from fairseq.data.audio.augment import Augmentation
from fairseq.data.audio.manifest import JoinedManifest, Manifest
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset, ManifestOptions
from fairseq.data.audio_dataset import AudioDataset
from fairseq.data.batching import EVALUATION_EPOCH, Batches
from fairseq.data.options import BatchLimits
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.masks.settings import PretrainingMasks
from fairseq.models.fairseq_model import BaseFairseqModel
from fairseq.tasks import register_task
from fairseq.tasks.fairseq_task import FairseqTask

logger = logging.getLogger(__name__)

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
        default=False, metadata={"help": "not offered: manifests of any size load as they are"}
    )
    sample_rate: int = field(
        default=16_000, metadata={"help": "Hz; what the audio must have, or is converted to with resample"}
    )
    normalize: bool = field(
        default=False, metadata={"help": "audio of zero mean and unit variance (with extractor_mode layer_norm)"}
    )
    enable_padding: bool = field(
        default=False, metadata={"help": "pad a batch to its longest utterance; else crop to its shortest"}
    )
    max_sample_size: Optional[int] = field(
        default=None, metadata={"help": "longer utterances are cropped to this many samples"}
    )
    min_sample_size: Optional[int] = field(default=None, metadata={"help": "shorter utterances (samples) are left out"})
    num_batch_buckets: int = field(
        default=0,
        metadata={
            "help": (
                "round padded lengths up to this many sizes, each with one batch shape (0: off); needs enable_padding"
            )
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
    text_compression_level: TEXT_COMPRESSION_CHOICES = field(  # type: ignore[valid-type]
        default="none",
        metadata={"help": "fairseq's compression of file names; has no effect, they are held compactly in any case"},
    )
    rebuild_batches: bool = field(
        default=True, metadata={"help": "cut new batches each epoch; else shuffle those of the first"}
    )
    precompute_mask_config: Optional[Any] = field(
        default=None, metadata={"help": "not offered (data2vec 2): see inferred_w2v_config"}
    )
    post_save_script: Optional[str] = field(default=None, metadata={"help": "not offered"})
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
            "help": "a run stops when more than this share of its files cannot be decoded; until then they are replaced"
        },
    )


def config_problems(cfg: Any) -> list[str]:
    """What is wrong with the values of an AudioPretrainingConfig; a sentence each."""
    problems = []
    for key, instead in {
        "binarized_dataset": "leave it false: plain manifests load quickly at any size",
        "precompute_mask_config": "use task.inferred_w2v_config for the mask settings of wav2vec 2.0",
        "post_save_script": "run it beside the training, on the files in checkpoint.save_dir",
    }.items():
        if cfg[key]:
            problems.append(f"task.{key} is {cfg[key]!r}, which is not offered: {instead}.")
    if cfg.num_batch_buckets < 0:
        problems.append(f"task.num_batch_buckets is {cfg.num_batch_buckets}; it must be 0 (off) or more.")
    if cfg.num_batch_buckets > 0 and not (cfg.enable_padding or cfg.labels):  # with labels, audio is always padded
        problems.append(
            f"task.num_batch_buckets is {cfg.num_batch_buckets} but task.enable_padding is false: buckets need padding."
        )
    if not 0 < cfg.subsample <= 1:
        problems.append(f"task.subsample is {cfg.subsample}; it must be above 0 and at most 1.")
    if not 0 <= cfg.max_quarantined_share <= 1:
        problems.append(f"task.max_quarantined_share is {cfg.max_quarantined_share}; it must lie between 0 and 1.")
    return problems + _corpus_problems(cfg)


def _corpus_problems(cfg: Any) -> list[str]:
    if cfg.multi_corpus_keys is None:
        if cfg.multi_corpus_sampling_weights is not None:
            return ["task.multi_corpus_sampling_weights is set but task.multi_corpus_keys is not: weights of what?"]
        return []
    if cfg.multi_corpus_sampling_weights is None:
        return []
    keys, texts = _split_commas(cfg.multi_corpus_keys), _split_commas(cfg.multi_corpus_sampling_weights)
    try:
        weights = [float(text) for text in texts]
    except ValueError:
        return [
            f"task.multi_corpus_sampling_weights is {cfg.multi_corpus_sampling_weights!r}; it must be "
            "comma-separated numbers."
        ]
    if len(weights) != len(keys):
        return [
            f"task.multi_corpus_sampling_weights has {len(weights)} numbers for the {len(keys)} corpora of "
            "task.multi_corpus_keys."
        ]
    if min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        return [
            f"task.multi_corpus_sampling_weights is {cfg.multi_corpus_sampling_weights!r}; shares must not be "
            "negative and sum to 1."
        ]
    return []


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
        problems = config_problems(cfg)
        if problems:
            raise ValueError("\n".join(problems))
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
            digest = hashlib.blake2b(digest_size=16)
            for manifest in dataset.manifest.manifests:
                digest.update(manifest.listing())
            digests[split] = digest.hexdigest()
        return digests

    def utterance_name(self, split: str, index: int) -> str:
        return self.dataset(split).name(index)

    def split_source(self, split: str) -> str:
        return self.dataset(split).manifest.path

    def batches(self, dataset: AudioDataset, epoch: int, limits: BatchLimits) -> Batches:
        if epoch != EVALUATION_EPOCH and not self.cfg.rebuild_batches:
            epoch = 1
        return super().batches(dataset, epoch, limits)

    # -- masks and model -----------------------------------------------------------------------------------------------

    def masks(self) -> Optional[PretrainingMasks]:
        """Mask settings: task.inferred_w2v_config, else the model's; None for a model whose config knows no masks.

        Negatives of validation batches come from the worker if the model takes all of them from the utterance's masked
        frames.
        """
        inferred, model = self.cfg.inferred_w2v_config, self.model_cfg
        if inferred is None and model is None:
            raise ValueError("masks need the model's settings: build the model first, or fill task.inferred_w2v_config")
        dropout, same_count, num_negatives = 0.0, True, 0
        if model is not None and hasattr(model, "mask_prob"):
            dropout, same_count = model.mask_dropout, model.require_same_masks
            elsewhere = (
                model.negatives_from_everywhere or model.cross_sample_negatives > 0 or model.codebook_negatives > 0
            )
            num_negatives = 0 if elsewhere else model.num_negatives
        elif inferred is None:
            return None
        return PretrainingMasks.from_config(
            inferred if inferred is not None else model, dropout, num_negatives, same_count
        )

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Build the model, and remember its settings for the masks."""
        model = super().build_model(cfg, from_checkpoint)
        self.model_cfg = getattr(model, "cfg", cfg)  # completed by its dataclass, where the model keeps it
        return model

    def max_positions(self) -> tuple[int, int]:
        return sys.maxsize, sys.maxsize
