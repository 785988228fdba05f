"""Raw audio from manifests, and its batches for pre-training. Letters: B utterances, S samples."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq.data.audio.audio_utils import Samples, UnreadableAudio, read_frames, read_samples
from fairseq.data.audio.augment import Augmentation
from fairseq.data.audio.corpora import Amounts, amounts, weights_by_alpha
from fairseq.data.audio.manifest import JoinedManifest, Manifest, printable
from fairseq.data.audio.manifest_options import ManifestOptions
from fairseq.data.audio.planned import ORDER, PlannedAudio
from fairseq.data.audio.quarantine import PatientReader, Trouble
from fairseq.data.audio.sizes import Selection, epoch_sample, extents
from fairseq.data.batch import Batch, NetInput
from fairseq.data.batching import EVALUATION_EPOCH, BatchPlan
from fairseq.data.mapped import shared
from fairseq.data.storage import reader
from fairseq.masks.batch import Rows, draw_masks
from fairseq.masks.selections import parameter_keys
from fairseq.masks.settings import WORKER_SETTINGS, Masks, PretrainingMasks, WorkerFields

logger = logging.getLogger(__name__)

_SUBSAMPLE = 3  # third number of the key of the subsample; see `planned`


class _Crops(NamedTuple):
    """The audio of a batch's rows."""

    source: np.ndarray  # float32, B x S
    lengths: np.ndarray  # int64, B: samples without padding
    ids: np.ndarray  # int64, B: indices of the utterances
    whole: np.ndarray  # bool, B: whether a row holds the whole utterance
    quarantined: list[Trouble]


