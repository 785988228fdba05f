"""Synthetic speech with known word times, and a small CTC model that has learned it.

The words are the ten digits, spoken by espeak-ng in the demo's voices, one to three in an utterance and without pauses
between them. The model is `small_from_scratch`, trained for a few processor minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from tests.drills.pauses import AUDIBLE, RATE, TimedSynthesizer

# the demo's scripts are not a package; tests.drills.pauses has put their folder on the path
from make_corpus import draw_voices, noise_floor  # isort: skip

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "examples" / "wav2vec" / "config" / "finetuning"
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
VOICES = (60, 4, 12)  # of train, valid and test; none is in two of them
UTTERANCES = (1500, 40)  # of train and valid


class Spoken(NamedTuple):
    """An utterance with its words and their times."""

    wave: np.ndarray  # float32, S
    words: list[str]
    times: np.ndarray  # N x 2, seconds: a word ends where the next one begins, the last where it falls below -50 dB


class Speaker:
    """Says digits in a group of voices, 0 to 2."""

    def __init__(self, group: int, seed: int) -> None:
        self._synthesizer, self._rng = TimedSynthesizer(), np.random.default_rng([seed, group])
        self._voices = draw_voices(VOICES, np.random.default_rng(seed))[group]

    def say(self, count: int) -> Spoken:
        """Return `count` digits in noise 30 to 45 dB below the speech."""
        rng = self._rng
        voice = self._voices[int(rng.integers(len(self._voices)))]
        words = [DIGITS[int(number)] for number in rng.integers(0, len(DIGITS), count)]
        self._synthesizer.words.clear()
        faster = voice._replace(words_per_minute=voice.words_per_minute + 40)
        wave = self._synthesizer.speak(words, [0] * count, faster, int(rng.integers(1, 2**31)))
        loud = np.flatnonzero(np.abs(wave) > AUDIBLE * np.abs(wave).max())
        first, end = int(loud[0]), int(loud[-1]) + 1
        before, after = (int(RATE * rng.uniform(0.1, 0.4)) for _ in range(2))
        starts = np.maximum(np.array(self._synthesizer.words[:count]), first)
        assert len(starts) == count, "espeak-ng reports one beginning for each word"
        times = np.stack([starts, np.append(starts[1:], end)], axis=1) - first + before
        wave = np.pad(wave[first:end], (before, after))
        wave = 0.1 * wave / np.sqrt(np.mean(wave**2))
        wave += noise_floor(len(wave), rng) * 0.1 * 10 ** (-rng.uniform(30, 45) / 20)
        return Spoken(wave.astype(np.float32), words, times / RATE)


def write_corpus(folder: Path, seed: int) -> None:
    """Write train and valid: audio, manifests, labels and dictionary."""
    for group, (name, count) in enumerate(zip(("train", "valid"), UTTERANCES, strict=True)):
        speaker, rng = Speaker(group, seed), np.random.default_rng([seed, 10 + group])
        (folder / name).mkdir(parents=True)
        lines, letters = [str(folder / name)], []
        for number in range(count):
            spoken = speaker.say(int(rng.choice([1, 1, 1, 2, 3])))
            soundfile.write(folder / name / f"{number:05d}.flac", np.clip(spoken.wave, -1, 1), RATE, subtype="PCM_16")
            lines.append(f"{number:05d}.flac\t{len(spoken.wave)}")
            letters.append(" ".join("|".join(spoken.words).upper()) + " |")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
        (folder / f"{name}.ltr").write_text("\n".join(letters) + "\n")
    symbols = ["|", *sorted(set("".join(DIGITS).upper()))]
    (folder / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols))


def train(folder: Path, seed: int, updates: int) -> Path:
    """Make the corpus and train a model on it, unless that is done; returns its checkpoint."""
    checkpoint, done = folder / "model" / "checkpoint_last.pt", folder / f"trained-{updates}"
    if done.is_file():
        return checkpoint
    if not (folder / "corpus").is_dir():
        write_corpus(folder / "corpus.part", seed)
        (folder / "corpus.part").rename(folder / "corpus")
        for name in ("train", "valid"):
            path = folder / "corpus" / f"{name}.tsv"
            path.write_text(path.read_text().replace(str(folder / "corpus.part"), str(folder / "corpus")))
    settings = [
        f"task.data={folder / 'corpus'}",
        f"checkpoint.save_dir={folder / 'model'}",
        f"common.seed={seed}",
        f"optimization.max_update={updates}",
        "task.augment.speed=1.1",
        "task.augment.eq_db=0",
        "task.augment.noise_db=0",
    ]
    run([sys.executable, "-m", "fairseq_cli.hydra_train", *settings, *config("small_from_scratch")], folder / "log")
    done.touch()
    return checkpoint


def config(name: str) -> list[str]:
    return ["--config-dir", str(CONFIGS), "--config-name", name]


def run(command: Sequence[str], log: Path) -> None:
    with log.open("w") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=log.parent
        ).returncode
    if code != 0:
        raise SystemExit(f"{' '.join(command)} ended with status {code}; see {log}")
