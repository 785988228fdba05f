"""Forced alignment: equal to torchaudio's, close to known times, and at constant memory for an hour.

    python -m tests.drills.alignment --work DIR [--model CHECKPOINT] [--peer-python PYTHON] [--only peers,times,hour]

- peers: 200 random cases, a quarter of them with a star, and 50 real cases: spoken digits of `shared/data`, joined,
  through a real CTC model. The score must be that of torchaudio's path, and the path the same if only one is best.
  Also 50 cases with log-probabilities in steps of 1/4, so that best paths are often tied: torchaudio 2.11 then returns
  a worse path if going on from the blank and from the label before it are equal and better than staying. There, the
  score must be that of a table of all states, and torchaudio's must not be better. PYTHON has torchaudio.
- times: digits in unknown synthetic voices, whose word times espeak-ng reports. The median error of beginnings and
  ends must be at most 40 ms.
- hour: an hour of real speech with its text, and two minutes, each in a process of its own. The peak of the hour's
  memory must be at most 100 MB above that of two minutes.

The model is trained in DIR, which takes about five processor minutes; see `alignment_speech.py`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from fairseq.alignment.columns import Columns
from fairseq.alignment.spelling import spell
from fairseq.alignment.viterbi import IN_BLANK, best_path, frames_needed
from fairseq.inference.alignment import align
from fairseq.inference.model import SpeechModel
from tests.drills.alignment_speech import Speaker, train

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
RANDOM, REAL, TIED = 200, 50, 50
TIMED = 150  # utterances
RATE = 16000
CLOSE = 0.040  # seconds
MORE_MEMORY = 100  # MB
TOLERANCE = 1e-6  # of a score, relative: torchaudio adds in float32


class Case(NamedTuple):
    """Log-probabilities, T x columns (0: blank), and labels."""

    emissions: np.ndarray
    labels: np.ndarray


def log_softmax(scores: np.ndarray) -> np.ndarray:
    scores = scores - scores.max(axis=1, keepdims=True)
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def random_case(number: int, seed: int, tied: bool = False) -> Case:
    rng = np.random.default_rng([seed, number])
    frames, columns = int(rng.integers(4, 500)), int(rng.integers(2, 40))
    labels = rng.integers(1, columns, max(1, int(frames * rng.uniform(0.02, 0.9))))
    while frames_needed(labels) > frames:
        labels = labels[:-1]
    emissions = log_softmax(rng.normal(size=(frames, columns)) * rng.choice([0.5, 2, 8]))
    if tied:
        emissions = np.round(emissions * 4) / 4  # sums are exact in float32: ties are ties
    if number % 4 == 2:  # a star, as `Columns` makes it
        emissions = np.concatenate([emissions, emissions.max(axis=1, keepdims=True) - np.float32(0.1)], axis=1)
        labels = np.insert(labels, [0, len(labels) // 2], columns)
        if frames_needed(labels) > frames:
            labels = labels[2:]
    return Case(emissions.astype(np.float32), labels)


def real_cases(model: SpeechModel, seed: int) -> list[Case]:
    """Join spoken digits of one speaker each, and run the model on them."""
    rng = np.random.default_rng(seed)
    rows = digits()
    speakers = sorted({row[2] for row in rows})
    cases = []
    for number in range(REAL):
        own = [row for row in rows if row[2] == speakers[number % len(speakers)]]
        chosen = [own[int(n)] for n in rng.integers(0, len(own), int(rng.integers(1, 12)))]
        wave = np.concatenate([soundfile.read(path, dtype="float32")[0] for path, _, _ in chosen])
        source = model.open((wave, soundfile.info(chosen[0][0]).samplerate))
        spelling = spell([" ".join(text for _, text, _ in chosen)], model.dictionary())
        columns = Columns(spelling.units, model.dictionary())
        cases.append(Case(columns.of(model.log_probs([source.read(0, source.num_samples)])[0])[0], columns.labels))
    return cases


def digits() -> list[tuple[Path, str, str]]:
    """File, word and speaker of each recording of shared/data/digits."""
    folder = DATA / "digits"
    lines = (folder / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
    return [(folder / row[0], row[1], Path(row[0]).stem.split("_")[1]) for row in (line.split("\t") for line in lines)]


def whole_table(case: Case) -> tuple[float, int]:
    """Return the best score, and how many paths have it up to rounding, 2 for 2 or more; by a table of all states."""
    symbols = np.zeros(2 * len(case.labels) + 1, dtype=int)
    symbols[1::2] = case.labels
    scores, counts = np.full(len(symbols), -np.inf), np.zeros(len(symbols), dtype=int)
    scores[0], counts[0] = 0.0, 1
    may_skip = np.zeros(len(symbols), dtype=bool)
    may_skip[2:] = (symbols[2:] != 0) & (symbols[2:] != symbols[:-2])
    for row in case.emissions.astype(np.float64):
        ways = np.full((3, len(symbols)), -np.inf)
        numbers = np.zeros((3, len(symbols)), dtype=int)
        ways[0], numbers[0] = scores, counts
        ways[1, 1:], numbers[1, 1:] = scores[:-1], counts[:-1]
        ways[2, 2:], numbers[2, 2:] = np.where(may_skip[2:], scores[:-2], -np.inf), counts[:-2]
        scores = ways.max(axis=0)
        counts = np.minimum(2, np.where((ways >= scores - 1e-4) & (ways > -np.inf), numbers, 0).sum(axis=0))
        scores = scores + row[symbols]
    last = scores[-2:]
    return float(last.max()), int(min(2, counts[-2:][last >= last.max() - 1e-4].sum()))


def compare_with_torchaudio(model: SpeechModel, work: Path, python: str, seed: int) -> bool:
    groups = {
        "random": [random_case(number, seed) for number in range(RANDOM)],
        "tied": [random_case(number, seed + 1, tied=True) for number in range(TIED)],
        "real": real_cases(model, seed),
    }
    good = True
    for name, cases in groups.items():
        arrays = {f"emissions_{n}": case.emissions for n, case in enumerate(cases)}
        arrays |= {f"labels_{n}": case.labels for n, case in enumerate(cases)}
        np.savez(work / "cases.npz", **arrays)
        script = Path(__file__).with_name("alignment_peer.py")
        command = [python, str(script), str(work / "cases.npz"), str(work / "paths.npz")]
        versions = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        with np.load(work / "paths.npz") as theirs:
            rows = [judge(case, theirs[f"path_{n}"]) for n, case in enumerate(cases)]
        unique = [row for row in rows if row.unique]
        optimal, same = sum(row.is_best for row in rows), sum(row.same_path for row in unique)
        equal, worse = sum(row.equal_score for row in rows), sum(row.more > 0 and not row.equal_score for row in rows)
        good &= optimal == len(rows) and same == len(unique) and equal == len(rows) - (worse if name == "tied" else 0)
        print(
            f"{name}: torchaudio {versions['torchaudio']}: best scores {optimal} of {len(rows)}; torchaudio's is equal in "
            f"{equal}, worse in {worse}; equal paths {same} of {len(unique)} with a single best path; largest difference "
            f"of equal scores {max(abs(row.more) for row in rows if row.equal_score):.2g}; frames "
            f"{sum(len(case.emissions) for case in cases):,}, labels {sum(len(case.labels) for case in cases):,}",
            flush=True,
        )
    return good


class Judged(NamedTuple):
    """A case's result next to torchaudio's."""

    more: float  # score than torchaudio's path
    equal_score: bool
    is_best: bool  # the score is that of the whole table
    unique: bool
    same_path: bool


def judge(case: Case, theirs: np.ndarray) -> Judged:
    path = best_path(case.emissions, case.labels, block=64)
    ours = np.append(case.labels, 0)[np.where(path.positions == IN_BLANK, len(case.labels), path.positions)]
    their_score = float(case.emissions[np.arange(len(theirs)), theirs].sum(dtype=np.float64))
    margin = TOLERANCE * max(1.0, abs(their_score))
    best, count = whole_table(case)
    more = path.score - their_score
    same = bool((ours == theirs).all())
    return Judged(more, abs(more) <= margin, abs(path.score - best) <= margin, count == 1, same)


def compare_with_known_times(model: SpeechModel, seed: int) -> bool:
    speaker, rng = Speaker(2, seed), np.random.default_rng(seed)
    errors, letters = [], 0
    for _ in range(TIMED):
        spoken = speaker.say(int(rng.integers(3, 9)))
        found = align(model, spoken.wave, " ".join(spoken.words)).words
        errors.append(np.array([(word.start, word.end) for word in found]) - spoken.times)
        letters += sum(len(word.units) for word in found)
    signed = np.concatenate(errors)
    absolute = np.abs(signed)
    median = float(np.median(absolute))
    print(
        f"times: {len(signed)} words in {TIMED} utterances of unknown voices: median error of a boundary "
        f"{1000 * median:.0f} ms (beginnings {1000 * np.median(absolute[:, 0]):.0f}, ends "
        f"{1000 * np.median(absolute[:, 1]):.0f}; signed {1000 * np.median(signed[:, 0]):+.0f} and "
        f"{1000 * np.median(signed[:, 1]):+.0f}), within 100 ms: {100 * np.mean(absolute <= 0.1):.1f} %"
    )
    return median <= CLOSE


def hour(work: Path) -> tuple[Path, Path]:
    """Write an hour of real speech with its text, and return their paths."""
    audio, text = work / "hour.flac", work / "hour.txt"
    rows: list[tuple[Path, str]] = []
    for name in ("librispeech-mini/train", "librispeech-mini/dev", "an4-mini"):
        for path in sorted((DATA / name).rglob("*.trans.txt")):
            for line in path.read_text().splitlines():
                key, _, words = line.partition(" ")
                rows.append((path.parent / f"{key}.flac", words))
    if not rows:
        raise SystemExit(f"{DATA} has no transcripts")
    samples, lines = 0, []
    with soundfile.SoundFile(audio, "w", RATE, 1, subtype="PCM_16") as file:
        while samples < 3600 * RATE:
            path, words = rows[len(lines) % len(rows)]
            wave = soundfile.read(path, dtype="int16")[0][: 3600 * RATE - samples]
            file.write(wave)
            samples += len(wave)
            lines.append(words)
    text.write_text("\n".join(lines) + "\n")
    return audio, text


def measure(checkpoint: Path, audio: Path, text: Path, seconds: int) -> dict[str, float]:
    """Align the first seconds of a recording in a process of its own."""
    command = [sys.executable, "-m", "tests.drills.alignment", "--measure", str(checkpoint), str(audio), str(text)]
    done = subprocess.run([*command, str(seconds)], stdout=subprocess.PIPE, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def measured(checkpoint: str, audio: str, text: str, seconds: str) -> None:
    """Print what aligning the first seconds costs, as JSON. Text in proportion: what matters is its length."""
    from fairseq.data.audio.manifest import Segment

    model = SpeechModel.load(checkpoint, precision="fp32")
    lines = Path(text).read_text().splitlines()
    lines = lines[: max(1, len(lines) * int(seconds) // 3600)]
    windows: list[float] = []
    began = time.process_time()
    found = align(
        model, Segment(audio, 0, int(seconds) * RATE), lines, missing="drop", tick=lambda: windows.append(memory())
    )
    units = sum(len(word.units) for word in found.words)
    facts = {"words": len(found.words), "units": units, "score": found.score, "windows": len(windows)}
    print(json.dumps({**facts, "cpu": time.process_time() - began, "after_windows": windows[-1], "peak": memory()}))


def memory() -> float:
    """The peak of this process's memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare_memory(checkpoint: Path, work: Path) -> bool:
    audio, text = hour(work)
    short, long = (measure(checkpoint, audio, text, seconds) for seconds in (120, 3600))
    more = long["peak"] - short["peak"]
    print(
        f"hour: {long['words']:,} words, {long['units']:,} letters, {long['windows']} windows, {long['cpu']:.0f} s of "
        f"processor time; peak memory {long['peak']:.0f} MB, two minutes {short['peak']:.0f} MB: {more:+.0f} MB"
    )
    return more <= MORE_MEMORY


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder for corpus and model")
    parser.add_argument("--peer-python", help="interpreter with torchaudio")
    parser.add_argument("--only", default="peers,times,hour", help="parts, separated by commas (default: all)")
    parser.add_argument("--model", type=Path, help="use this checkpoint instead of training one")
    parser.add_argument("--updates", type=int, default=3000, help="of the training (default: 3000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measured(*args.measure)
        return
    if args.work is None:
        parser.error("--work DIR is required")
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint = args.model or train(args.work.absolute(), args.seed, args.updates)
    model = SpeechModel.load(checkpoint, precision="fp32")
    parts: dict[str, Callable[[], bool]] = {
        "times": lambda: compare_with_known_times(model, args.seed),
        "hour": lambda: compare_memory(checkpoint, args.work),
    }
    if args.peer_python is not None:
        parts["peers"] = lambda: compare_with_torchaudio(model, args.work, args.peer_python, args.seed)
    elif "peers" in args.only:
        print("peers: left out, --peer-python is not given")
    good = [part() for name, part in parts.items() if name in args.only.split(",")]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
