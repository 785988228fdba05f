"""SIGKILLs and signals at random moments: does the run end bit for bit like an unbroken one?

    python -m tests.drills.kills [--tries N] [--seed S] [--writing] [--signals] [--setups NAME ...]

Each try trains a tiny model in one of the setups, stops it at a random moment, reruns the same command until training
is complete, and compares the result with an unbroken run: all checkpoints (weights, optimizer, average, data position,
best value), including the last and the best, and the rows of `metrics.jsonl`. With --writing, the kill happens while a
checkpoint's temporary file exists. With --signals, it is SIGTERM, SIGINT, SIGUSR1 or SIGHUP, and the run must save and
end by itself.

In the setups whose name starts with "store", checkpoints go to an object store on this machine (needs moto and s3fs)
whose requests are slow. With --writing, the kill happens while one is uploaded. After half of the stops, the run
resumes on an empty machine. What is compared is what the store has.

In the setups whose name starts with "restarts", one random process of two is killed, and torchrun --max-restarts or
distributed_training.max_restarts starts the run again. Means over a log interval or an epoch in which that happened are
not compared: they lack the updates before the death.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch

from fairseq.checkpoint import io, store_index, transfer
from fairseq.training import shares
from tests.drills.forked import Outcome, Tally
from tests.object_store import environment, moto, upload

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 240.0  # time limit of one process, even on a busy machine
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# values that differ between any two runs
CLOCK = {
    "wps",
    "ups",
    "audio_s_per_s",
    "train_wall",
    "wall",
    "data_wait",
    "host_cpu",
    "eta",
    "slowest_rank",
    "rank_wait",
} | {
    *shares.TIMES,
    "host_gb",
}
KILLS = 3  # per run, at most
WRITING = 0.05  # seconds, at most, from the appearance of a temporary file to the kill

BASE = """# @package _group_
common: {fp16: false, log_format: json, log_interval: 2, seed: 1, cpu: true}
checkpoint: {save_interval_updates: 3, keep_interval_updates: 2, no_epoch_checkpoints: true, save_dir: run}
dataset: {num_workers: 0, max_tokens: 96000, required_batch_size_multiple: 1, validate_interval_updates: 3, validate_interval: 100}
distributed_training: {distributed_world_size: 1, ddp_backend: legacy_ddp}
optimizer: {_name: adam, adam_betas: "(0.9,0.98)", adam_eps: 1e-06, weight_decay: 0.01}
optimization: {max_update: 14, lr: [0.001]}
lr_scheduler: {_name: polynomial_decay, warmup_updates: 4}
"""
ENCODER = """quantize_targets: true, final_dim: 16, encoder_layerdrop: 0.2, dropout_input: 0.1, dropout_features: 0.1,
  feature_grad_mult: 0.1, encoder_embed_dim: 32, encoder_layers: 2, encoder_ffn_embed_dim: 64, encoder_attention_heads: 2, latent_vars: 8,
  num_negatives: 10, conv_feature_layers: "[(16,10,5)] + [(16,3,2)]*4 + [(16,2,2)]*2", conv_pos: 16, conv_pos_groups: 4"""
PRETRAINING = f"""{BASE}task: {{_name: audio_pretraining, data: DATA, max_sample_size: 24000, min_sample_size: 8000, normalize: true}}
criterion: {{_name: wav2vec, infonce: true, log_keys: [prob_perplexity, code_perplexity, temp], loss_weights: [0.1, 10]}}
model: {{_name: wav2vec2, {ENCODER}}}
"""
FINETUNING = f"""{BASE}task: {{_name: audio_finetuning, data: DATA, labels: ltr, normalize: true}}
criterion: {{_name: ctc, zero_infinity: true}}
model: {{_name: wav2vec_ctc, w2v_path: W2V, apply_mask: true, mask_prob: 0.3, mask_channel_prob: 0.1, mask_channel_length: 4,
  layerdrop: 0.1, feature_grad_mult: 0.0, freeze_finetune_updates: 4}}
"""


# a plug-in with which a write lasts several updates
SLOW_DISK = "slow_disk"
SLOW_WRITES = """import time
from fairseq.checkpoint import atomic

fast = atomic.Disk.write


def write(self, data):
    time.sleep(0.0005)
    return fast(self, data)


atomic.Disk.write = write
"""


BUCKET = "bucket"
# a plug-in with which an upload lasts several updates
SLOW_STORE = "slow_store"
SLOW_REQUESTS = """import time
from fairseq import stores

