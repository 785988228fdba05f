"""Speech with known pauses: does fairseq-segment find them, and does it cut no word?

    python -m tests.drills.pauses [--minutes 6] [--seed 1]

Two kinds of speech, each clean (with digital silence in the gaps) and in noise 30, 20 and 10 dB below the speech:

- the demo's synthesis: phrases of 12 voices with gaps of 0.3 to 5 s between them. espeak-ng reports when each word
  begins; a word ends where the next one begins, or at the phrase's last sample above -50 dB of its peak;
- AN4: all utterances, joined with gaps of 0.5 to 4 s. Speech is what is within 20 dB of an utterance's level for 0.1 s
  or longer, with what adjoins it and is 10 dB above its background. So clicks and breaths next to it are not speech. A
  pause within an utterance counts if it lasts 0.2 s.

The table has the share of frames of 10 ms that are right, with no margin at the edges, and the words that are cut: more
than 30 ms, one frame of the detector, is outside of the segment that has the rest. In noise, a part of a word that is
quieter than the noise does not count. "missed" words are in no segment. The drill fails if fewer than 95 % of the
frames are right, or a word is cut, or more than 2 % of the words are missed.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[2]
AN4 = ROOT.parent / "shared" / "data" / "an4-mini"
sys.path.insert(0, str(ROOT / "examples" / "wav2vec" / "demo"))

from make_corpus import draw_voices, noise_floor  # noqa: E402 - the demo's scripts are not a package
from sentences import make_sentence  # noqa: E402
from speech_synthesis import Synthesizer  # noqa: E402

from fairseq.corpora.cuts.detector import RATE, Detector  # noqa: E402
from fairseq.corpora.cuts.planning import Planner  # noqa: E402
from fairseq.corpora.cuts.recording import speech  # noqa: E402
from fairseq.corpora.cuts.runs import Piece  # noqa: E402
from fairseq.corpora.cuts.settings import CutSettings  # noqa: E402
from fairseq.corpora.cuts.sound import WINDOW  # noqa: E402

HOP = RATE // 100  # samples per frame of the comparison
NOISES = (None, 30, 20, 10)  # dB below the speech
MARGIN = 480  # samples: 30 ms
AUDIBLE = 10 ** (-50 / 20)  # of a phrase's peak
RIGHT, MISSED = 95.0, 2.0  # per cent
_WORD = 1  # espeak-ng's speak_lib.h: espeakEVENT_WORD


class Corpus(NamedTuple):
    """Speech whose pauses are known."""

    wave: np.ndarray  # float32, S
    power: float  # mean square of its speech
    shortest_pause: int  # frames; a shorter one within speech is no pause
    truth: Callable[[float], tuple[np.ndarray, np.ndarray]]  # level of the noise in dB -> speech frames, words N x 2


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("text", ctypes.c_char * 8),
    ]


class TimedSynthesizer(Synthesizer):
    """Also collects the first sample of each word, at 16 kHz."""

    def __init__(self) -> None:
        self.words: list[int] = []
        super().__init__()

    def _receive(self, samples: ctypes._Pointer, count: int, events: int) -> int:
        event = ctypes.cast(events, ctypes.POINTER(_Event))
        number = 0
        while events and event[number].type:
            if event[number].type == _WORD:
                self.words.append(event[number].sample * RATE // self._rate)
            number += 1
        return super()._receive(samples, count, events)


def spans(mask: np.ndarray) -> np.ndarray:
    """Return first and end of each stretch of a boolean mask, N x 2."""
    return np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)


def bridged(mask: np.ndarray, frames: int) -> np.ndarray:
    """Fill gaps shorter than this between two stretches."""
    mask = mask.copy()
    for first, end in spans(~mask):
        if end - first < frames and first > 0 and end < len(mask):
            mask[first:end] = True
    return mask


def synthetic(minutes: float, seed: int, gaps: bool = True) -> Corpus:
    """Make phrases with the demo's synthesis, with silence between them."""
    synthesizer, rng = TimedSynthesizer(), np.random.default_rng(seed)
    voices = draw_voices([12], rng)[0]
    waves: list[np.ndarray] = []
    phrases: list[tuple[int, int]] = []
    words: list[tuple[int, int]] = []
    now = 0
    while now < minutes * 60 * RATE:
        voice = voices[len(phrases) // 4 % len(voices)]
        text = make_sentence(rng)[: int(rng.integers(2, 12))]
        synthesizer.words.clear()
        faster = voice._replace(words_per_minute=voice.words_per_minute + 60)
        wave = synthesizer.speak(text, [0] * len(text), faster, int(rng.integers(1, 2**31)))
        loud = np.flatnonzero(np.abs(wave) > AUDIBLE * np.abs(wave).max())
        first, end = int(loud[0]), int(loud[-1]) + 1
        gap = int(RATE * rng.choice([rng.uniform(0.3, 0.6), rng.uniform(0.6, 1.5), rng.uniform(1.5, 5)])) if gaps else 0
        waves += [np.zeros(gap, np.float32), 0.1 * wave[first:end] / np.sqrt(np.mean(wave[first:end] ** 2))]
        now += gap
        edges = np.clip([*synthesizer.words, end], first, end) - first + now
        words += list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
        phrases.append((now, now + end - first))
        now += end - first
    waves.append(np.zeros(RATE, np.float32))
    wave = np.concatenate(waves)
    loudness = levels(wave)
    mask = np.zeros(len(loudness), bool)
    for first, end in phrases:
        mask[round(first / HOP) : round(end / HOP)] = True

    def truth(noise: float) -> tuple[np.ndarray, np.ndarray]:
        audible = [np.flatnonzero(loudness[first // HOP : -(-end // HOP)] > noise) for first, end in words]
        return mask, np.array(
            [
                (max(first, (first // HOP + part[0]) * HOP), min(end, (first // HOP + part[-1] + 1) * HOP))
                for (first, end), part in zip(words, audible, strict=True)
                if len(part)
            ]
        )

    return Corpus(wave, 0.01, 0, truth)


def levels(wave: np.ndarray) -> np.ndarray:
    """Return the loudness of frames of 10 ms in dB, smoothed over three of them."""
    frames = wave[: len(wave) // HOP * HOP].reshape(-1, HOP)
    power = np.var(frames, axis=1) + 1e-12
    return 10 * np.log10(np.convolve(np.pad(power, 1, "edge"), np.full(3, 1 / 3), "valid"))


def speech_frames(loudness: np.ndarray, noise: float) -> np.ndarray:
    """Return which frames of an utterance are speech that is louder than noise of this level in dB."""
    floor, level = np.quantile(loudness, 0.1), np.quantile(loudness, 0.95)
    cores = [first for first, end in spans(loudness > level - 20) if end - first >= 10]
    mask = bridged(loudness > max(min(floor + 10, level - 20), noise), 4)
    for first, end in spans(mask):
        mask[first:end] = any(first <= core < end for core in cores)
    return mask


def an4(seed: int) -> Corpus:
    """Join all utterances of AN4, in random order."""
    rng = np.random.default_rng(seed)
    files = sorted((AN4 / "flac").glob("*/*.flac"))
    waves: list[np.ndarray] = []
    for number in rng.permutation(len(files)):
        wave = soundfile.read(files[number], dtype="float32")[0]
        waves += [np.zeros(int(rng.uniform(50, 400)) * HOP, np.float32), wave[: len(wave) // HOP * HOP]]
    loud = [levels(wave) for wave in waves]

    def truth(noise: float) -> tuple[np.ndarray, np.ndarray]:
        masks = [speech_frames(part, noise) if part.max() > -100 else np.zeros(len(part), bool) for part in loud]
        mask = bridged(np.concatenate(masks), 20)
        return mask, spans(mask) * HOP

    joined = np.concatenate(waves)
    mask = np.repeat(truth(-np.inf)[0], HOP)
    return Corpus(joined, float(np.mean(joined[mask] ** 2)), 20, truth)


def in_noise(corpus: Corpus, below: int | None, seed: int) -> np.ndarray:
    """Return the speech with noise that many dB below it."""
    wave = corpus.wave.copy()
    rng = np.random.default_rng(seed)
    for part in np.split(wave, range(20 * RATE, len(wave), 20 * RATE)) if below is not None else ():
        part += noise_floor(len(part), rng) * np.sqrt(corpus.power) * 10 ** (-(below or 0) / 20)
    return wave


class Row(NamedTuple):
    """What came of one corpus."""

    name: str
    right: float  # per cent
    words: int
    cut: int
    missed: int
    lengths: np.ndarray  # seconds

    def passes(self) -> bool:
        return self.right >= RIGHT and self.cut == 0 and 100 * self.missed <= MISSED * self.words


def judge(name: str, wave: np.ndarray, corpus: Corpus, noise: float, settings: CutSettings) -> Row:
    """Compare what is found with what is known."""
    windows = [np.pad(part, (0, -len(part) % 512)) for part in np.split(wave, range(WINDOW, len(wave), WINDOW))]
    pieces = list(speech(Detector(), settings, windows))
    planner = Planner(settings)
    for piece in pieces:
        planner.add(piece)
    planner.finish(len(wave))
    mask = corpus.truth(-np.inf)[0]
    words = corpus.truth(noise)[1]
    right = 100 * float(np.mean(_mask(pieces, len(mask), corpus.shortest_pause) == mask))
    outcomes = [_outcome(first, end, [*planner.segments, *planner.short]) for first, end in words.tolist()]
    lengths = np.array([(end - first) / RATE for first, end in planner.segments])
    return Row(name, right, len(words), outcomes.count("cut"), outcomes.count("missed"), lengths)


def _mask(pieces: Sequence[Piece], frames: int, shortest_pause: int) -> np.ndarray:
    mask = np.zeros(frames, bool)
    for piece in pieces:
        mask[round(piece.start / HOP) : round(piece.end / HOP)] = True
    return bridged(mask, shortest_pause)


def _outcome(first: int, end: int, segments: Sequence[tuple[int, int]]) -> str:
    """Say whether a word is whole, cut, or in no segment."""
    begins, ends = np.array(segments).T
    shared = np.minimum(ends, end) - np.maximum(begins, first)
    if shared.max() <= 0:
        return "missed"
    best = shared.argmax()
    return "cut" if max(begins[best] - first, end - ends[best]) > MARGIN else "whole"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6, help="of synthetic speech (default: 6)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    settings = CutSettings()
    corpora = {"synthesis": synthetic(args.minutes, args.seed)}
    if AN4.is_dir():
        corpora["AN4"] = an4(args.seed)
    else:
        print(f"{AN4} is missing: its rows are left out")
    print(
        f"{'speech':<12}{'noise':>8}{'minutes':>9}{'right':>9}{'words':>7}{'cut':>5}{'missed':>8}{'segments':>10}{'median':>8}"
    )
    good = True
    for name, corpus in corpora.items():
        for below in NOISES:
            level = -np.inf if below is None else 10 * np.log10(corpus.power) - below
            row = judge(name, in_noise(corpus, below, args.seed), corpus, level, settings)
            good &= row.passes()
            noise = "none" if below is None else f"-{below} dB"
            print(
                f"{name:<12}{noise:>8}{len(corpus.wave) / RATE / 60:>9.1f}{row.right:>7.2f} %{row.words:>7}{row.cut:>5}"
                f"{row.missed:>8}{len(row.lengths):>10}{np.median(row.lengths):>6.1f} s{'' if row.passes() else '  FAILED'}",
                flush=True,
            )
    unbroken = synthetic(args.minutes / 2, args.seed, gaps=False)
    row = judge("no pauses", unbroken.wave, unbroken, -np.inf, settings)
    print(
        f"for information, speech without a pause: {len(row.lengths)} segments of {row.lengths.min():.1f} to "
        f"{row.lengths.max():.1f} s, {row.cut} of {row.words} words cut"
    )
    sys.exit(not good)


if __name__ == "__main__":
    main()