class RawAudioDataset(PlannedAudio):
    """Utterances of raw audio: their order, batches, and the contents of a batch. Subclasses locate the audio.

    Args:
        sample_rate: Hz; every file must have this rate.
        max_sample_size: longer utterances are cropped to this many samples; None: no limit.
        min_sample_size: shorter utterances (samples) are skipped.
        shuffle: use a keyed order each epoch, random among utterances of equal length; otherwise the manifest's order.
        pad: pad a batch's rows to its longest; otherwise crop them to its shortest.
        normalize: normalise to zero mean and unit variance. fairseq normalises an utterance before cropping it; here
            only the crop is decoded, so the crop is normalised. The results differ if an utterance is cropped.
        seed: with epoch and index, the key of an utterance's crop and masks.
    Raises:
        ValueError: max_sample_size is below 1 or below min_sample_size.
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
                f"task.max_sample_size is {max_sample_size}; it must be at least 1 and at least task.min_sample_size."
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
        self.least_samples: np.ndarray | None = None  # minimum length after a speed change
        self.sizes = np.zeros(0, dtype=np.int64)
        self.buckets = np.zeros(0, dtype=np.int64)
        self._warned_too_short = False
        self._patient_reader: PatientReader | None = None

    # -- implemented by subclasses -------------------------------------------------------------------------------------

    def name(self, index: int) -> str:
        """Return the name of an utterance in logs."""
        raise NotImplementedError

    def read(self, index: int, start: int, out: np.ndarray) -> Samples | None:
        """Fill `out`, float32, with an utterance's samples from `start`; return them with the header's length, or None.

        Raises:
            UnreadableAudio: the audio cannot be decoded.
        """
        raise NotImplementedError

    def whole(self, index: int) -> np.ndarray:
        """Read all samples of an utterance, float32, S; raises UnreadableAudio if it cannot be decoded."""
        raise NotImplementedError

    def check(self, index: int) -> None:
        """Raise ValueError if this utterance cannot be read because its whole folder is missing."""

    # -- sizes and settings --------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.sizes)

    def size(self, index: int) -> int:
        """Return the samples of an utterance, after cropping unless rows are padded, as in fairseq."""
        return int(self.sizes[index]) if self.pad else min(int(self.sizes[index]), self.max_sample_size)

    def num_tokens(self, index: int) -> int:
        return min(int(self.sizes[index]), self.max_sample_size)

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return np.minimum(self.sizes[indices], self.max_sample_size)

    # -- one batch -----------------------------------------------------------------------------------------------------

    def postprocess(self, feats: Tensor, curr_sample_rate: int) -> Tensor:
        """Average the channels of a waveform, S or S x channels, and normalise it if `normalize` is true.

        Raises:
            ValueError: the sample rate is not that of the data set.
        """
        if curr_sample_rate != self.sample_rate:
            raise ValueError(
                f"the sample rate is {curr_sample_rate} Hz, but task.sample_rate is {self.sample_rate} Hz. They must "
                "be equal."
            )
        if feats.dim() == 2:
            feats = feats.mean(-1)
        return F.layer_norm(feats, feats.shape) if self.normalize else feats

    def collate_plan(self, plan: BatchPlan) -> Batch:
        """Create the batch of a plan: crops, waveforms and masks. Called in a data-loading worker.

        Filler rows are copies of the first row with weight 0 in `masked_weights`.

        Raises:
            ValueError: a file has another sample rate, or too many files in a row cannot be read.
        """
        keys = plan.indices[: max(1, plan.num_valid)].tolist()  # if all rows are filler, decode one
        generators = [np.random.default_rng([self.seed, plan.epoch, key]) for key in keys]
        crops = self._crops(plan, generators)
        evaluation = plan.epoch == EVALUATION_EPOCH
        rows = Rows(plan.num_samples, crops.lengths, plan.num_valid, generators, evaluation)
        drawn = draw_masks(self.masks, rows)
        net_input: NetInput = {"source": torch.from_numpy(crops.source)}
        if self.pad:
            net_input["padding_mask"] = torch.from_numpy(np.arange(plan.num_samples) >= crops.lengths[:, None])
        return {
            "id": torch.from_numpy(crops.ids),
            "net_input": {**net_input, **drawn.inputs},
            "micro": plan.micro,
            "num_valid": plan.num_valid,
            "num_samples": int(crops.lengths[: plan.num_valid].sum()),
            "quarantined": crops.quarantined,
            "few_masked": drawn.few_masked,
            "num_masked": drawn.num_masked,
            "num_frames": drawn.num_frames,
            "whole": crops.whole.tolist(),
        }

    def _crops(self, plan: BatchPlan, generators: list[np.random.Generator]) -> _Crops:
        """Decode one row per generator, and copy the first row to the rest."""
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
        at_least = self._shortest() if self.pad else plan.num_samples  # without padding, a row must be full
        for row, rng in enumerate(generators):
            index, out = int(plan.indices[row]) % len(self), crops.source[row]
            wave = out if augmentation is None else np.zeros(self.sizes[index], dtype=np.float32)
            number, length = self._reader().crop(index, wave, at_least, rng.random(), crops.quarantined)
            crops.ids[row], crops.whole[row] = number, length == self.sizes[number]
            if augmentation is not None:
                # a replacement can be shorter, and is cropped if it is longer
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
        """Return a whole utterance: {"id", "source": float32, S}.

        Raises:
            ValueError: the file cannot be decoded, or has another sample rate.
        """
        try:
            wave = self.whole(index)
        except UnreadableAudio as error:
            raise ValueError(f"{self.name(index)} cannot be decoded: {error}") from error
        return {"id": index, "source": self.postprocess(torch.from_numpy(wave), self.sample_rate)}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate results of `__getitem__`: padded, or cropped at a position keyed by seed, epoch and index.

        For tools that use the data set directly; training uses `collate_plan`.
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


_AS_FAIRSEQ = ManifestOptions()


class FileAudioDataset(RawAudioDataset):
    """Audio files listed in a manifest. See RawAudioDataset for the arguments that are not described here.

    Args:
        manifest_path: path of a manifest, or manifests that are already loaded.
        num_buckets: see `set_bucket_info`.
        compute_mask_indices: draw masks in the worker with the settings in `mask_compute_kwargs` (those of
            `inferred_w2v_config`), as in fairseq. If False, masks are drawn after a call of `set_masks`.
        text_compression_level: no effect: names are always stored compactly.
        options: options that fairseq does not have.
    Raises:
        ValueError: the manifest lists no files, or the mask settings are invalid.
        TypeError: an unknown argument.
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
                f"{self.manifest.path}, line 2: the manifest lists no files after the root. Create it again."
            )
        self.resample, self.weights, self.augmentation = options.resample, options.weights, options.augmentation
        self.cache = options.cache
        reader.configure(self.cache)
        assert self.augmentation is None or pad, "speed changes are not implemented for cropped recordings"
        all_sizes, self._starts = extents(self.manifest, sample_rate if self.resample else None)
        kept = np.flatnonzero(all_sizes >= self.min_sample_size)
        self.skipped = len(all_sizes) - len(kept)
        if options.subsample < 1:
            shuffled = np.random.default_rng([self.seed, _SUBSAMPLE]).permutation(len(kept))
            kept = kept[np.sort(shuffled[: int(np.ceil(len(kept) * options.subsample))])]
        self.selection = Selection(len(all_sizes), kept)
        self.sizes = self.selection.of(all_sizes)
        logger.info("loaded %d, skipped %d samples", len(self.sizes), self.skipped)
        self._alpha, self._corpora = options.alpha, options.corpora
        if options.alpha is not None:
            self.weights = weights_by_alpha(self.amounts(), options.alpha)
        self.set_bucket_info(num_buckets)
        unknown = mask_compute_kwargs.keys() - {*WORKER_SETTINGS, *parameter_keys()}
        if unknown:
            raise TypeError(f"FileAudioDataset has no argument {', '.join(sorted(unknown))}")
        if compute_mask_indices:
            self.set_masks(PretrainingMasks.from_config(cast(WorkerFields, SimpleNamespace(**mask_compute_kwargs))))

    def leave_out(self, indices: np.ndarray) -> None:
        """Remove these utterances; the rest get new indices."""
        self.selection, self.sizes = self.selection.without(indices), shared(np.delete(self.sizes, indices))
        self.skipped += len(indices)
        self._patient_reader = None
        if self._alpha is not None:
            self.weights = weights_by_alpha(self.amounts(), self._alpha)
        self.set_bucket_info(self.num_buckets)

    @property
    def lines(self) -> np.ndarray:
        """Lines of the manifest that are in the data set, int32, ascending; the first after the root is 0."""
        return self.selection.lines

    @property
    def skipped_indices(self) -> set[int]:
        """Lines of the manifest (the first after the root is 0) that are not in the data set."""
        return set(range(len(self.manifest))) - set(self.lines.tolist())

    @property
    def root_dir(self) -> str:
        """Root of the first manifest."""
        return self.manifest.manifests[0].root

    def name(self, index: int) -> str:
        return printable(self.manifest.title(self.selection.line(index)))

    def file(self, index: int) -> str:
        """Return the path of an utterance; names that are not UTF-8 have surrogates, as Python's file functions do."""
        return self.manifest.file(self.selection.line(index))

    def amounts(self) -> Amounts:
        """Return what there is of each manifest."""
        return amounts(self.manifest.offsets, self.lines, self.num_tokens_vec(np.arange(len(self))))

    def sample(self, epoch: int) -> np.ndarray:
        if self.weights is None or epoch == EVALUATION_EPOCH:
            return super().sample(epoch)
        bounds = np.searchsorted(self.lines, self.manifest.offsets)
        return epoch_sample(np.diff(bounds), self.weights, np.random.default_rng([self.seed, epoch, ORDER, 0]))

    def read(self, index: int, start: int, out: np.ndarray) -> Samples:
        first = self._first_sample(index)
        if first is None:
            return read_samples(self.file(index), start, len(out), self.sample_rate, self.resample, out)
        samples = read_samples(self.file(index), first + start, len(out), self.sample_rate, self.resample, out)
        return samples._replace(file_length=None)  # a file may be longer than its segments

    def collate_plan(self, plan: BatchPlan) -> Batch:
        """See RawAudioDataset; fetches what lies in stores first. With `corpora`, says which rows belong to which."""
        reader.configure(self.cache)  # a worker that was not forked has not done it
        with reader.reader().ahead(self._files(plan)):
            batch = super().collate_plan(plan)
        if self._corpora is None:
            return batch
        lines = self.selection.at(batch["id"].numpy()[: plan.num_valid])
        return self._corpora.noted(batch, np.searchsorted(self.manifest.offsets, lines, side="right") - 1)

    def expect_plan(self, plan: BatchPlan) -> None:
        """Begin to fetch what a batch needs from stores; see `ReadsAhead`."""
        reader.configure(self.cache)
        reader.reader().expect(self._files(plan))

    def _files(self, plan: BatchPlan) -> Iterator[str]:
        rows = plan.indices[: max(1, plan.num_valid)] % len(self)
        return (self.file(index) for index in rows.tolist())

    def whole(self, index: int) -> np.ndarray:
        first = self._first_sample(index)
        start, frames = (0, -1) if first is None else (first, int(self.sizes[index]))
        return read_frames(self.file(index), start, frames, self.sample_rate, self.resample)

    def _first_sample(self, index: int) -> int | None:
        """Return the first sample of an utterance in its file, at the data set's rate; None if it is a whole file."""
        line = self.selection.line(index)
        return int(self._starts[line]) if self._starts is not None and self.manifest.is_segment(line) else None

    def check(self, index: int) -> None:
        self.manifest.check_root(self.selection.line(index))
