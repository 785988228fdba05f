"""Mutated YAML files and command lines: each composes, or fails with a message that names a file or a key.

python -m tests.drills.configs --tries N [--seed S]
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from fairseq.dataclass.groups import CONFIG_GROUPS
from fairseq.dataclass.utils import FIXED_GROUPS, REGISTRY_GROUPS, dataclasses_of
from fairseq_cli import hydra_train
from tests.drills.forked import Tally, attempt

NAMED = "[named] "  # put before a sentence that names a file or a key
GROUPS = (*FIXED_GROUPS, *REGISTRY_GROUPS)
KEYS = [
    f"{group}.{name}" for group in GROUPS for dataclass in dataclasses_of(group) for name in dataclass.field_defaults()
]
_KEY = re.compile(rf"\b({'|'.join(GROUPS)})\b|^  - \S+ is not a known config group|has no key before", re.MULTILINE)

BASE: dict[str, Any] = {
    "defaults": ["_self_", {"model": "wav2vec2/wav2vec2_base"}, {"optimizer": None}],
    "common": {"cpu": True, "seed": 1, "log_interval": 2, "log_format": "simple"},
    "checkpoint": {"save_dir": "ckpt", "no_epoch_checkpoints": True},
    "task": {
        "_name": "audio_pretraining",
        "data": ".",
        "max_sample_size": 32000,
        "min_sample_size": 8000,
        "normalize": True,
    },
    "dataset": {"num_workers": 0, "max_tokens": 128000, "skip_invalid_size_inputs_valid_test": True},
    "criterion": {"_name": "wav2vec", "infonce": True, "log_keys": ["temp"], "loss_weights": [0.1, 10]},
    "optimization": {"max_update": 8, "lr": [0.0005], "update_freq": [1]},
    "optimizer": {"_name": "adam", "adam_betas": "(0.9,0.98)", "adam_eps": 1e-06, "weight_decay": 0.01},
    "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 2},
    "model": {
        "encoder_embed_dim": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "conv_pos_groups": 4,
        "final_dim": 16,
        "conv_feature_layers": "[(32,10,5)] + [(32,3,2)]*4",
        "latent_temp": [2, 0.5, 0.9],
    },
}
NUMBERS = [-1, 0, 3, 2.5, 1e6, 1e308, 10**30, float("inf"), float("nan")]
TEXTS = [
    "",
    " ",
    "None",
    "null",
    "nan",
    "yes",
    "1e6",
    "-",
    "[",
    "[2",
    "(1,",
    "{a: b",
    ",",
    "a,b",
    "choice(1,2)",
    "*x",
    "&x",
    "!!python/name:os",
    "é\u200b\x07",
    "x" * 5000,
    "/",
    "/abs",
    "../..",
    "a.b",
]
REFERENCES = [
    "???",
    "${",
    "${}",
    "${model}",
    "${optimization.lr}",
    "${oc.env:NOT_SET_ANYWHERE}",
    "${oc.env:HOME}",
    "${nothing.there}",
    "${.x}",
    "${..}",
    "${oc.decode:'[1,'}",
    "${oc.create:{a: 1}}",
    "x${model}",
    "${model.${task}}",
    "\\${x}",
]
CONTAINERS: list[Any] = [
    [],
    [None],
    [[]],
    [1, "a"],
    ["${optimization.lr}"],
    {},
    {"a": 1},
    {1: 2},
    {"_name": None},
    {"_name": ["a"]},
    {"_name": "${model}"},
    {"_name": 3},
    {"_target_": "os.system"},
    [{"a": [{"b": None}]}],
]
VALUES: list[Any] = [None, True, *NUMBERS, *TEXTS, *REFERENCES, *CONTAINERS]
ODD_KEYS: list[Any] = ["x", "", 3, None, True, 1.5, "a.b", "seed", "_name", "defaults", "hydra"]
AFTER_COLON = ["", "::", ": &x", ": *x", ":\t", ": !!set", ": !!timestamp", ": |", ": >", ": {", ": ["]
LINES = ["---", "...", "\t", "? x", "<<: *x", "%YAML 9", "- x", "x: y: z", "a: 2026-99-99", "b: 1:99:99", "'"]
HEADERS = [
    "",
    "# @package _global_\n",
    "# @package a b\n",
    "# @package ${x}\n",
    "# @package _global_.model\n",
    "# @package\n",
]
TYPED = [*CONFIG_GROUPS, *GROUPS, "x", "max_update", "seed", "hydra.run.dir", "hydra/launcher", "", "a.b.c", "model@x"]


def paths_of(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return all paths in nested dicts and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in items for place in ((*path, key), *paths_of(value, (*path, key)))]


def mutated_tree(chance: random.Random) -> Any:
    """Return the base config with one to three values changed."""
    tree = copy.deepcopy(BASE)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        place = chance.choice(paths_of(tree) or [()])
        if not place:
            return chance.choice(VALUES)
        parent = tree
        for key in place[:-1]:
            parent = parent[key]
        change = chance.randrange(9)
        old = parent[place[-1]]
        if change == 8 and isinstance(old, bool | int | float):
            parent[place[-1]] = not old if isinstance(old, bool) else chance.choice([old * 2, old / 2, float(old)])
        elif change == 0:
            del parent[place[-1]]
        elif change == 1:
            parent[place[-1]] = [old]
        elif change == 2:
            parent[place[-1]] = f"${{{'.'.join(map(str, chance.choice(paths_of(tree))))}}}"
        elif change == 3 and isinstance(parent, dict):
            parent[chance.choice([*ODD_KEYS, chance.choice(KEYS)])] = chance.choice(VALUES)
        elif change == 4:
            group, _, name = chance.choice(KEYS).partition(".")
            if isinstance(tree.setdefault(group, {}), dict):
                tree[group][name] = chance.choice(VALUES)
        else:
            parent[place[-1]] = copy.deepcopy(chance.choice(VALUES))
    return tree


def mutated_text(chance: random.Random) -> bytes:
    """Return the base config's text, damaged as by an editor or a disk."""
    text = yaml.safe_dump(BASE, sort_keys=False)
    for _ in range(chance.randint(1, 4)):
        lines = text.split("\n")
        line = chance.randrange(len(lines))
        change = chance.randrange(8)
        if change == 0:
            del lines[line]
        elif change == 1:
            lines[line] = " " * chance.randint(1, 5) + lines[line]
        elif change == 2:
            lines[line] = lines[line].lstrip()
        elif change == 3:
            lines[line] = lines[line].replace(":", chance.choice(AFTER_COLON), 1)
        elif change == 4:
            lines.insert(line, chance.choice(lines))
        elif change == 5:
            lines.insert(line, chance.choice(LINES))
        text = "\n".join(lines)
        if change >= 6 and text:
            place = chance.randrange(len(text))
            text = text[:place] + chance.choice("\x00\ufeff{}[]\"'&*!|>%@`#,\t\u2028é😀 ") + text[place + 1 :]
    raw = text.encode("utf-8", "surrogatepass")
    return chance.choice([raw] * 8 + [raw[: chance.randrange(len(raw) + 1)], text.encode("utf-16")])


