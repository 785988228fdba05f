"""A model in the forms where it runs: equal texts and error rates of onnxruntime, torch.export and sherpa-onnx.

    python -m tests.drills.runtimes CHECKPOINT MANIFEST_DIR SUBSET [--peer-python PYTHON] [--work DIR] [--forms]

MANIFEST_DIR/SUBSET.tsv is a manifest with labels (.ltr or .wrd), or has an audio file and its text on each line, as the
data sets in `shared/data` do. The forms in fp32 must give our texts for every utterance, alone and in padded batches;
the error rate of int8 must be within 0.5 points of ours. PYTHON has sherpa-onnx and onnx-asr: every CTC model type of
both is tried with our files, and the ones that run must be those in docs/checkpoints.md. `--forms` also exports random
models of every kind with torch.export and compares their logits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq.conversion import exported_model, onnx_model, portable_model
from fairseq.conversion.convert import convert
from fairseq.decoding import GreedyDecoder
from fairseq.decoding.tokens import Tokens
from fairseq.evaluation.testset import TestSet
from fairseq.inference.model import SpeechModel
from fairseq.scoring.wer import word_errors

ROOT = Path(__file__).resolve().parents[2]
BATCH = 8
INT8_POINTS = 0.5
CLOSE = 1e-5  # of logits
Run = Callable[[str, list[Tensor], list[Tensor]], list[Tensor]]


class Texts(NamedTuple):
    """What one form transcribes."""

    form: str
    texts: list[str]


def utterances(folder: Path, subset: str, tokens: Tokens) -> list[tuple[Path, str]]:
    """Audio and transcript of each utterance, of either layout."""
    rows = [line.split("\t") for line in (folder / f"{subset}.tsv").read_text(encoding="utf-8").splitlines()]
    if len(rows[0]) == 2:
        return [(folder / audio, text) for audio, text in rows]
    labels = "ltr" if (folder / f"{subset}.ltr").exists() else "wrd"
    testset = TestSet.read(str(folder), subset, labels, tokens)
    return [(Path(str(file)), text) for file, text in zip(testset.files(), testset.references, strict=True)]


def batches(waves: list[np.ndarray], size: int, shortest: int) -> tuple[list[Tensor], list[Tensor]]:
    """Padded batches B x S, and the samples of their rows."""
    sources, lengths = [], []
    for begin in range(0, len(waves), size):
        group = waves[begin : begin + size]
        batch = torch.zeros(len(group), max(shortest, *map(len, group)))
        for row, wave in zip(batch, group, strict=True):
            row[: len(wave)] = torch.from_numpy(wave)
        sources.append(batch)
        lengths.append(torch.tensor([len(wave) for wave in group]))
    return sources, lengths


def run(model: SpeechModel, path: str, form: str, waves: list[np.ndarray], outputs: Run) -> list[Texts]:
    """Texts of a file that takes padded batches, alone and in batches."""
    decoder = GreedyDecoder(model.dictionary())
    ready = waves
    if model.normalize:
        ready = [F.layer_norm(torch.from_numpy(wave), (len(wave),)).numpy() for wave in waves]
    frames = [model.num_frames(len(wave)) for wave in waves]
    found = []
    for size, how in ((1, "alone"), (BATCH, f"batches of {BATCH}")):
        rows = [row for logits in outputs(path, *batches(ready, size, 800)) for row in logits]
        texts = [
            decoder.decode(row[:count].numpy())[0].text if count else ""
            for row, count in zip(rows, frames, strict=True)
        ]
        found.append(Texts(f"{form}, {how}", texts))
    return found


def by_sherpa(work: Path, python: str, waves: list[np.ndarray], rate: int) -> tuple[list[Texts], bool]:
    """Texts of sherpa-onnx, and whether exactly the model types run that the documentation names."""
    arrays = {"rate": np.array(rate)} | {f"wave_{number}": wave for number, wave in enumerate(waves)}
    np.savez(work / "waves.npz", allow_pickle=False, **arrays)
    script = Path(__file__).with_name("runtimes_peer.py")
    command = [python, str(script), str(work / "sherpa-onnx"), str(work / "waves.npz")]
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
    page = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    good = True
    for runtime, types in told["types"].items():
        row = next(line for line in page.splitlines() if line.startswith(f"| {runtime} "))
        takes, refuses = row.split("|")[2:4]
        for kind, outcome in types.items():
            runs = outcome == "runs"
            documented = f"`{kind}`" in (takes if runs else refuses)
            good &= documented
            note = "" if documented else "  (docs/checkpoints.md does not say so)"
            print(
                f"{runtime} {told['versions'][runtime]}: {kind}: {'runs' if runs else f'refused: {outcome[:90]}'}{note}"
            )
    name = f"sherpa-onnx {told['versions']['sherpa-onnx']}"
    return [
        Texts(f"{name} {form}, alone", [" ".join(text.split()) for text in texts])
        for form, texts in told["texts"].items()
    ], good


def largest_difference(source: portable_model.PortableModel, path: str) -> float:
    """Export a model to `path`; returns the largest difference of a logit, padded in a batch and alone."""
    exported_model.write(source, path)
    alone = [torch.randn(1, samples) for samples in (3000, 401, 1501)]
    batch = torch.zeros(3, 3000)
    for row, wave in zip(batch, alone, strict=True):
        row[: wave.size(1)] = wave[0]
    samples = torch.tensor([wave.size(1) for wave in alone])
    padded, single = exported_model.outputs(path, [batch, alone[2]], [samples, samples[2:]])
    model = portable_model.build(source)
    differences = []
    for row, wave in zip([*padded, single[0]], [*alone, alone[2]], strict=True):
        expected = portable_model.outputs(model, wave)[0][0]
        differences.append((row[: len(expected)] - expected).abs().max().item())
    return max(differences)


def compare_forms(work: Path) -> bool:
    """Export a random model of every kind with torch.export, and compare logits, padded and alone."""
    from tests.unit.conversion.test_exported_model import BASE, FORMS, model_of

    good = True
    rotary = {**FORMS["conformer"], "pos_enc_type": "rope"}
    for name, config in {"base": BASE, **FORMS, "rotary conformer": rotary}.items():
        difference = largest_difference(model_of(config), str(work / f"{name}.pt2"))
        good &= difference <= CLOSE
        print(f"torch.export of a random model, {name}: largest difference of a logit {difference:.2g}", flush=True)
    return good


def compare(model: SpeechModel, files: list[tuple[Path, str]], checkpoint: str, work: Path, peer: str | None) -> bool:
    references = [text for _, text in files]
    sources = [model.open(str(file)) for file, _ in files]
    waves = [source.read(0, source.num_samples) for source in sources]
    decoder = GreedyDecoder(model.dictionary())
    ours = [decoder.decode(model.log_probs([wave])[0])[0].text for wave in waves]
    error = word_errors(references, ours).rate()
    print(f"ours: {len(ours)} utterances, WER {error:.2f} %", flush=True)
    writes_sherpa = model.normalize and model.sample_rate == 16_000
    if not writes_sherpa:
        print("sherpa-onnx: not written, since it gives its models normalised audio of 16,000 Hz")
    forms: dict[str, Run] = {"onnx": onnx_model.outputs, "onnx-int8": onnx_model.outputs, "pt2": exported_model.outputs}
    rows: list[Texts] = []
    for form, outputs in forms.items():
        path = str(work / f"model.{form}")
        print(f"{form}: largest difference on test audio {convert(checkpoint, path, form):.2g}", flush=True)
        rows += run(model, path, form, waves, outputs)
    good = True
    if writes_sherpa and peer is not None:
        convert(checkpoint, str(work / "sherpa-onnx"), "sherpa-onnx")
        theirs, good = by_sherpa(work, peer, waves, model.sample_rate)
        rows += theirs
    for form, texts in rows:
        equal = sum(one == other for one, other in zip(ours, texts, strict=True))
        rate = word_errors(references, texts).rate()
        passed = abs(rate - error) <= INT8_POINTS if "int8" in form else equal == len(ours)
        good &= passed
        print(
            f"{form}: equal texts {equal} of {len(ours)}, WER {rate:.2f} % ({rate - error:+.2f}){' ' * passed or '  MISSED'}"
        )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("subset")
    parser.add_argument("--peer-python", help="interpreter of an environment with sherpa-onnx and onnx-asr")
    parser.add_argument("--work", type=Path, help="folder for the files (default: a temporary one)")
    parser.add_argument("--forms", action="store_true")
    args = parser.parse_args()
    model = SpeechModel.load(args.checkpoint, precision="fp32")
    files = utterances(args.folder, args.subset, model.dictionary())
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        good = compare(model, files, args.checkpoint, work, args.peer_python)
        if args.forms:
            good &= compare_forms(work)
    print("all as required" if good else "NOT as required")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
