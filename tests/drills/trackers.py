"""What trackers have of a run, read back from their own stores, and runs whose trackers' servers hang.

    python -m tests.drills.trackers [--kills N] [--seed S] [--updates N]

First, a tiny run writes to TensorBoard, W&B (offline) and MLflow (SQLite), is killed N times at random moments and
resumed. Then every row of metrics.jsonl must be in each store once, with the same numbers. TensorBoard keeps them as
float32. Where an update was repeated after a kill, W&B and MLflow keep the first copy: its clocks, such as wps, must be
those that metrics.jsonl had before the kill.

Then the same run is trained without trackers, and with trackers whose server accepts connections and never answers. It
must end by itself, with the same losses. Time per update is printed for both.

Needs tensorboard, wandb and mlflow.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from fairseq.logging.metrics_file import read_rows
from fairseq.logging.trackers import memory, wandb_parts
from fairseq.logging.trackers.queue import CLOSE_SECONDS
from fairseq.logging.trackers.rows import Place, rows_of_file
from tests.drills.kills import CLOCK, ROOT, descendants, make_corpus

Table = dict[Place, dict[str, float]]
PROJECT = "drill"
TRACKERS = (
    "common.tensorboard_logdir=tensorboard",
    f"common.wandb_project={PROJECT}",
    f"common.mlflow_experiment={PROJECT}",
)
FAST = ("common.log_interval=1", "checkpoint.save_interval_updates=5", "dataset.validate_interval_updates=5")
OURS = ("WANDB_", "MLFLOW_")
LATE, FAILED = "not finished after", ": cannot write ("  # in the log
TO_EXIT = 20.0  # seconds that a process may need to exit, on a busy machine


def start(corpus: Path, work: Path, *overrides: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start a run in `work`; its log is appended to `work/log`."""
    work.mkdir(parents=True, exist_ok=True)
    line = [
        sys.executable,
        "-m",
        "fairseq_cli.hydra_train",
        "--config-dir",
        str(corpus),
        "--config-name",
        "pretraining",
    ]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    clean |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NETRC": str(work / "netrc"), **variables}
    with (work / "log").open("ab") as log:
        return subprocess.Popen([*line, *FAST, *overrides], cwd=work, env=clean, stdout=log, stderr=subprocess.STDOUT)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a run with everything that it started, as a power failure does."""
    for pid in [process.pid, *descendants(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def rows(file: Path) -> Table:
    """Read metrics.jsonl; a row that is there twice is an error."""
    table: Table = {}
    for row in rows_of_file(file):
        assert row.place not in table, f"{row.place} twice in {file}"
        table[row.place] = {**row.values, "epoch": float(row.epoch)}
    return table


# -- reading the stores ------------------------------------------------------------------------------------------------


class Store:
    """What a tracker has, with its faults."""

    def __init__(self) -> None:
        self.table: Table = {}
        self.faults: list[str] = []

    def add(self, place: Place, key: str, value: float) -> None:
        row = self.table.setdefault(place, {})
        if key in row:
            self.faults.append(f"{key} of {place} twice")
        row[key] = value


def tensorboard(work: Path) -> Store:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    store = Store()
    for folder in sorted(path for path in (work / "tensorboard").iterdir() if path.is_dir()):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        for key in events.Tags()["scalars"]:
            for event in events.Scalars(key):
                store.add((folder.name, event.step), key, event.value)
    return store


def wandb(work: Path) -> Store:
    store, run = Store(), work / "run"
    run_id = memory.recall(run / "wandb.json")["id"]
    parts = wandb_parts.parts(run, run_id)
    numbers: list[int] = []
    for part in parts:
        for logged in wandb_parts.history(part):
            place = (str(logged["split"]), int(str(logged["num_updates"])))
            numbers.append(int(str(logged["_step"])))
            for key, value in logged.items():
                if key == "epoch" or key.startswith(f"{place[0]}/"):
                    store.add(place, key.rpartition("/")[2], float(str(value)))
    if numbers != list(range(len(numbers))):
        store.faults.append(f"_step over the parts is not 0, 1, 2 ...: {numbers}")
    print(f"W&B: {len(parts)} parts of run {run_id}")
    return store


def mlflow(work: Path) -> Store:
    from mlflow import MlflowClient

    store, client = Store(), MlflowClient(tracking_uri=f"sqlite:///{work / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(PROJECT)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    if len(found) != 1:
        store.faults.append(f"{len(found)} runs")
    for key in found[0].data.metrics:
        split, _, name = key.partition("/")
        for point in client.get_metric_history(found[0].info.run_id, key):
            store.add((split, point.step), name, point.value)
    print(f"MLflow: status {found[0].info.status}, {len(found[0].data.params)} parameters")
    return store


STORES: dict[str, Callable[[Path], Store]] = {"TensorBoard": tensorboard, "W&B": wandb, "MLflow": mlflow}


# -- comparing ---------------------------------------------------------------------------------------------------------


def same(one: Mapping[str, float], other: Mapping[str, float], as_float32: bool) -> bool:
    """Compare two rows to the last digit."""
    if one.keys() != other.keys():
        return False
    pairs = ((np.float32(value) if as_float32 else value, other[key]) for key, value in one.items())
    return all(mine == its or (math.isnan(mine) and math.isnan(its)) for mine, its in pairs)


def without_clocks(row: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key not in CLOCK}


def faults(name: str, store: Store, final: Table, earlier: list[Table]) -> list[str]:
    """Compare a store with metrics.jsonl as it is now, and as it was at each kill."""
    found = list(store.faults)
    found += [f"lacks {place}" for place in final.keys() - store.table.keys()]
    found += [f"{place} is not in metrics.jsonl" for place in store.table.keys() - final.keys()]
    single = name == "TensorBoard"
    for place in final.keys() & store.table.keys():
        wanted, has = final[place], store.table[place]
        if single:
            wanted = {key: value for key, value in wanted.items() if key != "epoch"}
        if not same(without_clocks(wanted), without_clocks(has), single):
            found.append(f"{place}: {has}, not {wanted}")
        copies = [final, *([] if single else earlier)]
        if single:
            is_one = same(wanted, has, single)
        else:
            is_one = any(place in copy and same(copy[place], has, single) for copy in copies)
        if not is_one:
            found.append(f"{place}: clocks of no copy")
    return found


def read_back(corpus: Path, work: Path, kills: int, updates: int, choice: random.Random) -> bool:
    """Train with all trackers through some kills; say what each store lacks or has wrong."""
    variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{work / 'mlflow.db'}"}
    overrides = (*TRACKERS, f"optimization.max_update={updates}")
    metrics, earlier = work / "run/metrics.jsonl", []
    for number in range(kills):
        process = start(corpus, work, *overrides, **variables)
        goal = (number + 1) * updates // (kills + 1) + choice.randrange(3)
        while process.poll() is None and (not metrics.exists() or last_update(metrics) < goal):
            time.sleep(0.02)
        time.sleep(choice.choice([0.0, 0.5, 20.0]))
        kill(process)
        earlier.append(rows(metrics))
        print(f"killed at update {last_update(metrics)}")
    status = start(corpus, work, *overrides, **variables).wait()
    for _ in range(3):  # a busy machine may need longer than the end of a run waits; the same command sends the rest
        said = (work / "log").read_text(errors="replace").rpartition("done training")[2]
        if LATE not in said:
            break
        print("started again, because a tracker was not finished")
        status = start(corpus, work, *overrides, **variables).wait()
    final, is_right = rows(metrics), status == 0
    print(f"exit status {status}; {len(final)} rows in metrics.jsonl")
    for name, read in STORES.items():
        store = read(work)
        wrong = faults(name, store, final, earlier)
        numbers = sum(map(len, store.table.values()))
        print(f"{name}: {len(store.table)} rows, {numbers} numbers, {len(wrong)} faults {wrong[:4]}")
        is_right = is_right and not wrong
    return is_right


def last_update(metrics: Path) -> int:
    return max((row["num_updates"] for row in read_rows(metrics)), default=0)


# -- servers that hang -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def silent_server() -> Iterator[tuple[str, list[socket.socket]]]:
    """Accept connections and never answer; yields the URL and the connections."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connections.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", connections


