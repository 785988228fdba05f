#!/usr/bin/env python3
"""Make a corpus of synthetic, transcribed speech in LibriSpeech's layout.

Files are SPLIT/SPEAKER/CHAPTER/*.flac and *.trans.txt. `train` and `valid` are for pre-training: passages of two or
three sentences. `labelled/train`, `labelled/valid` and `labelled/test` are for fine-tuning, choosing its checkpoint,
and testing. The speakers of `train` and `valid` are also in `labelled/train` and `labelled/valid`, as chapter 2; those
of `labelled/test` are in no other split.

A tiny model gets above chance quickly only if audio is predictable across a gap of 200 ms (a masked span): slow speech,
long pauses, drifting loudness, and noise well below the speech. The measure is the share of the variance of 16-band
log-mel frames (20 ms apart, audio normalised) that a linear fit explains from the frames 80 ms before and after, over
60 recordings: LibriSpeech 0.43, the passages 0.71. At 0.17 (brisk speech, short pauses, noise 18 to 35 dB below it) the
loss stayed at chance for about 250 updates.

CTC, by contrast, learns fastest from short, dense utterances. On sentences as slow as the passages, with pauses, it
learned nothing in 500 updates (unit error rate 87 %); on faster speech, with three in four utterances of
`labelled/train` cut to one or two words, the rate was 46 %.

    python make_corpus.py OUTPUT [--minutes 20] [--valid-minutes 2] [--labelled-minutes 20] [--test-minutes 5]
        [--seed 1]
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from sentences import make_sentence
from speech_synthesis import SAMPLE_RATE, Synthesizer, Voice

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
# espeak-ng's formant variants without robots and whispers; Klatt voices use the C library's unseeded random generator
FEMALE = ("f1", "f2", "f3", "f4", "f5", "linda", "steph", "belinda")
MALE = ("m1", "m2", "m3", "m4", "m6", "m7", "adam", "john", "ed", "michel", "zac", "ian")
SECONDS_PER_SPEAKER = 30
TRAIN, VALID, TEST = 0, 1, 2  # part of the generator's key: each group of speakers is drawn independently
PASSAGES, LABELLED = 1, 2  # chapters
FASTER = 40  # words per minute by which chapter 2 is faster than chapter 1
SHARE_OF_PHRASES = 0.75  # of the utterances of labelled/train
REPORT_SECONDS = 4.0  # between two progress lines

DrawText = Callable[[np.random.Generator], tuple[list[str], list[int]]]


class Minutes(NamedTuple):
    """How much speech a corpus has, in minutes."""

    train: float
    valid: float  # of passages, and the same of sentences
    labelled: float  # to fine-tune on
    test: float


class Split(NamedTuple):
    """A part of the corpus."""

    name: str  # its folder
    group: int  # of speakers
    chapter: int
    minutes: float
    draw: DrawText


def draw_voices(counts: Sequence[int], rng: np.random.Generator) -> list[list[Voice]]:
    """Draw voices for each group of speakers, with unique pairs of accent and variant.

    Appending groups does not change the earlier ones.
    """
    names = [f"{accent}+{variant}" for accent in ACCENTS for variant in MALE + FEMALE]
    order = [names[i] for i in rng.permutation(len(names))]
    if sum(counts) > len(order):
        raise ValueError(f"the corpus needs {sum(counts)} voices, but only {len(order)} exist: reduce the minutes")

    def voice(name: str) -> Voice:
        low, high = (35, 75) if name.split("+")[1] in FEMALE else (15, 60)
        return Voice(name, int(rng.integers(80, 100)), int(rng.integers(low, high)), int(rng.integers(20, 80)))

    ends = np.cumsum(counts)
    return [[voice(name) for name in order[end - count : end]] for count, end in zip(counts, ends, strict=True)]


def loudness_curve(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return a slowly changing gain within +-12 dB, with a knot every 1.2 s."""
    spacing = 1.2 * SAMPLE_RATE
    knots = rng.uniform(-12, 12, int(num_samples / spacing) + 2)
    decibels = np.interp(np.arange(num_samples) / spacing, np.arange(len(knots)), knots)
    return (10 ** (decibels / 20)).astype(np.float32)


