#!/usr/bin/env python3
"""Delay of words and loss of accuracy of `fairseq-transcribe --stream`, for several steps and contexts.

    python benchmarks/streaming.py CHECKPOINT LABELS [--gen-subset test] [--utterances 40] [--minutes 2]

LABELS is a folder with a manifest and its labels. Its utterances are streamed alone, and concatenated to recordings of
that many minutes with pauses between them, in the order of the manifest. The clock is simulated: audio arrives in real
time, in pieces of 0.1 s, and computing takes the processor time that it takes here, on one thread; nothing sleeps. A
word's delay is the time from the end of its sound to its appearance; forced alignment of the printed words gives the
ends. Error rates are beside those of decoding the whole audio.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from results_file import write

from fairseq.decoding import GreedyDecoder
from fairseq.evaluation.testset import TestSet
from fairseq.inference.alignment import align
from fairseq.inference.live import LiveSettings, LiveTranscriber
from fairseq.inference.model import SpeechModel
from fairseq.inference.transcribe import transcribe_one
from fairseq.inference.windows import WindowSettings
from fairseq.scoring.wer import character_errors, word_errors

PIECE = 0.1  # seconds
PAUSES = (0.3, 2.0)  # seconds between utterances, at least and at most
NOISE = 1e-4  # of the pauses: digital silence never comes from a microphone
SETTINGS = [
    LiveSettings(),
    *(LiveSettings(left=left) for left in (1.0, 2.0, 8.0)),
    *(LiveSettings(step=step) for step in (0.25, 1.0)),
    *(LiveSettings(right=right) for right in (0.1, 0.25, 1.0)),
]


class Recording(NamedTuple):
    """Audio and its transcript."""

    wave: np.ndarray
    said: str


class Streamed(NamedTuple):
    """Words with the time of their appearance, and processor seconds."""

    words: list[str]
    times: list[float]
    spent: float


def concatenated(parts: list[Recording], minutes: float, rate: int) -> list[Recording]:
    """Join recordings with pauses of random length; the last one may be shorter."""
    rng, found = np.random.default_rng(0), []
    waves: list[np.ndarray] = []
    said: list[str] = []
    for number, part in enumerate(parts):
        silence = rng.normal(scale=NOISE, size=int(rate * rng.uniform(*PAUSES))).astype(np.float32)
        waves += [part.wave, silence]
        said.append(part.said)
        if sum(map(len, waves)) >= minutes * 60 * rate or number == len(parts) - 1:
            found.append(Recording(np.concatenate(waves), " ".join(said)))
            waves, said = [], []
    return found


def stream(model: SpeechModel, wave: np.ndarray, settings: LiveSettings) -> Streamed:
    """Transcribe audio that arrives in real time."""
    live, clock, spent = LiveTranscriber(model, settings), 0.0, 0.0
    found: list[tuple[str, float]] = []
    samples = int(PIECE * model.sample_rate)
    for begin in range(0, len(wave) + samples, samples):
        piece = wave[begin : begin + samples]
        clock = max(clock, (begin + len(piece)) / model.sample_rate)  # it waits for the audio, or is behind it
        start = time.process_time()
        words = live.feed(piece) if len(piece) else live.finish()
        took = time.process_time() - start
        clock, spent = clock + took, spent + took
        found += [(word, clock) for word in words]
        if not len(piece):
            break
    return Streamed([word for word, _ in found], [when for _, when in found], spent)


def delays(model: SpeechModel, wave: np.ndarray, streamed: Streamed) -> list[float]:
    """Seconds from the end of each word's sound to its appearance."""
    found = align(model, wave, " ".join(streamed.words), missing="star").words if streamed.words else []
    assert len(found) == len(streamed.words), "each printed word has a place"
    return [when - word.end for when, word in zip(streamed.times, found, strict=True)]


def measured(
    model: SpeechModel, recordings: list[Recording], whole: list[str], settings: LiveSettings
) -> dict[str, float | int]:
    streams = [stream(model, recording.wave, settings) for recording in recordings]
    late = [delay for one, words in zip(recordings, streams, strict=True) for delay in delays(model, one.wave, words)]
    said, texts = [recording.said for recording in recordings], [" ".join(streamed.words) for streamed in streams]
    audio = sum(len(recording.wave) for recording in recordings) / model.sample_rate
    return {
        "step": settings.step,
        "left": settings.left,
        "right": settings.right,
        "words": len(late),
        "delay_median": round(float(np.median(late)), 3) if late else float("nan"),
        "delay_95_percent": round(float(np.percentile(late, 95)), 3) if late else float("nan"),
        "delay_largest": round(max(late), 3) if late else float("nan"),
        "wer": round(word_errors(said, texts).rate(), 2),
        "cer": round(character_errors(said, texts).rate(), 2),
        "words_unlike_whole_percent": round(word_errors(whole, texts).rate(), 2),
        "cpu_seconds_per_audio_second": round(sum(streamed.spent for streamed in streams) / audio, 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="fine-tuned checkpoint")
    parser.add_argument("labels", type=Path, help="folder with the manifest and its labels")
    parser.add_argument("--gen-subset", default="test", help="name of the manifest (default: test)")
    parser.add_argument("--utterances", type=int, default=40, help="at most so many (default: 40)")
    parser.add_argument("--minutes", type=float, default=2, help="length of the long recordings (default: 2)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # processor time is then the time that a stream waits
    model = SpeechModel.load(args.checkpoint, precision="fp32")
    testset = TestSet.read(args.labels, args.gen_subset, model.task.cfg.labels, model.dictionary())
    short = []
    for file, said in list(zip(testset.files(), testset.references, strict=True))[: args.utterances]:
        source = model.open(file)
        short.append(Recording(source.read(0, source.num_samples), said))
    decoder, kinds = GreedyDecoder(model.dictionary()), {"short": short}
    kinds["long"] = concatenated(short, args.minutes, model.sample_rate)
    result: dict[str, object] = {"checkpoint": args.checkpoint.name, "subset": args.gen_subset, "piece": PIECE}
    for kind, recordings in kinds.items():
        whole = [transcribe_one(model, one.wave, decoder, WindowSettings()).text for one in recordings]
        said = [one.said for one in recordings]
        offline = {
            "recordings": len(recordings),
            "audio_seconds": round(sum(len(one.wave) for one in recordings) / model.sample_rate, 1),
            "words": sum(len(text.split()) for text in said),
            "wer": round(word_errors(said, whole).rate(), 2),
            "cer": round(character_errors(said, whole).rate(), 2),
        }
        print(f"{kind}: whole audio: {offline}", flush=True)
        rows = []
        for settings in SETTINGS:
            rows.append(measured(model, recordings, whole, settings))
            print(f"{kind}: {rows[-1]}", flush=True)
        result[kind] = {"whole": offline, "streams": rows}
    print("wrote", write("streaming", result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
