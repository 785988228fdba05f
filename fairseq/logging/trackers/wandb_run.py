"""Weights & Biases, by the package wandb."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fairseq.logging.metrics_file import Json
from fairseq.logging.trackers import memory, wandb_parts
from fairseq.logging.trackers.rows import Place, Row, text_of

if TYPE_CHECKING:
    from wandb import Run

logger = logging.getLogger(__name__)

FINISH_SECONDS = 10.0  # that W&B waits for its uploads when a run ends; less than the queue's patience
UPDATE, SPLIT = "num_updates", "split"


class Wandb:
    """A run in a project. Names are fairseq's: `train_inner/loss`; the x axis is `num_updates`.

    A resumed run has the same id, kept in `wandb.json`. Each start writes a file below `wandb/` in `save_dir`, and W&B
    joins them by the id. A row that one of these files has is not written again.

    Args:
        save_dir: `checkpoint.save_dir`.
        config: the run's config by group.
        continues: the run resumes an earlier one; if false, it is a new one there.
    """

    def __init__(self, project: str, save_dir: Path, config: Mapping[str, Json], continues: bool) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # its lines on the terminal
        import wandb  # now, on the main thread: a process that is forked during an import may inherit its locks

        self._wandb = wandb
        self.project, self.save_dir, self.config, self.continues = project, save_dir, config, continues
        self._run: Run | None = None
        self._step = 0

    def begin(self, rows: Sequence[Row]) -> Collection[Place]:
        """Start or resume the run; see `fairseq.logging.trackers.queue.Tracker`."""
        run_id = self._id()
        places: set[Place] = set()
        for part in wandb_parts.parts(self.save_dir, run_id):
            for logged in wandb_parts.history(part):
                self._step = max(self._step, int(str(logged["_step"])) + 1)
                if SPLIT in logged:
                    places.add((str(logged[SPLIT]), int(str(logged[UPDATE]))))
        is_online = self._is_online()
        # offline, `finish` with a limit returns before the file is written
        settings = self._wandb.Settings(console="off", finish_timeout=FINISH_SECONDS if is_online else 0)
        run = self._wandb.init(
            project=self.project,
            id=run_id,
            name=os.environ.get("WANDB_NAME", self.save_dir.resolve().name),
            dir=self.save_dir,
            config=dict(self.config),
            resume="allow",
            allow_val_change=True,  # of the config of a run that resumes
            mode=None if is_online or os.environ.get("WANDB_MODE") else "offline",
            settings=settings,
        )
        run.define_metric(UPDATE, hidden=True)
        run.define_metric("*", step_metric=UPDATE)
        self._run = run
        self._say_where()
        return places

    def write(self, rows: Sequence[Row]) -> None:
        assert self._run is not None
        for row in rows:
            columns = {UPDATE: row.update, "epoch": row.epoch, SPLIT: row.split, **dict(row.named)}
            # _step is the number of the row; W&B ignores rows whose number its server has
            self._run.log(columns, step=self._step)
            self._step += 1

    def finding(self, update: int, finding: Mapping[str, Json]) -> None:
        assert self._run is not None
        self._run.summary[f"findings/{finding['name']}"] = text_of(update, finding)

    def close(self) -> None:
        assert self._run is not None
        self._run.finish()

    def abandon(self) -> None:
        """Kill W&B's own process: at exit, this one would wait for it, for minutes where its server hangs."""
        service = self._wandb.setup()
        # there is no public way: wandb.teardown waits too
        for name in ("_connection", "_proc", "_process"):
            service = getattr(service, name, None)
        if isinstance(service, subprocess.Popen):
            service.kill()

    def _id(self) -> str:
        """The run's id at W&B: WANDB_RUN_ID, or the earlier one, or a new one."""
        file = self.save_dir / "wandb.json"
        known = os.environ.get("WANDB_RUN_ID") or (memory.recall(file).get("id") if self.continues else None)
        run_id = known or secrets.token_hex(4)
        memory.keep(file, id=run_id, project=self.project)
        self.continues = True  # a second attempt to open it is the same run
        return run_id

    def _is_online(self) -> bool:
        """Whether rows go to a server: if WANDB_MODE or W&B's settings say so, or say nothing and a login is known."""
        settings = self._wandb.setup().settings
        if os.environ.get("WANDB_MODE") or settings.mode != "online":
            return settings.mode in ("online", "run", "shared")
        return bool(settings.api_key) or _netrc_has(settings.base_url)

    def _say_where(self) -> None:
        assert self._run is not None
        if self._run.offline:
            logger.info(
                "W&B: offline, run %s below %s. Upload it with: wandb sync %s",
                self._run.id,
                self.save_dir / "wandb",
                self.save_dir / "wandb" / f"offline-run-*-{self._run.id}",
            )
        else:
            logger.info("W&B: run %s", self._run.url)


def _netrc_has(url: str) -> bool:
    """Say whether the user's netrc file has a login for a server."""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(file).authenticators(urlsplit(url).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False
