#!/usr/bin/env python3
"""Share of words that differ between long audio in windows and in one pass.

    python benchmarks/long_audio.py CHECKPOINT LABELS [--gen-subset test] [--minutes 5] [--lexicon FILE --lm FILE]

Each recording in a manifest of at least that length is transcribed twice: in overlapping windows that are normalised
separately, as in fairseq-infer and fairseq-transcribe, and in one pass. If no recording is long enough, utterances are
concatenated. Differing words are counted as in word error rate, with the one pass as the reference. The error rates of
both against the labels are in the result too.

Use an accurate model: with one that gets every second word wrong, any change of context changes words. `python
benchmarks/clear_speech.py --work W` trains one: W/longest_run/checkpoint_last.pt, recordings and labels in
W/five_minutes, W/lexicon.txt and W/words.arpa (use --minutes 4.8 to include all recordings).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from results_file import write

from fairseq.decoding.beam import BeamSettings, read_beam
from fairseq.decoding.greedy import GreedyDecoder
from fairseq.evaluation.testset import TestSet
from fairseq.inference.model import SpeechModel
from fairseq.inference.transcribe import transcribe
from fairseq.inference.windows import WindowSettings, plan_windows
from fairseq.scoring.wer import word_errors

MAX_SHARE = 1.0  # maximum % of words that differ


def recordings(testset: TestSet, seconds: float, sample_rate: int) -> list[tuple[np.ndarray, str]]:
    """Audio and transcript of each recording of at least this length, or of concatenated, repeated utterances."""
    wanted = int(seconds * sample_rate)
    read = [(_read(file, sample_rate), said) for file, said in zip(testset.files(), testset.references, strict=True)]
    long = [(wave, said) for wave, said in read if len(wave) >= wanted]
    if long:
        return long
    pieces: list[tuple[np.ndarray, str]] = []
    while sum(len(wave) for wave, _ in pieces) < wanted:
        pieces.append(read[len(pieces) % len(read)])
    return [(np.concatenate([wave for wave, _ in pieces]), " ".join(said for _, said in pieces))]


def _read(file: str, sample_rate: int) -> np.ndarray:
    wave, rate = soundfile.read(file, dtype="float32")
    if rate != sample_rate:
        raise ValueError(f"{file} has a sample rate of {rate} Hz. The model requires {sample_rate} Hz.")
    return wave


def compare(model: SpeechModel, decoder: Any, wave: np.ndarray, said: str, windows: WindowSettings) -> dict[str, Any]:
    """Transcribe one waveform in windows and in one pass, and compare."""
    whole = WindowSettings(len(wave) / model.sample_rate + 1, 0)
    one_pass, windowed = (transcribe(model, wave, decoder, windows=settings).text for settings in (whole, windows))
    differing = word_errors([one_pass], [windowed])
    return {
        "audio_seconds": round(len(wave) / model.sample_rate, 1),
        "windows": len(plan_windows(len(wave), model.conv_layers, model.sample_rate, windows)),
        "words": differing.total,
        "differing": differing.errors,
        "differing_percent": round(differing.rate(), 3),
        "wer_one_pass": round(word_errors([said], [one_pass]).rate(), 2),
        "wer_windows": round(word_errors([said], [windowed]).rate(), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="fine-tuned checkpoint")
    parser.add_argument("labels", type=Path, help="folder with the manifest and its labels")
    parser.add_argument("--gen-subset", default="test", help="name of the manifest (default: test)")
    parser.add_argument("--minutes", type=float, default=5, help="minimum length of a recording (default: 5)")
    parser.add_argument("--lexicon", help="also decode with a lexicon")
    parser.add_argument("--lm", help="also decode with a language model")
    parser.add_argument("--precision", default="fp32", help="precision of the model (default: fp32)")
    args = parser.parse_args()
    model = SpeechModel.load(args.checkpoint, precision=args.precision)
    testset = TestSet.read(args.labels, args.gen_subset, model.task.cfg.labels, model.dictionary())
    settings = WindowSettings()
    decoders: dict[str, Any] = {"greedy": GreedyDecoder(model.dictionary())}
    if args.lexicon is not None or args.lm is not None:
        decoders["beam"] = read_beam(model.dictionary(), args.lexicon, args.lm, BeamSettings())
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in decoders}
    for wave, said in recordings(testset, args.minutes * 60, model.sample_rate):
        for name, decoder in decoders.items():
            result = compare(model, decoder, wave, said, settings)
            found[name].append(result)
            share = f"{result['differing']} of {result['words']} words differ ({result['differing_percent']:.2f}%)"
            rates = (
                f"WER {result['wer_windows']:.1f}% in {result['windows']} windows, "
                f"{result['wer_one_pass']:.1f}% in one pass"
            )
            print(f"{result['audio_seconds']} s, {name}: {share}; {rates}", flush=True)
    measured = {
        "checkpoint": args.checkpoint.name,
        "num_updates": model.num_updates,
        "precision": args.precision,
        "window": {"seconds": settings.seconds, "overlap": settings.overlap},
        "limit_percent": MAX_SHARE,
        "recordings": found,
    }
    print(f"results: {write('long_audio', measured)}")
    return 0 if all(result["differing_percent"] <= MAX_SHARE for results in found.values() for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
