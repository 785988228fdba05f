"""Read the log of a run of fairseq's, or of this package: rows in the forms json and simple, and the config.

Source: fairseq 0.12 writes a row as `TIME | INFO | train_inner | ROW`, hydra as `[TIME][train_inner][INFO] - ROW`. ROW
is a JSON object (`common.log_format=json`), or `epoch 001:  6 / 7 loss=9.8, lr=0.1` within an epoch and
`epoch 001 | valid on 'dev' subset | loss 6.1` at its end (simple, tqdm). Rows of this package have no num_updates: it
follows from the epoch and from the updates per epoch. The file of fairseq's `common.log_file` has the same rows without
time and name.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from fairseq.doctor.records import EPOCH, INTERVAL, Records, Rows
from fairseq.logging.metrics_file import Json

_LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:,\d+)?"
    r"(?: \| [A-Z]+ \| (?P<name>[\w.-]+) \| |\]\[(?P<hydra>[\w.-]+)\]\[[A-Z]+\] - )(?P<text>.*)"
)
_INTERVAL = re.compile(r"epoch (\d+):\s*(?:(\d+) / (\d+)\s+)?(.*)")
_END = re.compile(r"epoch (\d+) \| (?:valid on '([^']*)' subset \| )?(.*)")
_LOADED = re.compile(r"[Ll]oaded checkpoint .*?(\d+) updates\)")
_PER_EPOCH = re.compile(r"(\d+) updates per epoch\b")
_OVER = re.compile(r"done training in [\d.]+ seconds")


def read_log(file: Path) -> Records:
    """Read a log; rows that a resumed run has repeated appear once.

    Raises:
        ValueError: it has no rows of a run.
        OSError: it cannot be read.
    """
    log = _taken(file, bare=False)
    if not log.rows:
        log = _taken(file, bare=True)
    if not log.rows:
        raise ValueError(
            f"{file} is not a log of a run: it has no lines such as `... | INFO | train_inner | ...`. fairseq writes "
            "them with common.log_format=json or simple."
        )
    splits = {split: Rows(rows) for split, rows in log.rows.items()}
    return Records(splits, log.config, starts=log.starts, is_over=log.is_over)


def _taken(file: Path, bare: bool) -> _Log:
    """Read the lines that begin with time and name; with `bare`, those that do not."""
    log = _Log()
    with open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = _LINE.search(line)
            if match is not None:
                log.take(match["name"] or match["hydra"], match["text"].strip())
            elif bare:
                log.take(_split_of(line.strip()), line.strip())
    return log


def _split_of(text: str) -> str:
    """The split of a row without a name, by the prefix of its keys or its own words; empty for another text."""
    if text.startswith('{"') and (match := re.search(r'"(?:(\S+)_)?num_updates"', text)):
        return match[1] or INTERVAL
    if "num_updates" not in text:
        return ""
    if match := _END.fullmatch(text):
        return match[2] or EPOCH
    return INTERVAL if _INTERVAL.fullmatch(text) else ""


class _Log:
    """What has been read so far."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Json]]] = {}
        self.config: dict[str, Json] = {}
        self.starts: list[int] = []
        self.is_over = False
        self._update, self._per_epoch = 0, 0  # the latest update, and updates per epoch where the log says it

    def take(self, name: str, text: str) -> None:
        """Take a line without its time and level."""
        row = _json_row(name, text) if text.startswith("{") else self._simple_row(name, text)
        if row is not None:
            self._add(name, row)
        elif text.startswith("{'") and not self.rows:
            self.config = _config(text) or self.config
        elif (loaded := _LOADED.search(text)) is not None:
            self.starts.append(int(loaded[1]))
            self.is_over = False
        elif (per_epoch := _PER_EPOCH.match(text)) is not None:
            self._per_epoch = int(per_epoch[1])
        elif _OVER.search(text):
            self.is_over = True

    def _simple_row(self, name: str, text: str) -> dict[str, Json] | None:
        if name == INTERVAL and (match := _INTERVAL.fullmatch(text)):
            epoch, done, size, values = match.groups()
            row = _pairs(values.split(", "), "=")
            if done is not None:
                self._per_epoch = int(size)
                row.setdefault("num_updates", (int(epoch) - 1) * int(size) + int(done))
        elif match := _END.fullmatch(text):
            epoch, _, values = match.groups()
            row = _pairs(values.split(" | "), " ")
        else:
            return None
        return {"epoch": int(epoch), **row} if row else None

    def _add(self, split: str, row: dict[str, Json]) -> None:
        update = row.get("num_updates", self._update_at(split, row))
        if not isinstance(update, int):
            return
        rows = self.rows.setdefault(split, [])
        while rows and _update_of(rows[-1]) >= update:  # a resumed run repeats them
            rows.pop()
        rows.append({**row, "split": split, "num_updates": update})
        self._update = update

    def _update_at(self, split: str, row: dict[str, Json]) -> int | None:
        """The update of a row that does not say it: a validation's is the latest one."""
        epochs = row.get("update" if split == INTERVAL else "epoch")
        if split not in (INTERVAL, EPOCH):
            return self._update
        return round(epochs * self._per_epoch) if self._per_epoch and isinstance(epochs, (int, float)) else None


def _update_of(row: dict[str, Json]) -> int:
    update = row["num_updates"]
    assert isinstance(update, int)
    return update


def _json_row(split: str, text: str) -> dict[str, Json] | None:
    try:
        values = json.loads(text)
    except ValueError:  # the config, or half a line
        return None
    if not isinstance(values, dict) or "epoch" not in values:
        return None
    return {name.removeprefix(f"{split}_"): _value(value) for name, value in values.items()}


def _pairs(parts: list[str], between: str) -> dict[str, Json]:
    """Values by name; parts without a value are left out, as are the last ones of half a line."""
    found: dict[str, Json] = {}
    for part in parts:
        name, separator, value = part.strip().partition(between)
        if separator and re.fullmatch(r"[\w.-]+", name):
            found[name] = _value(value)
    return found


def _value(value: Json) -> Json:
    """A number that fairseq wrote as text, as a number; names of not finite numbers and other texts unchanged."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() and value.lstrip("-").isdigit() else number
    return value


def _config(text: str) -> dict[str, Json] | None:
    """The config that fairseq prints as a Python dict of literals."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("common"), dict) else None
