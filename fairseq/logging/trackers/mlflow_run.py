"""MLflow, by the package mlflow."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq.logging.metrics_file import Json
from fairseq.logging.trackers import memory
from fairseq.logging.trackers.rows import Place, Row, text_of

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

EPOCH = "/epoch"  # ends the name of a metric that every row has
PARAMETERS, METRICS = 100, 1000  # that one request may have
LONGEST = 6000  # characters of a parameter's value
LONGEST_TAG = 5000


class Mlflow:
    """A run in an experiment, in the store that MLFLOW_TRACKING_URI names, or MLflow's own local one.

    Metrics have fairseq's names, `train_inner/loss`; the step is the update. A resumed run continues the same run, kept
    in `mlflow.json`. MLflow cannot delete metrics, so a row that its store has is not written again.

    Args:
        save_dir: `checkpoint.save_dir`.
        config: the run's config by group.
        continues: the run resumes an earlier one; if false, it is a new one there.
    """

    def __init__(self, experiment: str, save_dir: Path, config: Mapping[str, Json], continues: bool) -> None:
        # MLflow reports its use over the network from threads of its own
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # now, on the main thread: a process that is forked during an import may inherit its locks
        import mlflow.tracking

        for name in ("alembic", "mlflow.store"):  # how it creates its database
            logging.getLogger(name).setLevel(logging.WARNING)
        self._mlflow = mlflow
        self.experiment, self.save_dir, self.config, self.continues = experiment, save_dir, config, continues
        self._client: MlflowClient | None = None
        self._run_id = ""

    def begin(self, rows: Sequence[Row]) -> Collection[Place]:
        """Start or resume the run; see `fairseq.logging.trackers.queue.Tracker`."""
        file = self.save_dir / "mlflow.json"
        kept = memory.recall(file) if self.continues else {}
        uri = str(self._mlflow.get_tracking_uri())
        if not self._mlflow.is_tracking_uri_set():  # else MLflow's file in the current folder, which may be another now
            uri = kept.get("tracking_uri", uri)
        self._make_database(uri)
        client = self._mlflow.MlflowClient(tracking_uri=uri)
        known = kept.get("run_id") if kept.get("tracking_uri") == uri else None
        places = set() if known is None else self._resume(client, known)
        self._client = client
        if places is None or known is None:
            known, places = self._create(client), set()
        self._run_id, self.continues = known, True
        memory.keep(file, run_id=known, tracking_uri=uri, experiment=self.experiment)
        self._describe(client)
        logger.info("MLflow: run %s of experiment %s in %s", known, self.experiment, uri)
        return places

    def _make_database(self, uri: str) -> None:
        """Create a missing SQLite file, whole or not at all.

        MLflow creates its tables one by one, for seconds. If the process is killed meanwhile, or two runs start
        together, MLflow can never open the file again.
        """
        scheme, _, name = uri.partition(":///")
        path = Path(name)
        if scheme != "sqlite" or not name or "?" in name or path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mlflow.", dir=path.parent) as folder:
            made = Path(folder) / path.name
            self._mlflow.MlflowClient(tracking_uri=f"sqlite:///{made.resolve()}").search_experiments(max_results=1)
            try:
                os.link(made, path)
            except FileExistsError:  # another run was faster
                return
            except OSError:  # a file system without hard links
                os.rename(made, path)

    def _resume(self, client: MlflowClient, run_id: str) -> set[Place] | None:
        """Continue a run; returns the places of its rows, None if it was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            metrics = client.get_run(run_id).data.metrics
            client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        splits = [name.removesuffix(EPOCH) for name in metrics if name.endswith(EPOCH)]
        return {(split, point.step) for split in splits for point in client.get_metric_history(run_id, split + EPOCH)}

    def _create(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(self.experiment)
        number = client.create_experiment(self.experiment) if found is None else found.experiment_id
        folder = self.save_dir.resolve()
        return client.create_run(number, run_name=folder.name, tags={"save_dir": str(folder)}).info.run_id

    def _describe(self, client: MlflowClient) -> None:
        """Send the config as parameters. They cannot be changed, so a resumed run's other values become tags."""
        from mlflow.entities import Param, RunTag

        wanted = {_name(key): text[:LONGEST] for key, text in _flat(self.config)}
        there = client.get_run(self._run_id).data.params
        new = iter([Param(key, text) for key, text in wanted.items() if key not in there])
        while batch := list(islice(new, PARAMETERS)):
            client.log_batch(self._run_id, params=batch)
        changed = [
            RunTag(f"resumed.{key}", wanted[key][:LONGEST_TAG])
            for key in wanted.keys() & there.keys()
            if wanted[key] != there[key]
        ]
        for tag in changed:
            client.set_tag(self._run_id, tag.key, tag.value)

    def write(self, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric

        assert self._client is not None
        now, batch = int(1000 * time.time()), []
        for row in rows:
            named = [*row.named, (row.split + EPOCH, float(row.epoch))]
            if len(batch) + len(named) > METRICS:
                self._client.log_batch(self._run_id, batch)
                batch = []
            batch += [Metric(_name(key), value, now, row.update) for key, value in named]
        self._client.log_batch(self._run_id, batch)

    def finding(self, update: int, finding: Mapping[str, Json]) -> None:
        assert self._client is not None
        self._client.set_tag(self._run_id, _name(f"findings.{finding['name']}"), text_of(update, finding)[:LONGEST_TAG])

    def close(self) -> None:
        assert self._client is not None
        self._client.set_terminated(self._run_id)

    def abandon(self) -> None:
        """Do nothing: nothing of MLflow's waits when the process exits."""


def _flat(config: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)


def _name(key: str) -> str:
    """Replace the characters that MLflow refuses in names."""
    return re.sub(r"[^\w\-. /:]", "_", key)
