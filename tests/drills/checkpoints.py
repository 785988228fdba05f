"""Damaged and unusual checkpoints: each is rejected by name, or has the same tensors as the intact file.

    python -m tests.drills.checkpoints --tries N [--seed S]

A try damages a small checkpoint in one way (a flipped bit anywhere or in the zip directory, a truncation, an
overwritten part, an entry dropped, duplicated or renamed, a config value changed) and opens it as the commands do: to
use its model, and to resume a run.
"""

from __future__ import annotations

import argparse
import copy
import functools
import os
import random
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.drills.forked import Tally, attempt

MODEL = {
    "_name": "wav2vec2",
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "final_dim": 8,
    "conv_feature_layers": "[(8,10,5)] + [(8,3,2)] * 2",
    "conv_pos": 8,
    "conv_pos_groups": 2,
    "quantize_targets": True,
    "latent_vars": 4,
}
TASK = {"_name": "audio_pretraining", "data": "gone", "normalize": True, "sample_rate": 16000}
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    3,
    2**31,
    10**9,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "${model}",
    "${oc.env:HOME}",
    "${",
    [],
    [1, 2],
    [[]],
    {},
    {"a": {"b": 1}},
    "(1, 2",
    "[(8,10,5)] * 1000000000",
    b"bytes",
]


