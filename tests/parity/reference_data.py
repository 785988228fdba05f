"""Reference numbers of fairseq-fixed 0.12.3.1 in this repository: `tests/parity/data`, under 2 MB.

    python -m tests.parity.reference_data ../shared/reference/parity

writes that folder from the full reference. Values and weights are stored as they are (fp32). A gradient is stored in
16-bit steps of its largest absolute value: an error of at most 1.6e-5 of that value, where the tests allow 1e-4.
"""

from __future__ import annotations

import io
import json
import lzma
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).resolve().parent / "data"
MODELS = ("base", "large", "conformer", "ctc")
STEPS = 32767
_SHARED_WEIGHTS = {"ctc": ("base", "w2v_encoder.w2v_model.")}  # the fine-tuned model contains the pre-trained one


class Reference(NamedTuple):
    """What fairseq computed with one model."""

    model_config: dict[str, Any]
    weights: dict[str, Tensor]  # in the order of fairseq's state dict
    arrays: dict[str, Any]  # inputs, outputs and gradients by name; strings stay numpy arrays


def load(name: str) -> Reference:
    with np.load(io.BytesIO(lzma.decompress((DATA / f"{name}.npz.xz").read_bytes()))) as file:
        stored = {key: file[key] for key in file.files}
    about = json.loads(str(stored.pop("about")))
    base, prefix = _SHARED_WEIGHTS.get(name, (None, ""))
    inherited = {prefix + key: value for key, value in load(base).weights.items()} if base else {}
    own = {
        key.removeprefix("weight/"): torch.from_numpy(value)
        for key, value in stored.items()
        if key.startswith("weight/")
    }
    weights = {key: own[key] if key in own else inherited[key] for key in about["weights"]}
    arrays = {
        key: _restored(key, value, stored) for key, value in stored.items() if not key.startswith(("weight/", "scale/"))
    }
    return Reference(about["model"], weights, arrays)


def load_json(name: str) -> Any:
    return json.loads(lzma.decompress((DATA / f"{name}.json.xz").read_bytes()))


def _restored(key: str, value: np.ndarray, stored: dict[str, np.ndarray]) -> Any:
    if key.startswith("grad/"):
        return torch.from_numpy(value.astype(np.float32) * stored[key.replace("grad/", "scale/", 1)])
    return value if value.dtype.kind == "U" else torch.from_numpy(value)


def _stored(full: Path, name: str) -> dict[str, np.ndarray]:
    checkpoint = torch.load(full / f"{name}.pt", weights_only=True)
    base, prefix = _SHARED_WEIGHTS.get(name, (None, ""))
    known = torch.load(full / f"{base}.pt", weights_only=True)["model"] if base else {}
    about = {"model": checkpoint["cfg"]["model"], "weights": list(checkpoint["model"])}
    stored: dict[str, np.ndarray] = {"about": np.array(json.dumps(about))}
    for key, tensor in checkpoint["model"].items():
        inherited = known.get(key.removeprefix(prefix)) if key.startswith(prefix) else None
        if inherited is None or not torch.equal(inherited, tensor):
            stored[f"weight/{key}"] = tensor.numpy()
    with np.load(full / f"{name}.npz") as file:
        for key in file.files:
            value = file[key]
            if key.startswith("grad/"):
                scale = np.float32(np.abs(value).max() / STEPS)
                stored[key.replace("grad/", "scale/", 1)] = scale
                value = np.rint(value / scale).astype(np.int16) if scale else np.zeros(value.shape, np.int16)
            stored[key] = value
    return stored


def write(full: Path) -> None:
    DATA.mkdir(exist_ok=True)
    for name in MODELS:
        buffer = io.BytesIO()
        np.savez(buffer, **_stored(full, name))
        (DATA / f"{name}.npz.xz").write_bytes(lzma.compress(buffer.getvalue(), preset=9))
    for name in ("lr_schedules", "state_dicts", "wav2vec2_config_defaults"):
        (DATA / f"{name}.json.xz").write_bytes(lzma.compress((full / f"{name}.json").read_bytes(), preset=9))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
