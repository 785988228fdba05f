"""Measure an utterance's samples block by block, so that a day-long file takes no more memory than a short one."""

from __future__ import annotations

import hashlib

import numpy as np

from fairseq.corpora.report.anchors import Anchors
from fairseq.corpora.report.records import Sound
from fairseq.data.audio.audio_utils import mix

_FRAME = 0.02  # seconds
_FLOOR = 1e-12  # power: -120 dB
_LEVELS = np.arange(-120, 7)  # dB, for the percentiles of frames' levels
_FFT = 512
_SPECTRA = 128  # frames transformed per block
_STEP = 1.5 / 32768  # samples this close to the extreme count as clipped
_RUN = 3  # samples
_LOUDEST_UNCLIPPED = 0.1  # a recording's peak below this is not clipping
_BELOW_BAND, _CLIFF = 48.0, 20.0  # dB: how far a narrow band's outside is below its inside, and the step at its edge
_LOWEST_BAND, _WIDEST_BAND = 0.2, 0.75  # share of half the sample rate at which an edge is looked for
_UNEQUAL = 30.0  # dB between two channels


class Meter:
    """Measures one utterance.

    Args:
        sample_rate: Hz.
        channels: of the file.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.rate, self.frame = sample_rate, max(1, round(_FRAME * sample_rate))
        self.anchors = Anchors(sample_rate)
        self._digest = hashlib.sha256()
        self._count, self._sum, self._squares = 0, 0.0, 0.0
        self._most, self._least = -np.inf, np.inf
        self._at_most, self._at_least = 0, 0  # samples in runs at the extremes so far
        self._resolution = np.inf
        self._levels = np.zeros(len(_LEVELS), dtype=np.int64)
        self._constant, self._longest, self._value = 0, 0, np.float32(np.nan)  # frames of one value
        self._spectrum = np.zeros(_FFT // 2 + 1)
        self._window = np.hanning(_FFT).astype(np.float32)
        self._powers = np.zeros(channels)
        self._note: str | None = None

    def feed(self, block: np.ndarray) -> None:
        """Add the next samples, float32, S x channels."""
        if block.shape[1] == 1:
            wave = np.ascontiguousarray(block[:, 0])
        else:
            self._powers += np.einsum("sc,sc->c", block, block, dtype=np.float64)
            wave, note = mix(block)
            self._note = self._note or note
        self._digest.update(wave.data)
        self._count += len(wave)
        self._sum += float(wave.sum(dtype=np.float64))
        self._count_clipped(wave)
        steps = np.abs(np.diff(wave))
        self._resolution = min(self._resolution, float(steps.min(initial=np.inf, where=steps > 0)))
        self._measure_frames(wave)
        self._transform(wave)
        self.anchors.feed(wave)

    def _count_clipped(self, wave: np.ndarray) -> None:
        most, least = float(wave.max()), float(wave.min())
        if most > self._most + _STEP:
            self._at_most = 0
        if least < self._least - _STEP:
            self._at_least = 0
        self._most, self._least = max(self._most, most), min(self._least, least)
        if most >= self._most - _STEP:
            self._at_most += _in_runs(wave >= self._most - _STEP)
        if least <= self._least + _STEP:
            self._at_least += _in_runs(wave <= self._least + _STEP)

    def _measure_frames(self, wave: np.ndarray) -> None:
        whole = len(wave) - len(wave) % self.frame
        frames, rest = wave[:whole].reshape(-1, self.frame), wave[whole:]
        # einsum and not dot: BLAS would start threads in every worker
        squares = np.einsum("fs,fs->f", frames, frames)
        self._squares += float(squares.sum(dtype=np.float64)) + float(np.einsum("s,s->", rest, rest))
        if len(frames) == 0:
            return
        power = squares / self.frame - frames.mean(axis=1) ** 2
        levels = 10 * np.log10(np.maximum(power, _FLOOR))
        places = np.clip(np.round(levels) - _LEVELS[0], 0, len(_LEVELS) - 1).astype(np.int64)
        self._levels += np.bincount(places, minlength=len(_LEVELS))
        candidates = power < 1e-9
        same = np.zeros(len(frames), dtype=bool)
        if candidates.any():
            same[candidates] = frames[candidates].max(axis=1) == frames[candidates].min(axis=1)
        if not same.any():
            self._constant = 0
            return
        for equal, value in zip(same.tolist(), frames[:, 0], strict=True):
            continues = equal and (self._constant == 0 or value == self._value)
            self._constant = self._constant + 1 if continues else int(equal)
            self._value = value
            self._longest = max(self._longest, self._constant)

    def _transform(self, wave: np.ndarray) -> None:
        frames = wave[: len(wave) - len(wave) % _FFT].reshape(-1, _FFT)
        if len(frames):
            chosen = frames[:: -(-len(frames) // _SPECTRA)]
            spectra = np.fft.rfft(chosen * self._window, axis=1)
            self._spectrum += np.einsum("fb,fb->b", spectra.real, spectra.real)
            self._spectrum += np.einsum("fb,fb->b", spectra.imag, spectra.imag)

    def digest(self) -> int:
        """Return 64 bits of a checksum of the samples; never 0."""
        return int.from_bytes(self._digest.digest()[:8], "little") | 1

    def result(self) -> Sound:
        if self._count == 0:
            return Sound("it has no samples")
        mean = self._sum / self._count
        power = max(self._squares / self._count - mean**2, _FLOOR)
        peak = max(abs(self._most), abs(self._least))
        clipped = (self._at_most + self._at_least) / self._count if peak >= _LOUDEST_UNCLIPPED else 0.0
        is_constant = self._most == self._least
        level = -120.0 if is_constant else 10 * float(np.log10(power))
        return Sound(
            problem=None,
            seconds=self._count / self.rate,
            sample_rate=self.rate,
            peak=peak,
            dc=mean,
            level=level,
            loud=self._percentile(95),
            floor=self._percentile(10),
            clipped=clipped,
            resolution=self._resolution if np.isfinite(self._resolution) else 0.0,
            constant=self._longest * self.frame / self.rate,
            bandwidth=self._bandwidth(),
            channel_note=self._note or self._unequal(),
        )

    def _percentile(self, percent: float) -> float:
        total = self._levels.sum()
        if total == 0:
            return float(_LEVELS[0])
        return float(_LEVELS[np.searchsorted(np.cumsum(self._levels), total * percent / 100)])

    def _bandwidth(self) -> float:
        """Return the frequency above which there is only rounding noise; 0 if there is none below the usual edge."""
        bins = len(self._spectrum)
        if not self._spectrum.any():
            return 0.0
        spectrum = 10 * np.log10(self._spectrum + 1e-20)
        inside = 10 * np.log10(np.cumsum(self._spectrum) / np.arange(1, bins + 1) + 1e-20)
        highest = np.maximum.accumulate(spectrum[: int(bins * 0.97)][::-1])[::-1]  # above each frequency
        if inside.max() - highest[-1] < _BELOW_BAND:
            return 0.0
        for edge in range(int(bins * _LOWEST_BAND), int(bins * _WIDEST_BAND)):
            above, width = edge + bins // 25, bins // 25
            step = spectrum[edge - 2 * width : edge - width].mean() - highest[above]
            if inside[edge] - highest[above] >= _BELOW_BAND and step >= _CLIFF:
                return above * self.rate / _FFT
        return 0.0

    def _unequal(self) -> str | None:
        if len(self._powers) < 2:
            return None
        levels = 10 * np.log10(self._powers + 1e-9)
        if levels.max() - levels.min() < _UNEQUAL:
            return None
        return f"channel {int(levels.argmin()) + 1} is empty beside channel {int(levels.argmax()) + 1}"


def _in_runs(at: np.ndarray) -> int:
    """Count the samples that are in runs of at least three."""
    places = np.flatnonzero(at)
    if len(places) < _RUN:
        return 0
    breaks = np.flatnonzero(np.diff(places) != 1)
    lengths = np.diff(np.concatenate([[-1], breaks, [len(places) - 1]]))
    return int(lengths[lengths >= _RUN].sum())