class Timing:
    """How a run went."""

    def __init__(self, status: int, work: Path) -> None:
        found = [row for row in read_rows(work / "run/metrics.jsonl") if row["split"] == "train_inner"]
        self.status = status
        self.to_exit = time.time() - (work / "run/metrics.jsonl").stat().st_mtime  # seconds from the last row
        self.losses = [row["loss"] for row in found]
        self.per_update = statistics.median(1 / row["ups"] for row in found[3:])
        self.log = (work / "log").read_text(errors="replace")


def trained(corpus: Path, work: Path, *overrides: str, **variables: str) -> Timing:
    process = start(corpus, work, *overrides, **variables)
    try:
        status = process.wait(600)
    except subprocess.TimeoutExpired:
        kill(process)
        status = -1
    return Timing(status, work)


def hang(corpus: Path, work: Path, updates: int) -> bool:
    """Train without trackers, and with those whose server hangs."""
    steps = f"optimization.max_update={updates}"
    without = trained(corpus, work / "without", steps)
    is_right = without.status == 0
    print(f"no tracker: {1000 * without.per_update:.2f} ms per update, ends {without.to_exit:.1f} s after its last row")
    with silent_server() as (url, connections):
        key = "0123456789" * 4
        servers = {"MLFLOW_TRACKING_URI": url, "WANDB_BASE_URL": url, "WANDB_API_KEY": key}
        for override in TRACKERS[1:]:
            connections.clear()
            name = override.partition("=")[0].removeprefix("common.")
            run = trained(corpus, work / name, steps, override, **servers)
            said = run.log.count(LATE) + run.log.count(FAILED)
            fine = (run.status, said, run.losses) == (0, 1, without.losses) and bool(connections)
            is_right = is_right and fine and run.to_exit < CLOSE_SECONDS + TO_EXIT
            print(
                f"{name}: exit status {run.status}, {len(connections)} connections, messages {said}, losses "
                f"{'equal' if run.losses == without.losses else 'differ'}, {1000 * run.per_update:.2f} ms per update, "
                f"ends {run.to_exit:.1f} s after its last row"
            )
    return is_right


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        make_corpus(corpus)
        results = [
            read_back(corpus, Path(folder) / "read", arguments.kills, arguments.updates, random.Random(arguments.seed)),
            hang(corpus, Path(folder) / "hang", arguments.updates),
        ]
    print("right" if all(results) else "WRONG")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
