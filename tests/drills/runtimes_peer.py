"""Transcribe with sherpa-onnx, and try every CTC model type of sherpa-onnx and onnx-asr, where these are installed.

    PYTHON tests/drills/runtimes_peer.py FOLDER WAVES.npz

FOLDER is what `fairseq-convert --to sherpa-onnx` wrote; WAVES.npz has `rate` and `wave_N`, float32, for N from 0. Prints
JSON with versions, the texts, and what each model type did. `tests.drills.runtimes --peer-python PYTHON` compares them.
This file imports nothing of fairseq.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import typing
from importlib import metadata
from pathlib import Path

import numpy as np

OURS = "omnilingual_asr_ctc"
FILES = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
RUNS = "runs"


def sherpa(folder: Path, waves: list[np.ndarray], rate: int) -> dict[str, list[str]]:
    import sherpa_onnx

    texts = {}
    for form, name in FILES.items():
        recognizer = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
            model=str(folder / name), tokens=str(folder / "tokens.txt")
        )
        texts[form] = [sherpa_text(recognizer, wave, rate) for wave in waves]
    return texts


def sherpa_text(recognizer: typing.Any, wave: np.ndarray, rate: int) -> str:
    stream = recognizer.create_stream()
    stream.accept_waveform(rate, wave)
    recognizer.decode_stream(stream)
    return stream.result.text


def sherpa_types() -> list[str]:
    import sherpa_onnx

    names = [name.removeprefix("from_") for name in dir(sherpa_onnx.OfflineRecognizer) if name.startswith("from_")]
    return [name for name in names if name.endswith("ctc") or name == "sense_voice"]


def onnx_asr_types() -> list[str]:
    """One name of each class of onnx-asr with CTC's decoding."""
    from onnx_asr import loader

    named: dict[type, str] = {}
    for name in (*typing.get_args(loader.AsrTypeNames), *typing.get_args(loader.AsrNames)):
        kind = loader.create_asr_resolver(name, tempfile.gettempdir()).model_type
        if any(base.__name__ == "_AsrWithCtcDecoding" for base in kind.__mro__) and "/" not in name:
            named.setdefault(kind, name)
    return list(named.values())


def try_sherpa(kind: str, folder: Path, wave: np.ndarray, rate: int) -> None:
    import sherpa_onnx

    make = getattr(sherpa_onnx.OfflineRecognizer, f"from_{kind}")
    sherpa_text(make(model=str(folder / "model.onnx"), tokens=str(folder / "tokens.txt")), wave, rate)


def try_onnx_asr(kind: str, folder: Path, wave: np.ndarray, rate: int) -> None:
    """Give it our files under the names that it looks for."""
    import onnx_asr
    from onnx_asr import loader

    symbols = [line.rsplit(" ", 1)[0] for line in (folder / "tokens.txt").read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as there:
        files = loader.create_asr_resolver(kind, there).model_type._get_model_files()
        for part, pattern in files.items():
            source = {"model": "model.onnx", "vocab": "tokens.txt"}.get(part)
            if source is not None:
                shutil.copy(folder / source, Path(there) / pattern.replace("?", "2").replace("*", ""))
        (Path(there) / "config.json").write_text(json.dumps({"decoder_params": {"vocabulary": symbols}}))
        onnx_asr.load_model(kind, there).recognize(wave, sample_rate=typing.cast(typing.Any, rate))


TRIES = {"sherpa-onnx": try_sherpa, "onnx-asr": try_onnx_asr}


def tried(runtime: str, kinds: list[str], folder: Path, waves: Path) -> dict[str, str]:
    """Try each type in a process of its own, since sherpa-onnx ends the process at a file that does not fit."""
    found = {}
    for kind in kinds:
        command = [sys.executable, __file__, str(folder), str(waves), runtime, kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        found[kind] = RUNS if done.returncode == 0 else (lines[-1].strip() if lines else f"exit {done.returncode}")
    return found


def main(folder: Path, path: Path, *one: str) -> None:
    with np.load(path) as given:
        rate = int(given["rate"])
        waves = [given[f"wave_{number}"] for number in range(len(given.files) - 1)]
    if one:
        runtime, kind = one
        TRIES[runtime](kind, folder, waves[0], rate)
        return
    types = {"sherpa-onnx": sherpa_types(), "onnx-asr": onnx_asr_types()}
    told = {
        "versions": {name: metadata.version(name) for name in types},
        "texts": sherpa(folder, waves, rate),
        "types": {runtime: tried(runtime, kinds, folder, path) for runtime, kinds in types.items()},
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