def overrides(chance: random.Random) -> list[str]:
    """Return the words of a mutated command line."""
    words = []
    for _ in range(chance.choice([0, 0, 1, 1, 2])):
        key = chance.choice([*KEYS, *KEYS, *TYPED])
        value = chance.choice(
            [str(value) for value in VALUES] + ["adam", "wav2vec2", "wav2vec2/wav2vec2_large", "[1,2,3]"]
        )
        words.append(
            chance.choice(["", "", "", "+", "++", "~"]) + key + chance.choice(["=", "=", "=", "=", ""]) + value
        )
    return words


def try_one(chance: random.Random, folder: Path) -> tuple[str, Callable[[], str]]:
    """Return (label, the child's action) for one mutated command line and YAML."""
    name = f"mutated{chance.randrange(10**6)}"
    kind = chance.choice(["tree", "tree", "text", "group"])
    if kind == "text":
        content = mutated_text(chance)
    else:
        content = yaml.safe_dump(mutated_tree(chance) if kind == "tree" else BASE, sort_keys=False).encode(
            "utf-8", "surrogatepass"
        )
    (folder / f"{name}.yaml").write_bytes(b"# @package _group_\n" + content)
    words = overrides(chance)
    if kind == "group":
        (folder / "mine").mkdir(exist_ok=True)
        header = chance.choice(HEADERS)
        (folder / "mine" / f"{name}.yaml").write_bytes(header.encode() + yaml.safe_dump(mutated_tree(chance)).encode())
        words.append(f"+mine={name}")
    if words and kind == "tree" and chance.random() < 0.3:
        content = yaml.safe_dump(BASE, sort_keys=False).encode()  # the words alone are odd
        (folder / f"{name}.yaml").write_bytes(content)
    argv = ["fairseq-hydra-train", "--config-dir", str(folder), "--config-name", name, *words]

    def compose() -> str:
        os.chdir(folder)
        sys.argv = argv
        output = open(folder / "output", "w+b")  # noqa: SIM115 (the child ends with it)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        ends: list[DictConfig] = []
        try:
            hydra_train.run_with_config("fairseq-hydra-train", lambda cfg: ends.append(hydra_train.prepare(cfg)))
        except SystemExit as stop:
            if not isinstance(stop.code, str):
                raise RuntimeError((folder / "output").read_text(errors="replace")) from None  # hydra's own report
            told = stop.code
            typed = [word.lstrip("+~").partition("=")[0] for word in words]
            names = name in told or _KEY.search(told) or any(key and key in told for key in typed)
            raise ValueError(f"{NAMED if names else ''}{told}") from None
        return "composed" if ends else "nothing to do"

    return f"{kind} {' '.join(words)}", compose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="TRY", help="one try alone, with its YAML files")
    arguments = parser.parse_args()
    tally = Tally("configs")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split in ("train", "valid"):
            (folder / f"{split}.tsv").write_text(f"{folder}\n")
        hydra_train.set_up_hydra()
        for number in range(arguments.tries) if arguments.only is None else [arguments.only]:
            label, compose = try_one(random.Random(f"{arguments.seed}/{number}"), folder)
            tally.add(f"try {number}: {label}", attempt(compose, NAMED, clear=(ValueError,)))
        if arguments.only is not None:
            for file in folder.rglob("*.yaml"):
                print(f"== {file.relative_to(folder)}\n{file.read_text(errors='replace')}")
    sys.exit(not tally.report())


if __name__ == "__main__":
    main()
