"""Other numbers of processes and other strategies within a run: does it equal one that was never changed?

    python -m tests.drills.other_numbers [processes strategies] [--updates N] [--folder FOLDER]

`processes`: a tiny model trains N updates with one process and `update_freq=[4]`, resumes with two processes, and with
one again. `strategies`: two processes train N updates with DDP, N with FSDP2, and N with DDP. Each is compared with an
unbroken run of its first setting: the utterances and number of every micro-batch, learning rates, counts and data
position must be equal; losses, weights and the average of the weights may differ by the order of sums. The first
gradient after each change is compared with that of the same checkpoint without the change. With FSDP2, its last
checkpoint as one file must open with fairseq's loader and convert for transformers. FOLDER keeps all runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.drills.kills import TWO, Life, Setup, load, make_corpus, unequal

LOSS, GRADIENT = 1e-5, 1e-6  # largest relative differences

# notes every micro-batch, and the summed gradient of some updates
PLUG_IN = """import json, os
import torch
from fairseq.training.trainer import Trainer
from fairseq.distributed import sharding, utils

old = Trainer._forward_backward
def forward_backward(self, samples):
    criterion, notes = self.criterion.forward, []
    def noting(model, sample, *rest):
        loss, size, log = criterion(model, sample, *rest)
        notes.append({"update": self.get_num_updates() + 1, "micro": sample["micro"], "ids": sample["id"].tolist(),
                      "valid": int(sample["num_valid"]), "loss": float(loss), "size": float(size), "lr": self.get_lr()})
        return loss, size, log
    self.criterion.forward = noting
    try:
        size = old(self, samples)
    finally:
        self.criterion.forward = criterion
    with open(f"notes{utils.get_rank()}.jsonl", "a") as file:
        file.writelines(json.dumps(note) + "\\n" for note in notes)
    update = self.get_num_updates() + 1
    if str(update) in os.environ["DRILL_GRADIENTS"].split(","):
        whole = [p.grad for p in self._params if p.grad is not None]
        if not self.strategy.holds_all:
            layouts = [l for p, l in zip(self._params, self.strategy._layouts(self._params)) if p.grad is not None]
            whole = [sharding.as_shard(g, l).full_tensor() for g, l in zip(whole, layouts)]  # all processes
        if utils.is_master():
            torch.save(torch.cat([g.flatten() for g in whole]) * utils.get_world_size(), f"gradient{update}.pt")
    return size
Trainer._forward_backward = forward_backward
"""


class Setting(NamedTuple):
    """What changes within a run."""

    processes: int
    backend: str = "pytorch_ddp"


CHANGES = {
    "processes": (Setting(1), Setting(2)),
    "strategies": (Setting(2), Setting(2, "fully_sharded")),
}


class Place(NamedTuple):
    """A folder in which commands run, one after the other."""

    folder: Path
    corpus: Path
    updates: int
    update_freq: int

    def train(self, setting: Setting, until: int) -> None:
        overrides = [
            f"optimization.update_freq=[{self.update_freq}]",
            f"optimization.max_update={until}",
            f"lr_scheduler.total_num_update={4 * self.updates}",
            "ema.store_ema=true",
            "ema.ema_decay=0.99",
            "common.user_dir=plug_in",
            "dataset.disable_validation=true",
            f"checkpoint.save_interval_updates={self.updates}",
            f"distributed_training.ddp_backend={setting.backend}",
            *([TWO] if setting.processes == 2 else []),
        ]
        self.folder.mkdir(exist_ok=True)
        (self.folder / "plug_in").mkdir(exist_ok=True)
        (self.folder / "plug_in/__init__.py").write_text(PLUG_IN)
        life = Life(Setup("pretraining", tuple(overrides)), self.corpus, self.folder)
        if life.wait() != 0:
            sys.exit(f"{setting} until update {until} failed:\n{life.said()[-3000:]}")
        line = next((line for line in life.said().splitlines() if "keep_update_size" in line), None)
        if line is not None:
            print(f"  {line.rpartition(' | ')[2]}")

    def notes(self) -> dict[tuple[int, int], dict[str, Any]]:
        lines = [line for path in sorted(self.folder.glob("notes*.jsonl")) for line in path.read_text().splitlines()]
        found = [note for note in map(json.loads, lines) if note["valid"] > 0]  # not filler
        return {(note["update"], note["micro"]): note for note in found}

    def gradient(self, update: int) -> torch.Tensor:
        return torch.load(self.folder / f"gradient{update}.pt", weights_only=True).double()

    def state(self) -> dict[str, Any]:
        return load(self.folder / "run/checkpoint_last.pt")


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the norm of the difference relative to the norm."""
    return float((one.double() - other.double()).norm() / other.double().norm().clamp(min=1e-30))


