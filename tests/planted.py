"""A corpus of healthy speech with one planted fault of each kind, and what the report must say about it.

The speech is real: AN4's utterances, and LibriSpeech's cut into pieces. Four of LibriSpeech's recordings have an offset
of their own, and are left out.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

RATE = 16000
PIECE = 4 * RATE  # samples
OFFSET = ("1363-135842-0000", "211-122425-0000", "426-122819-0000", "839-130898-0000")


class Utterance(NamedTuple):
    """Audio with its transcript."""

    wave: np.ndarray  # float64, S
    text: str


class Planted(NamedTuple):
    """Where a fault was planted."""

    finding: str  # the finding's name
    line: int  # of the manifest, from 1
    manifest: str = "train"


class Corpus:
    """Writes utterances and their manifest and labels into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder / name, name
        self.folder.mkdir(parents=True)
        self.lines = [str(self.folder)]
        self.texts: list[str] = []

    def add(self, utterance: Utterance, channels: int = 1, rate: int = RATE, frames: int | None = None) -> int:
        """Write one as FLAC; returns the number of its line. `frames`: what the line says, if not the truth."""
        number = len(self.texts)
        wave = utterance.wave if channels == 1 else np.stack([utterance.wave] * channels, axis=1)
        soundfile.write(self.folder / f"{number:04d}.flac", wave, rate, subtype="PCM_16")
        return self.add_line(f"{number:04d}.flac", len(utterance.wave) if frames is None else frames, utterance.text)

    def add_line(self, name: str, frames: int, text: str) -> int:
        self.lines.append(f"{name}\t{frames}")
        self.texts.append(text)
        return len(self.lines)

    def write(self) -> Path:
        """Write manifest and labels; returns the manifest's path."""
        path = self.folder.parent / f"{self.name}.tsv"
        path.write_text("\n".join(self.lines) + "\n", encoding="utf-8")
        path.with_suffix(".wrd").write_text("".join(f"{text}\n" for text in self.texts), encoding="utf-8")
        letters = (" ".join(text.replace(" ", "|")) + " |" if text else "" for text in self.texts)
        path.with_suffix(".ltr").write_text("".join(f"{line}\n" for line in letters), encoding="utf-8")
        return path


def healthy(data: Path) -> Iterator[Utterance]:
    """Yield real utterances, in turn of AN4 and LibriSpeech."""
    with open(data / "an4-mini/transcripts.tsv", encoding="utf-8") as file:
        an4 = [(data / "an4-mini" / path, text) for path, text in csv.reader(file, delimiter="\t")]
    spoken = (Utterance(soundfile.read(path)[0], text) for path, text in an4 if len(text) > 8)
    pieces = _pieces(data)
    for utterance in spoken:
        yield utterance
        yield from (piece for piece in [next(pieces, None)] if piece is not None)
    yield from pieces