fast = stores.retried


def retried(*arguments, **options):
    time.sleep(0.02)
    result = fast(*arguments, **options)
    time.sleep(0.02)
    return result


stores.retried = retried
"""


class Setup(NamedTuple):
    """One configuration of the run."""

    config: str
    overrides: tuple[str, ...] = ()
    torchrun: bool = False
    nodes: int = 1  # torchruns, one process each
    restarts: bool = False
    store: bool = False  # checkpoints go to an object store


STORE = ("checkpoint.save_dir=STORE", f"common.user_dir=CORPUS/{SLOW_STORE}")
TWO = "distributed_training.distributed_world_size=2"
SETUPS = {
    "plain": Setup("pretraining"),
    "workers": Setup("pretraining", ("dataset.num_workers=2",)),
    "ema": Setup(
        "pretraining",
        ("ema.store_ema=true", "ema.ema_decay=0.9", "optimization.update_freq=[2]", "optimization.max_update=8"),
    ),
    "finetuning": Setup("finetuning"),
    "spawn": Setup("pretraining", (TWO, "optimization.max_update=8")),
    "torchrun": Setup("pretraining", ("dataset.num_workers=2", "optimization.max_update=8"), torchrun=True),
    "finetuning-spawn": Setup("finetuning", (TWO, "dataset.num_workers=2", "optimization.max_update=8")),
    "restarts-spawn": Setup(
        "pretraining", (TWO, "distributed_training.max_restarts=9", "optimization.max_update=12"), restarts=True
    ),
    "restarts-torchrun": Setup("pretraining", ("optimization.max_update=12",), torchrun=True, restarts=True),
    "restarts-nodes": Setup("pretraining", ("optimization.max_update=12",), torchrun=True, nodes=2, restarts=True),
    "store": Setup("pretraining", STORE, store=True),
    "store-spawn": Setup("pretraining", (*STORE, TWO, "optimization.max_update=8"), store=True),
}


# -- a corpus ----------------------------------------------------------------------------------------------------------


def make_corpus(folder: Path) -> None:
    """Make 20 + 4 short files of noise and tones, labels, and a pre-trained model with random weights."""
    from fairseq.models import build_model

    letters = "ABCDEFGH"
    (folder / "audio").mkdir(parents=True)
    for split, numbers in (("train", range(20)), ("valid", range(20, 24))):
        lines, labels = [str(folder)], []
        for i in numbers:
            rng = np.random.default_rng(i)
            samples = int(16000 * (0.6 + 0.04 * (i * 7 % 24)))
            tone = np.sin(2 * np.pi * rng.uniform(100, 2000) * np.arange(samples) / 16000)
            soundfile.write(
                folder / f"audio/{i}.wav", (0.1 * tone + 0.02 * rng.standard_normal(samples)).astype(np.float32), 16000
            )
            lines.append(f"audio/{i}.wav\t{samples}")
            labels.append(" ".join([*rng.choice(list(letters), 3), "|"]))
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        (folder / f"{split}.ltr").write_text("\n".join(labels) + "\n")
    (folder / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in "|" + letters))
    from omegaconf import OmegaConf

    model = OmegaConf.to_container(OmegaConf.create(PRETRAINING).model)
    torch.manual_seed(1)
    cfg = {"model": model, "task": {"_name": "audio_pretraining", "data": "gone", "normalize": True}}
    torch.save({"cfg": cfg, "model": build_model(model).state_dict(), "args": None}, folder / "w2v.pt")
    for plug_in, text in ((SLOW_DISK, SLOW_WRITES), (SLOW_STORE, SLOW_REQUESTS)):
        (folder / plug_in).mkdir()
        (folder / plug_in / "__init__.py").write_text(text)
    for name, text in (("pretraining", PRETRAINING), ("finetuning", FINETUNING)):
        (folder / f"{name}.yaml").write_text(text.replace("DATA", str(folder)).replace("W2V", str(folder / "w2v.pt")))


# -- lives of a run ----------------------------------------------------------------------------------------------------


class Life:
    """A command in its own process group, with its log."""

    def __init__(self, setup: Setup, corpus: Path, work: Path) -> None:
        self.setup, store = setup, store_of(work)
        self.run = work / "checkpoints" / store.replace("://", "/") if setup.store else work / "run"
        line = [
            sys.executable,
            *launcher(setup),
            "-m",
            "fairseq_cli.hydra_train",
            "--config-dir",
            str(corpus),
            "--config-name",
            setup.config,
            *(override.replace("CORPUS", str(corpus)).replace("STORE", store) for override in setup.overrides),
        ]
        self.log = (work / "log").open("ab")
        self.log_start = self.log.tell()
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            line if setup.nodes == 1 else ["bash", "-c", _twice(line)],
            cwd=work,
            env=variables,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.deadline = time.monotonic() + SECONDS

    def ended(self) -> bool:
        if time.monotonic() > self.deadline:
            self.kill()
            raise TimeoutError(f"no end after {SECONDS:.0f} s")
        return self.process.poll() is not None

    def wait(self) -> int:
        """Return the exit status once all processes have exited: torchrun's ranks can outlive it while they save."""
        others = descendants(self.process.pid)
        while not self.ended() or any(Path(f"/proc/{pid}").exists() for pid in others):
            others |= descendants(self.process.pid)
            time.sleep(0.05)
            if time.monotonic() > self.deadline:
                raise TimeoutError(f"processes {others} are left")
        self.log.close()
        return self.process.returncode

    def said(self) -> str:
        """Return the log so far."""
        return Path(self.log.name).read_bytes()[self.log_start :].decode(errors="replace")

    def wait_until(self, moment: float, writing: bool, at_start: bool = False) -> bool:
        """Wait for `moment`, or for a temporary file after it; returns False if the run ended.

        Args:
            moment: seconds from the start of training; with `at_start`, from the start of the process, which can still
                be reading its checkpoint.
        """
        while not at_start and "seconds of audio per update" not in self.said():
            if self.ended():
                return False
            time.sleep(0.01)
        until = time.monotonic() + moment
        while time.monotonic() < until or (writing and not self.is_writing()):
            if self.ended():
                return False
            if not writing:
                time.sleep(0.002)
        return True

    def is_writing(self) -> bool:
        """Whether a checkpoint is being written, or, with a store, uploaded."""
        if self.setup.store:
            said = self.said()
            return said.count("Saved checkpoint") > said.count("uploaded checkpoint")
        return bool(list(self.run.glob("*.tmp")))

    def kill(self) -> None:
        """Send SIGKILL to all processes at once, like a power failure or a scheduler."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


def _twice(line: list[str]) -> str:
    """Return a shell's line that runs a command twice at the same time; it fails if one of them fails."""
    command = shlex.join(line)
    return f"{command} & first=$!; {command}; second=$?; wait $first && exit $second"