def make_state() -> dict[str, Any]:
    from fairseq.models import build_model

    torch.manual_seed(1)
    model = build_model(MODEL).state_dict()
    return {
        "args": None,
        "cfg": {"model": MODEL, "task": TASK, "common": {"seed": 1}, "checkpoint": {"save_dir": "x"}},
        "model": model,
        "criterion": {},
        "optimizer_history": [
            {"criterion_name": "C", "optimizer_name": "O", "lr_scheduler_state": {"best": None}, "num_updates": 7}
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1}, "metrics": {}, "val_loss": 1.5},
        "last_optimizer_state": {
            "state": {0: {"step": 7, "exp_avg": torch.ones(4)}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
    }


# -- damage ------------------------------------------------------------------------------------------------------------

Damage = Callable[[Path, dict[str, Any], random.Random], str]


def flip(path: Path, state: dict[str, Any], choice: random.Random) -> str:
    return _flip(path, choice, 0)


def flip_directory(path: Path, state: dict[str, Any], choice: random.Random) -> str:
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    return _flip(path, choice, start)


def _flip(path: Path, choice: random.Random, start: int) -> str:
    data = bytearray(path.read_bytes())
    places = [choice.randrange(start, len(data)) for _ in range(choice.choice((1, 1, 1, 2, 8)))]
    for place in places:
        data[place] ^= 1 << choice.randrange(8)
    path.write_bytes(data)
    return f"flipped bits at {places} of {len(data)}"


def cut(path: Path, state: dict[str, Any], choice: random.Random) -> str:
    size = choice.choice((0, 1, 4, 30, choice.randrange(path.stat().st_size)))
    os.truncate(path, size)
    return f"cut to {size}"


def piece(path: Path, state: dict[str, Any], choice: random.Random) -> str:
    """Overwrite a part with zeros, noise or another part, or remove or insert one."""
    data = bytearray(path.read_bytes())
    length, start = choice.choice((1, 16, 512, 4096)), choice.randrange(len(data))
    other = choice.randrange(len(data))
    how = choice.choice(("zeros", "noise", "moved", "removed", "put in"))
    new = {"zeros": bytes(length), "noise": choice.randbytes(length), "removed": b""}.get(
        how, bytes(data[other : other + length])
    )
    data[start : start if how == "put in" else start + length] = new
    path.write_bytes(data)
    return f"{length} bytes at {start} {how}"


def entries(path: Path, state: dict[str, Any], choice: random.Random) -> str:
    """Rewrite the archive with an entry dropped, duplicated, renamed, emptied or compressed."""
    with zipfile.ZipFile(path) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    number = choice.randrange(len(records))
    name, content = records[number]
    how = choice.choice(("dropped", "doubled", "renamed", "emptied", "compressed", "reversed"))
    if how == "dropped":
        del records[number]
    elif how == "doubled":
        records.append((name, records[choice.randrange(len(records))][1]))
    elif how == "renamed":
        records[number] = (
            choice.choice(("../x", "archive/data/99", records[choice.randrange(len(records))][0])),
            content,
        )
    elif how == "emptied":
        records[number] = (name, b"")
    elif how == "reversed":
        records.reverse()
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # zipfile's about doubled names
        for record, data in records:
            method = zipfile.ZIP_DEFLATED if how == "compressed" and record == name else zipfile.ZIP_STORED
            archive.writestr(record, data, method)
    return f"entry {name} {how}"


def values(path: Path, state: dict[str, Any], choice: random.Random) -> str:
    """Change a value of the state, usually one of the model's config."""
    changed = copy.deepcopy(state)
    keys = (
        *MODEL,
        *MODEL,
        *MODEL,
        "quantizer_depth",
        "latent_dim",
        "layer_norm_first",
        "extractor_mode",
        "encoder_layerdrop",
    )
    places: list[list[Any]] = [["cfg", "model", key] for key in keys] + [["cfg", "task", key] for key in TASK]
    places += [["cfg", "model"], ["cfg", "task"], ["cfg"], ["optimizer_history", 0, "num_updates"]]
    places += [[key] for key in changed] + [["extra_state", key] for key in changed["extra_state"]]
    place, value = choice.choice(places), choice.choice(VALUES)
    target: Any = changed
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    torch.save(changed, path)
    return f"{place} is {value!r}"


def weights(path: Path, state: dict[str, Any], choice: random.Random) -> str:
    changed = dict(state["model"])
    name = choice.choice(list(changed))
    how = choice.choice(("dropped", "renamed", "reshaped", "a number", "added"))
    tensor = changed[name] if how == "added" else changed.pop(name)
    new = {
        "renamed": (f"{name}x", tensor),
        "reshaped": (name, torch.zeros(3)),
        "a number": (name, 3),
        "added": ("more.weight", tensor),
    }
    if how in new:
        changed[new[how][0]] = new[how][1]
    torch.save({**state, "model": changed}, path)
    return f"weight {name} {how}"


DAMAGES: tuple[Damage, ...] = (flip, flip, flip_directory, flip_directory, cut, piece, entries, values, values, weights)


# -- opening -----------------------------------------------------------------------------------------------------------


def use(path: Path, sound: dict[str, Any], same_config: bool) -> str:
    """Open a checkpoint as the commands that use a model do."""
    from fairseq import checkpoint_utils

    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    found = model.state_dict()
    for name, tensor in sound["model"].items():
        assert torch.equal(found[name], tensor), f"{name} is another one"
    return "the same model"


def resume(path: Path, sound: dict[str, Any], same_config: bool) -> str:
    """Do what a run does with the newest checkpoint of its folder: verify it, and read it if it is intact."""
    from fairseq.checkpoint import io

    reason = io.verify(path)
    if reason is not None:
        raise ValueError(f"{path} is passed over: {reason}")
    io.peek(path)
    state = io.load(path)
    if same_config:  # only bytes were damaged: what is read must be what was written
        assert state.keys() == sound.keys(), f"entries {list(state)}"
        for name, tensor in sound["model"].items():
            assert torch.equal(state["model"][name], tensor), f"{name} is another one"
        assert state["extra_state"] == sound["extra_state"], "extra_state is another one"
        assert torch.equal(state["last_optimizer_state"]["state"][0]["exp_avg"], torch.ones(4)), (
            "the optimizer's state is another one"
        )
    return "the same state"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    from fairseq.checkpoint import io

    torch.set_num_threads(1)
    choice = random.Random(arguments.seed)
    state, tally = make_state(), Tally("checkpoints")
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.pt"
        io.save(state, sound)
        written = io.load(sound)
        for number in range(arguments.tries):
            path = Path(folder) / f"try{number}.pt"
            path.write_bytes(sound.read_bytes())
            damage = choice.choice(DAMAGES)
            what = damage(path, state, choice)
            bytes_only = damage not in (values, weights)
            for opened in (use, resume):
                outcome = attempt(functools.partial(opened, path, written, bytes_only), path.name)
                tally.add(f"try {number}, {opened.__name__}: {what}", outcome)
            path.unlink()
            if number % 50 == 49:
                print(f"{number + 1}/{arguments.tries}: {dict(tally.counts)}", flush=True)
    sys.exit(not tally.report())


if __name__ == "__main__":
    main()
