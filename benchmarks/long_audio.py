#!/usr/bin/env python3
"""Long audio in windows against the same audio in one pass: what share of the words differs.

    python benchmarks/long_audio.py CHECKPOINT LABELS [--gen-subset test] [--minutes 5] [--lexicon FILE --lm FILE]

Each recording of a manifest that lasts that long is read twice: as fairseq-infer and fairseq-transcribe do, in overlapping windows that
are each normalised by themselves, and all at once. Where none is so long, utterances are put one after the other. Words are counted as
jiwer's word error rate does, with the one pass as the reference; both readings' error rates against what was said stand beside it.

It takes a model that reads well: one that is wrong in every second word flips at any change of what lies around a word.
`python benchmarks/clear_speech.py --work W` trains such a one: W/long_run/checkpoint_last.pt, recordings and labels in W/five_minutes,
W/lexicon.txt and W/words.arpa.
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
from fairseq.inference.model import SpeechModel
from fairseq.inference.testset import TestSet
from fairseq.inference.transcribe import transcribe
from fairseq.inference.windows import WindowSettings, plan_windows
from fairseq.scoring.wer import word_errors

MAX_SHARE = 1.0  # % of words that may differ


def joined(testset: TestSet, seconds: float, sample_rate: int) -> tuple[np.ndarray, str]:
    """Whole utterances one after the other, from the first one again where they do not suffice; and what was said."""
    pieces: list[np.ndarray] = []
    words: list[str] = []
    wanted = int(seconds * sample_rate)
    while sum(map(len, pieces)) < wanted:
        number = len(pieces) % len(testset)
        wave, rate = soundfile.read(testset.files()[number], dtype="float32")
        if rate != sample_rate:
            raise ValueError(f"{testset.files()[number]} has {rate} Hz, the model reads {sample_rate} Hz")
        pieces.append(wave)
        words.append(testset.references[number])
    return np.concatenate(pieces), " ".join(words)


def compare(model: SpeechModel, decoder: Any, wave: np.ndarray, said: str, windows: WindowSettings) -> dict[str, Any]:
    """Both readings of one waveform."""
    whole = WindowSettings(len(wave) / model.sample_rate + 1, 0)
    one_pass, windowed = (transcribe(model, wave, decoder, windows=settings).text for settings in (whole, windows))
    differing = word_errors([one_pass], [windowed])
    return {
        "words": differing.total,
        "differing": differing.errors,
        "differing_percent": round(differing.rate(), 3),
        "wer_one_pass": round(word_errors([said], [one_pass]).rate(), 2),
        "wer_windows": round(word_errors([said], [windowed]).rate(), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="fine-tuned")
    parser.add_argument("labels", type=Path, help="folder of the manifest and its labels")
    parser.add_argument("--gen-subset", default="test", help="name of the manifest (default: test)")
    parser.add_argument("--minutes", type=float, default=5, help="of the joined audio (default: 5)")
    parser.add_argument("--lexicon", help="also decode with a lexicon")
    parser.add_argument("--lm", help="and with a language model")
    parser.add_argument("--precision", default="fp32", help="of the model (default: fp32)")
    args = parser.parse_args()
    model = SpeechModel.load(args.checkpoint, precision=args.precision)
    testset = TestSet.read(args.labels, args.gen_subset, model.task.cfg.labels, model.dictionary())
    wave, said = joined(testset, args.minutes * 60, model.sample_rate)
    settings = WindowSettings()
    decoders: dict[str, Any] = {"greedy": GreedyDecoder(model.dictionary())}
    if args.lexicon is not None or args.lm is not None:
        decoders["beam"] = read_beam(model.dictionary(), args.lexicon, args.lm, BeamSettings())
    count = len(plan_windows(len(wave), model.conv_layers, model.sample_rate, settings))
    found = {name: compare(model, decoder, wave, said, settings) for name, decoder in decoders.items()}
    for name, result in found.items():
        share = f"{result['differing']} of {result['words']} words differ ({result['differing_percent']:.2f} %)"
        print(f"{name}: {share}; WER in {count} windows {result['wer_windows']:.1f} %, in one pass {result['wer_one_pass']:.1f} %")
    measured = {
        "checkpoint": args.checkpoint.name,
        "num_updates": model.num_updates,
        "precision": args.precision,
        "audio_seconds": round(len(wave) / model.sample_rate, 1),
        "windows": {"seconds": settings.seconds, "overlap": settings.overlap, "count": count},
        "limit_percent": MAX_SHARE,
        "results": found,
    }
    print(f"written to {write('long_audio', measured)}")
    return 0 if all(result["differing_percent"] <= MAX_SHARE for result in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