def launcher(setup: Setup) -> list[str]:
    """Return Python's arguments before the command's own."""
    if not setup.torchrun:
        return []
    meet = ["--standalone"]
    if setup.nodes > 1:
        with socket.create_server(("127.0.0.1", 0)) as free:
            meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free.getsockname()[1]}"]
    restarts = [f"--max-restarts={9 * setup.restarts}", "--monitor-interval=0.1"]
    return [
        "-m",
        "torch.distributed.run",
        f"--nnodes={setup.nodes}",
        f"--nproc_per_node={2 // setup.nodes}",
        *meet,
        *restarts,
    ]


def ranks_of(life: Life, setup: Setup) -> list[int]:
    """Return the training processes."""
    file, mark = ("environ", b"\0RANK=") if setup.torchrun else ("cmdline", b"spawn_main")
    found: dict[int, int] = {}
    for pid in descendants(life.process.pid):
        with contextlib.suppress(OSError):
            if mark in b"\0" + Path(f"/proc/{pid}/{file}").read_bytes():
                found[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return sorted(pid for pid, parent in found.items() if parent not in found)  # not their data-loading workers


def descendants(pid: int) -> set[int]:
    """Return all descendants of a process."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(place.parent.name)] = int(place.read_text().rpartition(")")[2].split()[1])
    found, last = set(), {pid}
    while last:
        last = {child for child, parent in parents.items() if parent in last}
        found |= last
    return found


# -- comparing ---------------------------------------------------------------------------------------------------------


def load(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return io.read(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def unequal(one: Any, other: Any, name: str = "") -> list[str]:
    """Return the names of differences between two nested states; tensors are compared bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [found for key in keys for found in unequal(one.get(key), other.get(key), f"{name}.{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [
            found for i, pair in enumerate(zip(one, other, strict=True)) for found in unequal(*pair, f"{name}[{i}]")
        ]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [name]
    return [] if type(one) is type(other) and one == other else [name]


def comparable(state: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a checkpoint that must not depend on how often the run was stopped."""
    extra = state["extra_state"]
    chosen = {
        key: extra.get(key) for key in ("train_iterator", "ema", "best", "val_loss", "precision", "data_fingerprint")
    }
    return {
        **{key: state[key] for key in ("model", "last_optimizer_state", "optimizer_history", "task_state")},
        "extra_state": chosen,
    }


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return rows sorted by update and split: a validation interrupted by a signal is later in the file."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [{key: value for key, value in json.loads(line).items() if key not in CLOCK} for line in lines]
    return sorted(found, key=lambda row: (row["num_updates"], row["split"]))


def faults(unbroken: Path, run: Path, means: bool = True) -> list[str]:
    """Return the differences between the results of a stopped run and an unbroken one.

    Args:
        means: compare the numbers of log intervals and epochs.
    """
    found = []
    names = {folder: sorted(path.name for path in folder.glob("checkpoint*")) for folder in (unbroken, run)}
    if names[unbroken] != names[run]:
        found.append(f"files {names[run]}, not {names[unbroken]}")
    for name in set(names[unbroken]) & set(names[run]):
        found += [
            f"{name}: {what}" for what in unequal(comparable(load(unbroken / name)), comparable(load(run / name)))
        ][:5]
    leftovers = [path.name for path in run.iterdir() if path.suffix == ".tmp" or path.name == "run.lock"]
    found += [f"left over: {name}" for name in leftovers]
    wanted, seen = rows(unbroken), rows(run)
    places = [[(row["split"], row["num_updates"]) for row in some] for some in (wanted, seen)]
    if places[0] != places[1]:
        found.append(f"rows {sorted(set(places[0]) ^ set(places[1]))} or doubles among {places[1]}")
    else:
        compared = [
            pair for pair in zip(wanted, seen, strict=True) if means or not pair[0]["split"].startswith("train")
        ]
        pairs = [pair for pair in compared if pair[0] != pair[1]]
        found += [f"row {one['split']} of {one['num_updates']}: {unequal(one, other)}" for one, other in pairs[:3]]
    return found


# -- a store -----------------------------------------------------------------------------------------------------------


def store_of(work: Path) -> str:
    """Return the URL for one run's checkpoints."""
    return f"s3://{BUCKET}/{work.name}"


def forget_some(setup: Setup, work: Path, choice: random.Random) -> None:
    """After half of the kills, let the run resume on an empty machine."""
    if setup.store and choice.random() < 0.5:
        shutil.rmtree(work / "checkpoints", ignore_errors=True)


def fetch_results(setup: Setup, work: Path) -> list[str]:
    """Download what a finished run has in the store, if it has one, to `run`; returns what should not be there."""
    if not setup.store:
        return []
    store, run = store_of(work), work / "run"
    names = store_index.names_in(store)
    entries = store_index.read(store).entries
    for name, entry in entries.items():
        store_index.download(store, entry, str(run / name))
        if (problem := io.verify(run / name)) is not None:
            return [f"{name} in the store: {problem}"]
    transfer.receive(f"{store}/metrics.jsonl", str(run / "metrics.jsonl"))
    known = {store_index.NAME, "metrics.jsonl", *(entry.object for entry in entries.values())}
    return [f"left over in the store: {name}" for name in sorted(set(names) - known)]


def attempt(
    setup: Setup, corpus: Path, unbroken: Path, seconds: float, choice: random.Random, arguments: argparse.Namespace
) -> Outcome:
    """Do one run, stopped up to three times. `seconds`: training time of the unbroken run."""
    work = Path(tempfile.mkdtemp(prefix="kills."))
    stops = 0
    try:
        for _ in range(choice.randint(1, KILLS)):
            life = Life(setup, corpus, work)
            at_start = stops > 0 and not (arguments.signals or arguments.writing) and choice.random() < 0.3
            if not life.wait_until(choice.uniform(0, 0.8 * seconds + 3 * at_start), arguments.writing, at_start):
                break
            if arguments.writing:
                time.sleep(choice.uniform(0, WRITING))
            if not arguments.signals:
                life.kill()
                # a write can be over before the kill
                stops += not arguments.writing or life.is_writing()
                forget_some(setup, work, choice)
                continue
            stops += 1
            number = choice.choice(SIGNALS)
            life.process.send_signal(number)
            status = life.wait()
            over = "done training" in life.said()  # and Python's own handlers back in place
            if status not in (0, 75) and not setup.torchrun and not over:
                return Outcome("status", f"{status} after {number.name}\n{_end_of(work)}")
        status = Life(setup, corpus, work).wait()
        if status != 0:
            return Outcome("status", f"{status} at the end\n{_end_of(work)}")
        found = [*fetch_results(setup, work), *faults(unbroken, work / "run")]
        if found:
            return Outcome("unequal", "; ".join(found))
        log = (work / "log").read_text(errors="replace")
        if "Traceback" in log and not setup.torchrun and arguments.signals:
            return Outcome("traceback", _end_of(work))
        return Outcome("right", str(stops))
    except TimeoutError as error:
        return Outcome("hang", f"{error}\n{_end_of(work)}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def attempt_restarts(setup: Setup, corpus: Path, unbroken: Path, seconds: float, choice: random.Random) -> Outcome:
    """Do one run of which single processes are killed up to three times; its launcher restarts it."""
    work = Path(tempfile.mkdtemp(prefix="kills."))
    try:
        life, kills = Life(setup, corpus, work), 0
        for _ in range(choice.randint(1, KILLS)):
            trains, at_start = life.said().count("seconds of audio per update"), kills > 0 and choice.random() < 0.3
            enough = kills + 1 if not at_start else 0
            while not life.ended() and (len(ranks_of(life, setup)) < 2 or trains < enough):
                time.sleep(0.02)
                trains = life.said().count("seconds of audio per update")
            time.sleep(choice.uniform(0, 0.8 * seconds + 3 * at_start))
            ranks = ranks_of(life, setup)
            if life.ended() or len(ranks) < 2:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(choice.choice(ranks), signal.SIGKILL)
                kills += 1
            while not life.ended() and set(ranks) & set(ranks_of(life, setup)):
                time.sleep(0.02)
        status = life.wait()
        if status != 0:
            return Outcome("status", f"{status} at the end\n{_end_of(work)}")
        found = faults(unbroken, work / "run", means=False)
        return Outcome("unequal", "; ".join(found)) if found else Outcome("right", str(kills))
    except TimeoutError as error:
        return Outcome("hang", f"{error}\n{_end_of(work)}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _end_of(work: Path) -> str:
    return (work / "log").read_text(errors="replace")[-1500:]


def parser_of(description: str, setups: dict[str, Setup]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--tries", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--setups", nargs="+", choices=sorted(setups), default=list(setups))
    return parser


def main() -> None:
    parser = parser_of(str(__doc__).splitlines()[0], SETUPS)
    parser.add_argument("--writing", action="store_true", help="kill while a checkpoint's temporary file exists")
    parser.add_argument("--signals", action="store_true", help="a signal instead of SIGKILL")
    arguments = parser.parse_args()
    title = "signals" if arguments.signals else "kills in a checkpoint's writing" if arguments.writing else "kills"
    drill(title, arguments, SETUPS)


def drill(title: str, arguments: argparse.Namespace, setups: dict[str, Setup]) -> None:
    """Do all tries, print what came of them, and exit."""
    choice = random.Random(arguments.seed)
    tally = Tally(title)
    stops = 0
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kills."))
        if any(setups[name].store for name in arguments.setups):
            url = stack.enter_context(moto(Path(folder) / "moto.log"))
            os.environ.update(environment(url))
            upload(url, BUCKET, {})
        corpus = Path(folder) / "corpus"
        make_corpus(corpus)
        unbroken: dict[str, float] = {}
        for number in range(arguments.tries):
            name = arguments.setups[number % len(arguments.setups)]
            place = Path(folder) / name
            if name not in unbroken:
                place.mkdir()
                life = Life(setups[name], corpus, place)
                life.wait_until(0, False)
                began = time.monotonic()
                if life.wait() != 0:
                    sys.exit(f"the unbroken run of {name} failed:\n{_end_of(place)}")
                assert not fetch_results(setups[name], place)
                unbroken[name] = max(0.5, time.monotonic() - began)
            if setups[name].restarts:
                outcome = attempt_restarts(setups[name], corpus, place / "run", unbroken[name], choice)
            else:
                outcome = attempt(setups[name], corpus, place / "run", unbroken[name], choice, arguments)
            stops += int(outcome.text) if outcome.kind == "right" else 0
            tally.add(f"try {number} ({name})", outcome)
            said = outcome.text if outcome.kind == "right" else outcome.text[-1500:]
            print(f"{number + 1}/{arguments.tries} {name}: {outcome.kind} ({said})", flush=True)
    print(f"{stops} stops{' in a write' if arguments.writing else ''} in the runs that ended right")
    sys.exit(not tally.report())


if __name__ == "__main__":
    main()
