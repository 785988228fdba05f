"""Raw audio from manifests, and the batches that pre-training takes of it. Letters: B utterances, S samples, T
frames, C channels.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq.data.audio.audio_utils import Samples, UnreadableAudio, read_frames, read_samples
from fairseq.data.audio.augment import Augmentation
from fairseq.data.audio.manifest import JoinedManifest, Manifest, printable
from fairseq.data.audio.quarantine import PatientReader, Trouble
from fairseq.data.audio.sizes import epoch_sample, sizes_at_rate
from fairseq.data.batch import Batch, NetInput
from fairseq.data.batching import EVALUATION_EPOCH, Batches, BatchPlan, make_batches
from fairseq.data.buckets import bucket_shapes, get_bucketed_sizes, get_buckets
from fairseq.data.fairseq_dataset import FairseqDataset
from fairseq.data.options import BatchLimits
from fairseq.frames import receptive_field
from fairseq.masks.batch import Rows, draw_masks
from fairseq.masks.selections import parameter_keys
from fairseq.masks.settings import WORKER_SETTINGS, Masks, PretrainingMasks, WorkerFields

logger = logging.getLogger(__name__)

_ORDER = 1  # third number of the key of the utterances' order; the order of batches has another
_SUBSAMPLE = 3


class _Crops(NamedTuple):
    """The audio of a batch's rows."""

    source: np.ndarray  # float32, B x S
    lengths: np.ndarray  # int64, B: samples, padding not counted
    ids: np.ndarray  # int64, B: indices of the utterances
    whole: np.ndarray  # bool, B: whether a row holds all of its utterance
    quarantined: list[Trouble]