def noise_floor(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return noise with a root mean square of 1, white to brownish."""
    white = rng.standard_normal(num_samples).astype(np.float32)
    tilt = rng.uniform(0, 0.95)
    spectrum = np.fft.rfft(white)
    # a circular one-pole low-pass filter
    spectrum /= np.abs(1 - tilt * np.exp(-2j * np.pi * np.arange(len(spectrum)) / num_samples))
    noise = np.fft.irfft(spectrum, num_samples).astype(np.float32)
    return noise / np.sqrt(np.mean(noise**2))


def record(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make speech sound like a recording: varying loudness, a random level, and noise 35 to 50 dB below."""
    speech = speech * loudness_curve(len(speech), rng)
    level = 10 ** (rng.uniform(-32, -20) / 20)
    speech *= level / max(float(np.sqrt(np.mean(speech**2))), 1e-6)
    noise = noise_floor(len(speech), rng) * level * 10 ** (-rng.uniform(35, 50) / 20)
    return np.clip(speech + noise, -1, 1)


def draw_passage(rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """Draw two or three sentences: words, and the pause after each in ms (0 after three words in ten)."""
    words: list[str] = []
    pauses: list[int] = []
    for _ in range(rng.integers(2, 4)):
        sentence = make_sentence(rng)
        words += sentence
        pauses += [0 if rng.random() < 0.3 else int(rng.integers(300, 900)) for _ in sentence[:-1]] + [
            int(rng.integers(900, 1800))
        ]
    return words, pauses


def draw_sentence(rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """Draw one sentence: words, and the pause after each in ms (0 after nine words in ten)."""
    return with_short_pauses(make_sentence(rng), rng)


def draw_phrase_or_sentence(rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """Draw a sentence, or more often only one or two consecutive words of it."""
    words = make_sentence(rng)
    if rng.random() < SHARE_OF_PHRASES:
        length = int(rng.integers(1, 3))
        start = int(rng.integers(0, len(words) - length + 1))
        words = words[start : start + length]
    return with_short_pauses(words, rng)


def with_short_pauses(words: list[str], rng: np.random.Generator) -> tuple[list[str], list[int]]:
    return words, [0 if rng.random() < 0.9 else int(rng.integers(100, 300)) for _ in words[:-1]] + [
        int(rng.integers(100, 300))
    ]


def make_chapter(
    chapter: Path, voice: Voice, draw: DrawText, seconds: float, synthesizer: Synthesizer, rng: np.random.Generator
) -> float:
    """Write utterances of one speaker, and their transcript, until they last `seconds`; returns the seconds written.

    Args:
        chapter: the folder to make, SPEAKER/CHAPTER.
        draw: draws an utterance's words and the pauses after them.
    """
    chapter.mkdir(parents=True)
    prefix = f"{chapter.parent.name}-{chapter.name}"
    transcript: list[str] = []
    total = 0.0
    while total < seconds:
        words, pauses = draw(rng)
        audio = record(synthesizer.speak(words, pauses, voice, int(rng.integers(1, 2**31))), rng)
        name = f"{prefix}-{len(transcript):04d}"
        soundfile.write(chapter / f"{name}.flac", audio, SAMPLE_RATE, subtype="PCM_16")
        transcript.append(f"{name} {' '.join(words).upper()}\n")
        total += len(audio) / SAMPLE_RATE
    (chapter / f"{prefix}.trans.txt").write_text("".join(transcript), encoding="utf-8")
    return total


def make_corpus(output: Path, minutes: Minutes, seed: int) -> dict[str, float]:
    """Write the splits to `output`; none of them may exist yet.

    Returns:
        Seconds of speech per split.
    """
    synthesizer = Synthesizer()
    counts = [
        max(1, round(length * 60 / SECONDS_PER_SPEAKER)) for length in (minutes.train, minutes.valid, minutes.test)
    ]
    voices = draw_voices(counts, np.random.default_rng([seed]))
    # the synthesizer carries state between utterances: keep the pre-training splits first, so that they do not change
    splits = [
        Split("train", TRAIN, PASSAGES, minutes.train, draw_passage),
        Split("valid", VALID, PASSAGES, minutes.valid, draw_passage),
        Split("labelled/train", TRAIN, LABELLED, minutes.labelled, draw_phrase_or_sentence),
        Split("labelled/valid", VALID, LABELLED, minutes.valid, draw_sentence),
        Split("labelled/test", TEST, LABELLED, minutes.test, draw_sentence),
    ]
    return {split.name: make_split(output, split, voices[split.group], synthesizer, seed) for split in splits}


def make_split(output: Path, split: Split, voices: list[Voice], synthesizer: Synthesizer, seed: int) -> float:
    """Write one split and print progress every few seconds; returns its seconds."""
    total, reported = 0.0, time.monotonic()
    for i, voice in enumerate(voices):
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            print(f"  {split.name}: {total / 60:.1f} minutes of speech, voice {i + 1} of {len(voices)}", flush=True)
        key = [seed, split.group, i] if split.chapter == PASSAGES else [seed, split.group, i, split.chapter]
        if split.chapter == LABELLED:
            voice = voice._replace(words_per_minute=voice.words_per_minute + FASTER)
        folder = output / split.name / str(1000 * (split.group + 1) + i) / str(split.chapter)
        seconds = split.minutes * 60 / len(voices)
        total += make_chapter(folder, voice, split.draw, seconds, synthesizer, np.random.default_rng(key))
    return total


def fingerprint(folder: Path) -> str:
    """Return a hash of all file names and contents below a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path, help="folder to create, with one subfolder per split")
    parser.add_argument(
        "--minutes", type=float, default=20, help="minimum minutes of speech for pre-training (default: 20)"
    )
    parser.add_argument(
        "--valid-minutes",
        type=float,
        default=2,
        help="minutes for validation, once for each training, by other voices (default: 2)",
    )
    parser.add_argument("--labelled-minutes", type=float, default=20, help="minutes for fine-tuning (default: 20)")
    parser.add_argument(
        "--test-minutes", type=float, default=5, help="minutes for testing, by further voices (default: 5)"
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    minutes = Minutes(args.minutes, args.valid_minutes, args.labelled_minutes, args.test_minutes)
    if min(minutes) <= 0:
        parser.error("all minutes must be greater than 0")
    for split in ("train", "valid", "labelled"):
        if (args.output / split).exists():
            parser.error(f"{args.output / split} already exists: remove it, or choose another folder")
    written = make_corpus(args.output, minutes, args.seed)
    lengths = ", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in written.items())
    print(f"made {args.output}: {lengths}; contents {fingerprint(args.output)[:16]}")


if __name__ == "__main__":
    main()