def _pieces(data: Path) -> Iterator[Utterance]:
    """Cut LibriSpeech into pieces, with their share of the transcript each."""
    for path in sorted((data / "librispeech-mini").rglob("*.trans.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            if name in OFFSET:
                continue
            wave, _ = soundfile.read(path.with_name(f"{name}.flac"))
            words, share = text.split(), PIECE / len(wave)
            for piece in range(len(wave) // PIECE):
                spoken = words[round(piece * share * len(words)) : round((piece + 1) * share * len(words))]
                yield Utterance(wave[piece * PIECE : (piece + 1) * PIECE], " ".join(spoken))


def lowpass(wave: np.ndarray, edge: float) -> np.ndarray:
    """Remove everything above `edge` Hz."""
    spectrum = np.fft.rfft(wave)
    spectrum[np.fft.rfftfreq(len(wave), 1 / RATE) > edge] = 0
    return np.fft.irfft(spectrum, len(wave))


def missing(corpus: Corpus, u: Utterance) -> int:
    return corpus.add_line("not-there.flac", len(u.wave), u.text)


def web_page(corpus: Corpus, u: Utterance) -> int:
    (corpus.folder / "page.flac").write_text("<!doctype html><html>404</html>")
    return corpus.add_line("page.flac", len(u.wave), u.text)


def broken(corpus: Corpus, u: Utterance) -> int:
    line = corpus.add(u)
    path = corpus.folder / f"{len(corpus.texts) - 1:04d}.flac"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return line


def loud(u: Utterance, gain: float) -> Utterance:
    return Utterance(np.clip(gain * u.wave / np.abs(u.wave).max(), -1, 1), u.text)


def noisy(wave: np.ndarray) -> np.ndarray:
    """Add noise 8 dB below the loud parts."""
    frames = wave[: len(wave) - len(wave) % 320].reshape(-1, 320)
    loud_part = np.percentile(frames.std(axis=1), 95)
    return 0.5 * (wave + 0.4 * loud_part * np.random.default_rng(2).standard_normal(len(wave)))


Plant = Callable[[Corpus, Utterance], int]
FAULTS: dict[str, Plant] = {
    "missing": missing,
    "unreadable": web_page,
    "undecodable": broken,
    "shorter-than-line": lambda c, u: c.add(u, frames=len(u.wave) + 4000),
    "longer-than-line": lambda c, u: c.add(Utterance(u.wave, u.text[: len(u.text) // 2]), frames=len(u.wave) // 2),
    "sample-rates": lambda c, u: c.add(Utterance(u.wave[::2], u.text), rate=RATE // 2),
    "channel-counts": lambda c, u: c.add(u, channels=2),
    "silence": lambda c, u: c.add(Utterance(np.zeros(len(u.wave)), u.text)),
    "steady-sound": lambda c, u: c.add(Utterance(0.1 * np.random.default_rng(1).standard_normal(len(u.wave)), u.text)),
    "clipping": lambda c, u: c.add(loud(u, 5.0)),
    "dc-offset": lambda c, u: c.add(Utterance(0.5 * u.wave + 0.06, u.text)),
    "narrow-band": lambda c, u: c.add(Utterance(lowpass(u.wave, 3700), u.text)),
    "noisy": lambda c, u: c.add(Utterance(noisy(u.wave), u.text)),
    "quiet": lambda c, u: c.add(loud(u, 0.01)),
    "coarse-samples": lambda c, u: c.add(Utterance(np.round(u.wave * 128) / 128, u.text)),
    "digital-silence": lambda c, u: c.add(
        Utterance(np.concatenate([u.wave[: RATE * 3], np.zeros(2 * RATE), u.wave[3 * RATE :]]), u.text)
    ),
    "too-fast": lambda c, u: c.add(Utterance(u.wave[: RATE * 2], 4 * f"{u.text} ".strip())),
    "too-slow": lambda c, u: c.add(Utterance(u.wave, "A")),
    "wrong-script": lambda c, u: c.add(Utterance(u.wave, "А" + u.text[1:])),
    "empty-label": lambda c, u: c.add(Utterance(u.wave, "")),
}


class Made(NamedTuple):
    """A corpus with planted faults."""

    train: Path
    valid: Path
    planted: list[Planted]


def make(data: Path, folder: Path, num_healthy: int, num_valid: int, shift: int = 0) -> Made:
    """Write a corpus of `num_healthy` utterances and one of each fault, spread among them, and a validation set.

    `shift` chooses the utterances that carry the faults.

    Besides FAULTS there are a copy, a part of another utterance, a copy in the validation set, and a symbol that the
    dictionary lacks.
    """
    speech = healthy(data)
    train, valid = Corpus(folder, "train"), Corpus(folder, "valid")
    planted: list[Planted] = []
    step = max(1, num_healthy // (len(FAULTS) + 1))
    names = iter(FAULTS)
    long = islice((u for u in healthy(data) if len(u.wave) == PIECE), shift * len(FAULTS), None)
    kept: list[Utterance] = []
    for number in range(num_healthy):
        utterance = next(speech)
        train.add(utterance)
        if len(utterance.wave) == PIECE and len(kept) < 3:
            kept.append(utterance)
        if number % step == step - 1 and (name := next(names, None)) is not None:
            planted.append(Planted(name, FAULTS[name](train, _other(long, number))))
    for name in names:
        planted.append(Planted(name, FAULTS[name](train, _other(long, 0))))
    planted.append(Planted("duplicate", train.add(kept[0])))
    planted.append(Planted("cut-twice", train.add(Utterance(kept[1].wave[RATE : 4 * RATE], kept[1].text[:30]))))
    for _ in range(num_valid):
        valid.add(next(speech))
    planted.append(Planted("train-in-valid", valid.add(kept[2]), "valid"))
    odd = next(speech)
    planted.append(Planted("not-in-dictionary", train.add(Utterance(odd.wave, f"{odd.text}_"))))
    made = Made(train.write(), valid.write(), planted)
    (folder / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in "|'ABCDEFGHIJKLMNOPQRSTUVWXYZА"))
    return made


def _other(utterances: Iterator[Utterance], number: int) -> Utterance:
    """Return an utterance that is not in the healthy part: another voice, since all of it is played faster."""
    utterance = next(utterances)
    wave = utterance.wave
    places = np.arange(0, len(wave) - 1, 1 + 0.01 * (1 + number % 7))
    return Utterance(np.interp(places, np.arange(len(wave)), wave), utterance.text)