class RawAudioDataset(FairseqDataset):
    """Utterances of raw audio: their order, their batches, and what a batch holds. Subclasses know where the audio is.

    Args:
        sample_rate: Hz; every file must have it.
        max_sample_size: longer utterances are cropped to this many samples; None: never.
        min_sample_size: shorter utterances are left out.
        shuffle: a keyed order each epoch, random among utterances of one length; else the manifest's order.
        pad: a batch's rows are padded to its longest; else cropped to its shortest.
        normalize: zero mean and unit variance. fairseq normalises an utterance before it is cropped; here only the crop
            is decoded, so it is the crop that is normalised. The two differ for utterances longer than their crop.
        seed: with epoch and index, the key of an utterance's crop and masks.
    """

    makes_filler = True

    def __init__(
        self,
        sample_rate: int,
        max_sample_size: int | None = None,
        min_sample_size: int | None = 0,
        shuffle: bool = True,
        pad: bool = False,
        normalize: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__()
        if max_sample_size is not None and max_sample_size < max(1, min_sample_size or 0):
            raise ValueError(
                f"task.max_sample_size is {max_sample_size}; it may be 1 or more, and not below task.min_sample_size"
            )
        self.sample_rate = sample_rate
        self.max_sample_size = max_sample_size if max_sample_size is not None else sys.maxsize
        self.min_sample_size = min_sample_size or 0
        self.shuffle = shuffle
        self.pad = pad
        self.normalize = normalize
        self.seed = seed
        self.epoch = 1
        self.num_buckets = 0
        self.masks: Masks | None = None
        self.augmentation: Augmentation | None = None
        self.least_samples: np.ndarray | None = None  # below which no change of speed takes an utterance
        self.sizes = np.zeros(0, dtype=np.int64)
        self.buckets = np.zeros(0, dtype=np.int64)
        self._told_too_short = False
        self._patient_reader: PatientReader | None = None

    # -- what a subclass gives -----------------------------------------------------------------------------------------

    def name(self, index: int) -> str:
        """What logs call an utterance."""
        raise NotImplementedError

    def read(self, index: int, start: int, out: np.ndarray) -> Samples | None:
        """Fill `out`, float32, with an utterance's samples from `start`; what its header says, if there is one.
        Raises UnreadableAudio.
        """
        raise NotImplementedError

    def whole(self, index: int) -> np.ndarray:
        """All samples of an utterance, float32, S. Raises UnreadableAudio."""
        raise NotImplementedError

    def check(self, index: int) -> None:
        """Called with an utterance that cannot be read: raise ValueError if none of its neighbours can be read
        either.
        """

    # -- sizes and settings --------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.sizes)

    def size(self, index: int) -> int:
        """Samples, after cropping where nothing is padded. fairseq: with padding, the whole utterance's."""
        return int(self.sizes[index]) if self.pad else min(int(self.sizes[index]), self.max_sample_size)

    def num_tokens(self, index: int) -> int:
        return min(int(self.sizes[index]), self.max_sample_size)

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return np.minimum(self.sizes[indices], self.max_sample_size)

    def lengths(self, indices: np.ndarray, epoch: int) -> np.ndarray:
        """Samples of these utterances, or copies of them, in an epoch's batches: `num_tokens_vec`, at the speed
        that training draws.
        """
        own = indices % max(1, len(self))
        sizes = self.num_tokens_vec(own)
        if self.augmentation is None or epoch == EVALUATION_EPOCH:
            return sizes
        return self._allowed(self.augmentation.lengths(sizes, indices, self.seed, epoch), own)

    def length_range(self) -> tuple[np.ndarray, np.ndarray]:
        """(shortest, longest) that every utterance may have in training."""
        own = np.arange(len(self))
        sizes = self.num_tokens_vec(own)
        if self.augmentation is None:
            return sizes, sizes
        shortest, longest = self.augmentation.range_of(sizes)
        return self._allowed(shortest, own), self._allowed(longest, own)

    def _allowed(self, lengths: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Lengths that the largest batch shape holds, and that are enough for a frame and for the label."""
        longest = int(self.buckets[-1]) if len(self.buckets) else self.max_sample_size
        least = (
            self._shortest() if self.least_samples is None else np.maximum(self.least_samples[own], self._shortest())
        )
        return np.clip(lengths, np.minimum(least, self.sizes[own]), longest)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def set_masks(self, masks: Masks | None) -> None:
        """Draw masks by these settings from now on; None: make batches without masks."""
        self.masks = masks

    def set_bucket_info(self, num_buckets: int) -> None:
        """Round batch lengths up to `num_buckets` quantiles of the utterances' lengths; 0: no buckets.

        Raises:
            ValueError: buckets without padding.
        """
        self.num_buckets = num_buckets
        if num_buckets == 0:
            return
        if not self.pad:
            raise ValueError(
                f"task.num_batch_buckets is {num_buckets} but task.enable_padding is false: buckets need padding"
            )
        if len(self):
            self.buckets = get_buckets(self.num_tokens_vec(np.arange(len(self))), num_buckets)
            self._bucketed_sizes = get_bucketed_sizes(self.num_tokens_vec(np.arange(len(self))), self.buckets)
            logger.info("%d bucket(s) for the audio: %s samples", len(self.buckets), self.buckets.tolist())

    # -- order and batches ---------------------------------------------------------------------------------------------

    def sample(self, epoch: int) -> np.ndarray:
        """Indices that an epoch holds; beyond len(self) they are further copies, which get crops and masks of their
        own.
        """
        return np.arange(len(self), dtype=np.int64)

    def ordered_indices(self) -> np.ndarray:
        """Indices in the order of batching, longest first; a function of seed and the epoch that `set_epoch` told."""
        return self._order(self.epoch)

    def _order(self, epoch: int) -> np.ndarray:
        indices = self._long_enough(self.sample(epoch))
        if not self.shuffle:
            return indices
        if epoch == EVALUATION_EPOCH:
            tie_break = np.arange(len(indices))[::-1]
        else:
            tie_break = np.random.default_rng([self.seed, epoch, _ORDER]).permutation(len(indices))
        if self.num_buckets:  # rows of a bucket are padded to one length, whatever their own: no need to sort within it
            return indices[np.argsort(tie_break)]
        return indices[np.lexsort((tie_break, self.lengths(indices, epoch)))[::-1]]

    def _long_enough(self, indices: np.ndarray) -> np.ndarray:
        """Without the utterances that give the model no frame at all."""
        if self.masks is None:
            return indices
        shortest = self._shortest()
        kept = indices[self.sizes[indices % max(1, len(self))] >= shortest]
        if len(kept) < len(indices) and not self._told_too_short:
            self._told_too_short = True
            left_out = len(indices) - len(kept)
            logger.warning(
                "%d utterances are shorter than the model's receptive field of %d samples: left out", left_out, shortest
            )
        return kept

    def _shortest(self) -> int:
        return receptive_field(self.masks.conv_layers)[0] if self.masks is not None else 1

    def batches(self, epoch: int, limits: BatchLimits) -> Batches:
        """Cut an epoch into batches; a function of (seed, epoch) and the limits.

        Args:
            epoch: EVALUATION_EPOCH makes the same batches each time.
        """
        order = self._order(epoch)
        if limits.max_size is not None:
            order = order[self.sizes[order % max(1, len(self))] <= limits.max_size]
        shapes = bucket_shapes(self.buckets, limits) if self.num_buckets else None
        # else the slowest may be met epochs later
        if self.augmentation is not None and epoch != EVALUATION_EPOCH and len(order):
            limits.check(int(self.length_range()[1][order % len(self)].max()))
        return make_batches(self.lengths(order, epoch), order, limits, self.pad, shapes)

    def total_samples(self, batches: Batches, epoch: int) -> int:
        """Samples that an epoch's batches hold, neither padding nor filler counted."""
        return int(
            np.minimum(
                self.lengths(batches.indices, epoch), np.repeat(batches.lengths, np.diff(batches.ends, prepend=0))
            ).sum()
        )

    # -- one batch -----------------------------------------------------------------------------------------------------

    def postprocess(self, feats: Tensor, curr_sample_rate: int) -> Tensor:
        """A decoded waveform as the model takes it: samples (x channels) -> S, mean of the channels, normalised if
        asked for.
        """
        if curr_sample_rate != self.sample_rate:
            raise ValueError(f"sample rate: {curr_sample_rate} Hz, task.sample_rate is {self.sample_rate} Hz")
        if feats.dim() == 2:
            feats = feats.mean(-1)
        return F.layer_norm(feats, feats.shape) if self.normalize else feats

    def collate_plan(self, plan: BatchPlan) -> Batch:
        """Make the batch that a plan describes: crops, waveforms, masks. This is a data-loading worker's work.

        Rows of filler hold what the first row holds; `masked_weights` says that they do not count.

        Raises:
            ValueError: a file has another sample rate, or hardly any file can be read.
        """
        keys = plan.indices[: max(1, plan.num_valid)].tolist()  # of a batch that is all filler, one row is decoded
        generators = [np.random.default_rng([self.seed, plan.epoch, key]) for key in keys]
        crops = self._crops(plan, generators)
        evaluation = plan.epoch == EVALUATION_EPOCH
        rows = Rows(plan.num_samples, crops.lengths, plan.num_valid, generators, evaluation)
        drawn, few_masked = draw_masks(self.masks, rows)
        net_input: NetInput = {"source": torch.from_numpy(crops.source)}
        if self.pad:
            net_input["padding_mask"] = torch.from_numpy(np.arange(plan.num_samples) >= crops.lengths[:, None])
        return {
            "id": torch.from_numpy(crops.ids),
            "net_input": {**net_input, **drawn},
            "micro": plan.micro,
            "num_valid": plan.num_valid,
            "num_samples": int(crops.lengths[: plan.num_valid].sum()),
            "quarantined": crops.quarantined,
            "few_masked": few_masked,
            "whole": crops.whole.tolist(),
        }

    def _crops(self, plan: BatchPlan, generators: list[np.random.Generator]) -> _Crops:
        """Decode a row for each generator, and fill the others with the first."""
        num_rows, decoded = len(plan.indices), len(generators)
        crops = _Crops(
            np.zeros((num_rows, plan.num_samples), dtype=np.float32),
            np.zeros(num_rows, dtype=np.int64),
            np.zeros(num_rows, dtype=np.int64),
            np.ones(num_rows, dtype=bool),
            [],
        )
        augmentation = None if plan.epoch == EVALUATION_EPOCH else self.augmentation
        wanted = self.lengths(plan.indices[:decoded], plan.epoch)
        at_least = self._shortest() if self.pad else plan.num_samples  # without padding a row must fill its place
        for row, rng in enumerate(generators):
            index, out = int(plan.indices[row]) % len(self), crops.source[row]
            wave = out if augmentation is None else np.zeros(self.sizes[index], dtype=np.float32)
            number, length = self._reader().crop(index, wave, at_least, rng.random(), crops.quarantined)
            crops.ids[row], crops.whole[row] = number, length == self.sizes[number]
            if augmentation is not None:
                # a stand-in is shorter, or is cropped
                changed = max(1, round(length * int(wanted[row]) / len(wave)))
                out[:changed] = augmentation.apply(wave[:length], changed, self.sample_rate, rng)
                length = changed
            if self.normalize:
                samples = torch.from_numpy(out[:length])  # the same memory
                samples.copy_(self.postprocess(samples, self.sample_rate))
            crops.lengths[row] = length
        for column in crops[:4]:
            column[decoded:] = column[0]
        return crops

    def _reader(self) -> PatientReader:
        if self._patient_reader is None:
            self._patient_reader = PatientReader(self.sizes, self.read, self.name, self.check)
        return self._patient_reader

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A whole utterance: {"id", "source": float32, S}.

        Raises:
            ValueError: it cannot be decoded, or has another sample rate.
        """
        try:
            wave = self.whole(index)
        except UnreadableAudio as error:
            raise ValueError(f"{self.name(index)} cannot be decoded: {error}") from error
        return {"id": index, "source": self.postprocess(torch.from_numpy(wave), self.sample_rate)}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of whole utterances as `__getitem__` returns them: padded, or cropped at a place keyed by seed, epoch
        and index.

        For tools that use the data set by hand; training makes its batches with `collate_plan`.
        """
        samples = [s for s in samples if s["source"] is not None]
        if not samples:
            return {}
        lengths = [min(len(s["source"]), self.max_sample_size) for s in samples]
        length = max(lengths) if self.pad else min(lengths)
        if self.num_buckets:
            length = int(self.buckets[np.searchsorted(self.buckets, length)])
        source = samples[0]["source"].new_zeros(len(samples), length)
        for row, sample in zip(source, samples, strict=False):
            wave = sample["source"]
            surplus = max(0, len(wave) - length)
            start = int(np.random.default_rng([self.seed, self.epoch, sample["id"]]).random() * (surplus + 1))
            row[: len(wave) - surplus] = wave[start : start + length]
        net_input = {"source": source}
        if self.pad:
            net_input["padding_mask"] = torch.arange(length) >= torch.tensor([min(n, length) for n in lengths])[:, None]
        return {"id": torch.tensor([s["id"] for s in samples]), "net_input": net_input}


@dataclass(frozen=True)
class ManifestOptions:
    """What fairseq's FileAudioDataset cannot do."""

    seed: int = 1  # with epoch and index, the key of an utterance's crop and masks
    resample: bool = False  # convert files of another sample rate while reading, and the manifest's lengths too
    subsample: float = 1.0  # share of the utterances to keep, drawn by `seed`
    weights: Sequence[float] | None = None  # shares of several manifests in an epoch; None: every utterance once
    augmentation: Augmentation | None = None  # of training's padded, whole recordings


_AS_FAIRSEQ = ManifestOptions()


class FileAudioDataset(RawAudioDataset):
    """Audio files that a manifest lists.

    Args:
        manifest_path: fairseq's tsv, or manifests that are already loaded.
        num_buckets: see `set_bucket_info`.
        compute_mask_indices: fairseq's switch for masks made in the worker, with the settings of `inferred_w2v_config`
            in `mask_compute_kwargs`. Without it masks follow once `set_masks` is called.
        text_compression_level: fairseq's; has no effect, names are held compactly in any case.
        options: what fairseq has no argument for.
    Raises:
        ValueError: a manifest without files, or settings that no mask can be drawn from.
        TypeError: an argument that is no mask setting either.
    """

    def __init__(
        self,
        manifest_path: str | JoinedManifest,
        sample_rate: int,
        max_sample_size: int | None = None,
        min_sample_size: int | None = 0,
        shuffle: bool = True,
        pad: bool = False,
        normalize: bool = False,
        num_buckets: int = 0,
        compute_mask_indices: bool = False,
        text_compression_level: Any = "none",
        options: ManifestOptions = _AS_FAIRSEQ,
        **mask_compute_kwargs: Any,
    ) -> None:
        super().__init__(sample_rate, max_sample_size, min_sample_size, shuffle, pad, normalize, options.seed)
        self.manifest = JoinedManifest([Manifest(manifest_path)]) if isinstance(manifest_path, str) else manifest_path
        if len(self.manifest) == 0:
            raise ValueError(
                f"{self.manifest.path}, line 2: there is no line of a file below the root. Make the manifest again"
            )
        self.resample, self.weights, self.augmentation = options.resample, options.weights, options.augmentation
        assert self.augmentation is None or pad, "a crop of a recording whose speed changes is not offered"
        all_sizes = sizes_at_rate(self.manifest, sample_rate) if self.resample else self.manifest.sizes
        kept = np.flatnonzero(all_sizes >= self.min_sample_size)
        self.skipped = len(all_sizes) - len(kept)
        if options.subsample < 1:
            shuffled = np.random.default_rng([self.seed, _SUBSAMPLE]).permutation(len(kept))
            kept = kept[np.sort(shuffled[: int(np.ceil(len(kept) * options.subsample))])]
        self.lines = kept.astype(np.int32)  # of the manifest, the first after the root being 0
        self.sizes = all_sizes[kept]
        logger.info("loaded %d, skipped %d samples", len(self.sizes), self.skipped)
        self.set_bucket_info(num_buckets)
        unknown = mask_compute_kwargs.keys() - {*WORKER_SETTINGS, *parameter_keys()}
        if unknown:
            raise TypeError(f"FileAudioDataset has no argument {', '.join(sorted(unknown))}")
        if compute_mask_indices:
            self.set_masks(PretrainingMasks.from_config(cast(WorkerFields, SimpleNamespace(**mask_compute_kwargs))))

    def leave_out(self, indices: np.ndarray) -> None:
        """Go on without these utterances; the others are numbered anew."""
        self.lines, self.sizes = np.delete(self.lines, indices), np.delete(self.sizes, indices)
        self.skipped += len(indices)
        self._patient_reader = None
        self.set_bucket_info(self.num_buckets)

    @property
    def skipped_indices(self) -> set[int]:
        """Lines of the manifest (the first after the root is 0) that are not in the data set."""
        return set(range(len(self.manifest))) - set(self.lines.tolist())

    @property
    def root_dir(self) -> str:
        """Root of the first manifest."""
        return self.manifest.manifests[0].root

    def name(self, index: int) -> str:
        return printable(self.file(index))

    def file(self, index: int) -> str:
        """Where an utterance lies; a name that is not UTF-8 has surrogates, as Python's functions for files take it."""
        return self.manifest.file(int(self.lines[index]))

    def sample(self, epoch: int) -> np.ndarray:
        if self.weights is None or epoch == EVALUATION_EPOCH:
            return super().sample(epoch)
        bounds = np.searchsorted(self.lines, self.manifest.offsets)
        return epoch_sample(np.diff(bounds), self.weights, np.random.default_rng([self.seed, epoch, _ORDER, 0]))

    def read(self, index: int, start: int, out: np.ndarray) -> Samples:
        return read_samples(self.file(index), start, len(out), self.sample_rate, self.resample, out)

    def whole(self, index: int) -> np.ndarray:
        return read_frames(self.file(index), 0, -1, self.sample_rate, self.resample)

    def check(self, index: int) -> None:
        self.manifest.check_root(int(self.lines[index]))