def flat(tensors: dict[str, Any]) -> torch.Tensor:
    return torch.cat([tensors[name].flatten().double() for name in sorted(tensors)])


def compare(switched: Place, unbroken: Place, stayed: Place) -> list[str]:
    """Print the largest differences; returns what is wrong."""
    faults = []
    seen, wanted = switched.notes(), unbroken.notes()
    if seen.keys() != wanted.keys():
        faults.append(f"micro-batches {sorted(seen.keys() ^ wanted.keys())[:5]}")
    for key in sorted(seen.keys() & wanted.keys()):
        for name in ("ids", "valid", "size", "lr"):
            if seen[key][name] != wanted[key][name]:
                faults.append(f"{name} of update {key[0]}, micro-batch {key[1]}")
    losses = [abs(seen[key]["loss"] / wanted[key]["loss"] - 1) for key in seen.keys() & wanted.keys()]
    gradients = [
        far(switched.gradient(switched.updates + 1), unbroken.gradient(switched.updates + 1)),
        far(switched.gradient(2 * switched.updates + 1), stayed.gradient(2 * switched.updates + 1)),
    ]
    one, other = switched.state(), unbroken.state()
    for name in ("optimizer_history",):
        faults += unequal(one[name], other[name], name)
    places = [state["extra_state"]["train_iterator"] for state in (one, other)]
    names = [name for name in places[0] if name != "iterations_in_epoch"]  # a rank's own steps
    faults += [f"train_iterator.{name}" for name in names if places[0][name] != places[1][name]]
    print(
        f"  micro-batches: {len(seen)}; utterances, sizes, learning rates, counts, data position: {faults or 'equal'}"
    )
    print(f"  loss of a micro-batch: largest relative difference {max(losses):.2g} (limit {LOSS:g})")
    print(f"  first gradient after the changes: {gradients[0]:.2g} and {gradients[1]:.2g} (limit {GRADIENT:g})")
    ema = [flat(state["extra_state"]["ema"]) for state in (one, other)]
    print(f"  at the end: weights {far(flat(one['model']), flat(other['model'])):.2g}, average {far(*ema):.2g}")
    faults += ["losses"] if max(losses) > LOSS else []
    return faults + (["gradients"] if max(gradients) > GRADIENT else [])


def opens(path: Path, folder: Path) -> None:
    """Open a file that was written from shards with fairseq's loader, and convert it for transformers."""
    from fairseq.checkpoint_utils import load_model_ensemble_and_task
    from fairseq.conversion.convert import convert

    models, _, _ = load_model_ensemble_and_task([str(path)])
    assert not unequal(load(path)["model"], dict(models[0].state_dict())), "weights"
    difference = convert(str(path), str(folder / "hf"), "hf")
    print(f"  {path.name}, written from shards: opened, and converted for transformers (difference {difference:.2g})")


def change(name: str, folder: Path, number: int) -> list[str]:
    """Do the runs of one kind of change, print the comparison, and return what is wrong."""
    first, second = CHANGES[name]
    unbroken, switched, stayed = (
        Place(folder / name / place, folder / "corpus", number, 4 // first.processes)
        for place in ("unbroken", "switched", "stayed")
    )
    (folder / name).mkdir()
    unbroken.train(first, 3 * number)
    switched.train(first, number)
    switched.train(second, 2 * number)
    if second.backend == "fully_sharded":
        shutil.copy(switched.folder / "run/checkpoint_last.pt", folder / name / "from_shards.pt")
        opens(folder / name / "from_shards.pt", folder / name)
    shutil.copytree(switched.folder, stayed.folder)
    stayed.train(second, 2 * number + 1)
    switched.train(first, 3 * number)
    faults = compare(switched, unbroken, stayed)
    shown = [f"{part.processes} ({part.backend})" for part in (first, second, first)]
    print(f"{' -> '.join(shown)} processes, {number} updates each: {', '.join(faults) if faults else 'right'}")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("changes", nargs="*", default=list(CHANGES), help=f"of {', '.join(CHANGES)}; default: all")
    parser.add_argument("--updates", type=int, default=30, help="with each setting")
    parser.add_argument("--folder", type=Path, help="keep the runs here; default: a temporary folder")
    arguments = parser.parse_args()
    number = arguments.updates
    os.environ["DRILL_GRADIENTS"] = f"{number + 1},{2 * number + 1}"
    with tempfile.TemporaryDirectory(prefix="other_numbers.") as temporary:
        folder = arguments.folder or Path(temporary)
        make_corpus(folder / "corpus")
        faults = [fault for name in arguments.changes for fault in change(name, folder, number)]
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
