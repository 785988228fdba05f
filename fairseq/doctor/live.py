"""The doctor of a run that is training: it looks at the rows as they are written, and says what it finds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fairseq.doctor import causes as causes  # registers them
from fairseq.doctor.findings import CAUSES, SEVERITIES, Cause, Finding
from fairseq.doctor.following import Followed
from fairseq.doctor.records import EPOCH, INTERVAL, Records, Rows
from fairseq.logging.metrics_file import Json, MetricsFile, read_rows

logger = logging.getLogger(__name__)

FINDINGS = "findings.jsonl"
RARELY = 1000  # updates between two log lines about a finding that is not worse
WORSE = 1.5  # times the badness that was said last
SHARE = 1 / 500  # of the run's time that looking may take,
AT_ONCE = 2.0  # after seconds that it may take at any time: a short run is looked at with every row
# findings that say that the run is about to diverge
EARLY_WARNINGS = ("feature-penalty-drift", "gradient-drift")

Say = Callable[[int, Mapping[str, Json]], None]
Keep = Callable[[Finding], None]


class LiveDoctor:
    """A sink that examines the rows of a run so far; a cause that raises is reported once, and left out.

    It looks when rows arrive, if its share of the run's time allows it: over a long run, the pauses grow with the rows.

    Args:
        config: the run's config, group by group.
        folder: `checkpoint.save_dir`, with findings.jsonl and the other records of the run.
        update: the update from which the run starts or resumes; later findings of an earlier process are dropped.
        continues: findings.jsonl belongs to this run.
        say: hands a finding to the sinks.
        stop: ends the run, all processes together; None: a run that has collapsed continues.
        keep: keeps a checkpoint from before an early warning.
        clock, work: seconds, and the processor's seconds in this thread.
    """

    def __init__(
        self,
        config: Mapping[str, Json],
        folder: Path,
        update: int = 0,
        continues: bool = True,
        say: Say = lambda update, finding: None,
        stop: Callable[[], None] | None = None,
        keep: Keep = lambda finding: None,
        clock: Callable[[], float] = time.perf_counter,
        work: Callable[[], float] = time.thread_time,
    ) -> None:
        self._file = MetricsFile(folder / FINDINGS)
        self._file.rewind(update, continues)
        self._said = {said.finding.name: said for said in _said_before(folder / FINDINGS)}
        self._followed = Followed(folder)
        self._say, self._stop, self._keep = say, stop, keep
        self._clock, self._work, self._begun = clock, work, clock()
        self._has_stopped = False
        self._broken: set[str] = set()
        self.spent = 0.0  # seconds of looking
        self._update = update
        self._rows = {split: Rows(is_compact=True) for split in (INTERVAL, EPOCH)}
        self._records = Records(self._rows, config, starts=[update])
        self._take_earlier(folder / "metrics.jsonl", update)

    def _take_earlier(self, metrics: Path, update: int) -> None:
        """Take the rows of the run's earlier processes, which are in metrics.jsonl."""
        if update == 0 or not metrics.is_file():
            return
        for row in read_rows(metrics):
            if isinstance(row.get("num_updates"), int) and row["num_updates"] <= update:
                self._records.rows(str(row.get("split"))).append(row)

    # -- a sink --------------------------------------------------------------------------------------------------------

    def write(self, split: str, update: int, epoch: int, stats: Mapping[str, object]) -> None:
        """Take a row, and look if it is time to; see `fairseq.logging.sinks.Sink`."""
        self._records.rows(split).append({**stats, "num_updates": update, "epoch": epoch})
        self._update = update
        if split != EPOCH and self.spent <= AT_ONCE + SHARE * (self._clock() - self._begun):
            self.look()

    def close(self) -> None:
        """Look a last time: rows may have come since."""
        self.look()

    # -- findings ------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Examine the rows so far, and say what is new."""
        start = self._work()
        self._followed.read_into(self._records)
        for finding in self._examine(CAUSES.items()):
            self._heed(finding)
        self.spent += self._work() - start

    def _examine(self, looked_for: Iterable[tuple[str, Cause]]) -> list[Finding]:
        found: list[Finding] = []
        for name, function in looked_for:
            if name in self._broken:
                continue
            try:
                finding = function(self._records)
            except Exception as error:  # any class: a cause may be a plug-in's, and must not end the run
                self._broken.add(name)
                logger.error("the doctor cannot look for %s: %s: %s", name, type(error).__name__, error)
                logger.debug("its traceback:", exc_info=error)
                continue
            if finding is not None:
                found.append(finding)
        return sorted(found, key=lambda finding: (SEVERITIES.index(finding.severity), finding.begin))

    def _heed(self, finding: Finding) -> None:
        before = self._said.get(finding.name)
        if before is None or before.is_due(finding, self._update):
            self._said[finding.name] = Said(finding, self._update)
            self._tell(finding)
            if finding.name in EARLY_WARNINGS:
                self._keep(finding)
        elif before is not None:
            before.last_seen = self._update
        if finding.has_collapsed and self._stop is not None and not self._has_stopped:
            self._has_stopped = True
            logger.error("stopping: the run has collapsed (%s), and common.doctor is stop", finding.name)
            self._stop()

    def _tell(self, finding: Finding) -> None:
        level = logging.INFO if finding.severity == "note" else logging.WARNING
        logger.log(level, "%s", as_line(finding))
        fields = {**finding._asdict(), "evidence": list(finding.evidence)}
        self._file.append({"num_updates": self._update, **fields})
        self._say(self._update, fields)


class Said:
    """A finding as it was said last.

    Args:
        update: the update at which it was said.
    """

    def __init__(self, finding: Finding, update: int) -> None:
        self.finding, self.update, self.last_seen = finding, update, update

    def is_due(self, now: Finding, update: int) -> bool:
        """Whether the same finding, as it is now, is said again: it is worse, or it is back after a time."""
        if SEVERITIES.index(now.severity) < SEVERITIES.index(self.finding.severity):
            return True
        if now.has_collapsed and not self.finding.has_collapsed:
            return True
        is_back = now.begin > self.last_seen and update - self.update >= RARELY
        return is_back or now.badness >= WORSE * self.finding.badness


def _said_before(path: Path) -> list[Said]:
    """What earlier processes of the run have said, in this order."""
    found: list[Said] = []
    for row in read_rows(path) if path.is_file() else []:
        try:
            fields = {name: row[name] for name in Finding._fields}
            found.append(Said(Finding(**fields), int(row["num_updates"])))
        except (KeyError, TypeError, ValueError):
            continue  # of another version: said again
    return found


def as_line(finding: Finding) -> str:
    """A finding in one line of a log."""
    parts = [finding.title, *finding.evidence, finding.change]
    text = " ".join(part if part.endswith((".", "!", "?", ":")) else part + "." for part in parts if part)
    return f"{finding.severity}: {finding.name}: {text} (since update {finding.begin:,}; docs/doctor.md)"
