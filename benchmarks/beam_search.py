#!/usr/bin/env python3
"""The two beam searches side by side, and ctc-beam-decoder: texts, scores, error rates and processor seconds.

    python benchmarks/beam_search.py CHECKPOINT LABELS [--gen-subset valid,test] [--utterances 500] [--peer]

LABELS is a folder with manifests, labels, `lexicon.txt` and `words.arpa`, such as the demo's (`make demo`, then
demo_output/on_corpus/labels). The model's log-probabilities are decoded as they are, and again with Gaussian noise
added to them, up to the number of utterances. `--peer` adds ctc-beam-decoder, if it is installed: it has other pruning
and no lexicon of its own, so only its error rate can be compared.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
from results_file import write

from fairseq.decoding.beam import BeamDecoder, BeamSettings, read_guidance
from fairseq.decoding.tokens import Tokens
from fairseq.evaluation.testset import TestSet
from fairseq.inference.model import SpeechModel
from fairseq.inference.recognise import emissions
from fairseq.inference.windows import WindowSettings
from fairseq.scoring.wer import word_errors

SPREADS = (0.0, 0.5, 1.0, 1.5, 2.0)  # of the noise, in natural logarithms


def seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def outputs(model: SpeechModel, labels: Path, splits: list[str]) -> list[tuple[np.ndarray, str]]:
    """Log-probabilities T x V of each utterance, and its transcript."""
    found = []
    for split in splits:
        testset = TestSet.read(str(labels), split, "ltr", model.dictionary())
        files = testset.files()
        for emission in emissions(model, files, [1] * len(files), WindowSettings(), 1_000_000):
            found.append((np.concatenate(list(emission.pieces)), testset.references[emission.index]))
    return found


def disturbed(clean: list[tuple[np.ndarray, str]], wanted: int) -> list[tuple[np.ndarray, str]]:
    """The utterances, then the same with noise, then with more noise."""
    rng = np.random.default_rng(1)
    found: list[tuple[np.ndarray, str]] = []
    for spread in SPREADS:
        for log_probs, said in clean:
            logits = log_probs + rng.normal(scale=spread, size=log_probs.shape) if spread else log_probs
            total = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
            normal = logits - logits.max(axis=1, keepdims=True) - total
            found.append((normal.astype(np.float32), said))
    return found[:wanted]


class Peer:
    """ctc-beam-decoder with the same language model and the lexicon's words as its unigrams."""

    def __init__(self, tokens: Tokens, words: list[str], model: str | None, settings: BeamSettings) -> None:
        from ctc_beam_decoder import build_ctcdecoder

        names = {number: chr(0xE000 + number) for number in tokens.silent}  # it would take <pad> for the blank
        names |= {tokens.blank: "", tokens.silence: " "}
        labels = [names.get(number, symbol) for number, symbol in enumerate(tokens.symbols)]
        # its weight is for natural logarithms
        options: dict[str, Any] = {} if model is None else {"kenlm_model_path": model, "unigrams": words}
        if model is not None:
            options |= {"alpha": settings.lm_weight / math.log(10), "beta": settings.word_score}
        self._decoder, self._settings = build_ctcdecoder(labels, **options), settings

    def __call__(self, log_probs: np.ndarray) -> tuple[str, float]:
        beams = self._decoder.decode_beams(log_probs, beam_width=self._settings.beam)
        return (beams[0][0], beams[0][4]) if beams else ("", 0.0)


def run(decode: Any, utterances: list[tuple[np.ndarray, str]]) -> dict[str, Any]:
    """Texts, scores, processor seconds and error rate."""
    decode(utterances[0][0])
    begin = seconds()
    found = [decode(log_probs) for log_probs, _ in utterances]
    spent = seconds() - begin
    texts = [text for text, _ in found]
    return {
        "texts": texts,
        "scores": [score for _, score in found],
        "seconds": spent,
        "wer": word_errors([said for _, said in utterances], texts).rate(),
    }


def best(decoder: BeamDecoder) -> Any:
    def decode(log_probs: np.ndarray) -> tuple[str, float]:
        found = decoder.decode(log_probs)[0]
        return found.text, found.score

    return decode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--gen-subset", default="test,valid")
    parser.add_argument("--utterances", type=int, default=500)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--letters", help="a language model of letters, for a search without a lexicon")
    args = parser.parse_args()
    model = SpeechModel.load(args.checkpoint, precision="fp32")
    tokens = model.dictionary()
    utterances = disturbed(outputs(model, args.labels, args.gen_subset.split(",")), args.utterances)
    frames = sum(len(log_probs) for log_probs, _ in utterances)
    audio = frames / 50  # seconds
    lexicon, words = str(args.labels / "lexicon.txt"), str(args.labels / "words.arpa")
    cases: dict[str, tuple[str | None, str | None, BeamSettings]] = {
        "lexicon": (lexicon, None, BeamSettings()),
        "lexicon and model": (lexicon, words, BeamSettings()),
        "beam 500": (lexicon, words, BeamSettings(beam=500)),
        "most likely path": (lexicon, words, BeamSettings(log_add=False)),
        "unknown words": (lexicon, words, BeamSettings(unk_weight=-5.0)),
        "10 tokens": (lexicon, words, BeamSettings(beam_size_token=10, sil_weight=-0.2, beam_threshold=20.0)),
    }
    if args.letters:
        cases["letters"] = (None, args.letters, BeamSettings(lm_weight=1.0))
    result: dict[str, Any] = {"utterances": len(utterances), "audio_seconds": audio, "cases": {}}
    for name, (lexicon_file, lm, settings) in cases.items():
        guidance = read_guidance(tokens, lexicon_file, lm)
        chosen = utterances[:: 10 if settings.beam > 50 else 1]
        length = audio * len(chosen) / len(utterances)
        runs = {
            kind: run(best(BeamDecoder(tokens, guidance, settings, 1, kind)), chosen)
            for kind in ("flashlight", "numpy")
        }
        if args.peer and lexicon_file and settings == BeamSettings():
            runs["ctc-beam-decoder"] = run(Peer(tokens, [e.word for e in guidance.entries], lm, settings), chosen)
        first = runs["flashlight"]
        rows = {
            kind: {
                "texts_equal": sum(a == b for a, b in zip(first["texts"], found["texts"], strict=True)),
                "largest_score_difference": max(
                    abs(a - b) for a, b in zip(first["scores"], found["scores"], strict=True)
                ),
                "cpu_seconds_per_10_s": round(found["seconds"] / length * 10, 4),
                "wer": round(found["wer"], 2),
            }
            for kind, found in runs.items()
        }
        result["cases"][name] = {"utterances": len(chosen), **rows}
        print(name, *(f"  {kind}: {row}" for kind, row in rows.items()), sep="\n", flush=True)
    print("wrote", write("beam_search", result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
