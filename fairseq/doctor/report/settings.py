"""Configs of runs as tables: differences from the stock config that fits best, between runs, and all values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fairseq.dataclass.groups import CONFIG_GROUPS
from fairseq.dataclass.utils import FIXED_GROUPS
from fairseq.doctor.comparing import compare
from fairseq.doctor.report.runs import Run
from fairseq.logging.metrics_file import Json
from fairseq.pages.charts import Table

STOCK = Path(__file__).resolve().parents[2] / "examples" / "wav2vec" / "config"
_CHOICES = ("model._name", "task._name", "criterion._name")
Flat = dict[str, Json]


class Stock(NamedTuple):
    """A stock config: its name, and the values that it sets."""

    name: str
    values: Flat


def flat(config: Mapping[str, Json], prefix: str = "") -> Flat:
    """Return the values of a nested config by their whole keys."""
    values: Flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = value
    return values


@cache
def stock_configs(folder: Path = STOCK) -> Sequence[Stock]:
    """Read the stock configs; none if they are not installed."""
    found = []
    for path in sorted(folder.glob("*/*.yaml")):
        try:
            content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException):
            continue  # a file that somebody has put there
        if isinstance(content, dict):
            groups = {str(group): values for group, values in content.items() if isinstance(values, dict)}
            values = {key: value for key, value in flat(groups).items() if not _is_open(value)}
            found.append(Stock(path.stem, values))
    return found


def _is_open(value: Json) -> bool:
    """Say whether a value is filled in by the user or taken from another key."""
    return isinstance(value, str) and (value == "???" or "${" in value)


def nearest(config: Flat, stocks: Sequence[Stock]) -> Stock | None:
    """Return the stock config whose values a run shares most, of those for the same model, task and loss."""
    best, most = None, 0
    for stock in stocks:
        if any(key in stock.values and stock.values[key] != config.get(key) for key in _CHOICES):
            continue
        equal = sum(_same(value, config.get(key)) for key, value in stock.values.items())
        score = 2 * equal - len(stock.values)
        if score > most:
            best, most = stock, score
    return best


def _same(one: Json, other: Json) -> bool:
    return one == other or _text(one) == _text(other)


def defaults_of(config: Flat) -> Flat:
    """Return the defaults of a run's groups, as far as their dataclasses are registered in this process."""
    values: Flat = {}
    for group, dataclass in FIXED_GROUPS.items():
        values.update({f"{group}.{name}": default for name, default in dataclass.field_defaults().items()})
    for group, choices in CONFIG_GROUPS.items():
        chosen = choices.get(str(config.get(f"{group}._name")))
        if chosen is not None:
            values.update({f"{group}.{name}": default for name, default in chosen.field_defaults().items()})
    return {key: value for key, value in values.items() if not _is_open(value)}


def differences(config: Flat, stock: Stock) -> list[list[str]]:
    """Return rows of key, value in the stock config, and value in the run, where they differ."""
    expected = {**defaults_of(config), **stock.values}
    return [
        [key, _text(expected[key]), _text(value)]
        for key, value in config.items()
        if key in expected and not _same(expected[key], value)
    ]


def setting_tables(runs: Sequence[Run]) -> list[Table]:
    """Return the tables of the runs whose config is known."""
    configs = {run.name: flat(run.records.config) for run in runs if run.records.config}
    tables: list[Table] = []
    if len(configs) > 1:
        tables.append(_between(runs))
    stocks = stock_configs() if configs else ()
    for name, config in configs.items():
        of_run = "" if len(runs) == 1 else f"{name}: "
        stock = nearest(config, stocks)
        if stock is not None:
            rows = differences(config, stock)
            caption = f"{of_run}Differences from the stock config that fits best, {stock.name} ({len(rows)})"
            tables.append(Table(caption, ["key", stock.name, "this run"], rows, folded=len(runs) > 1, prose=True))
    for name, config in configs.items():
        caption = "The whole config" if len(runs) == 1 else f"{name}: The whole config"
        rows = [[key, _text(value)] for key, value in config.items()]
        tables.append(Table(caption, ["key", "value"], rows, folded=True, prose=True))
    return tables


def _between(runs: Sequence[Run]) -> Table:
    compared = compare([(run.name, run.records) for run in runs])
    rows = [[key, *map(_text, values)] for key, values in compared.differences]
    return Table(f"Differences between the runs' configs ({len(rows)})", ["key", *compared.names], rows, prose=True)


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False, default=str)


def _plain(value: Json) -> Json:
    """Return a value with 2 for 2.0: files and dataclasses write the same number either way."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def facts_table(caption: str, runs: Sequence[Run], facts: Sequence[Mapping[str, Json]]) -> list[Table]:
    """Return a table of what is known of each run, such as its environment; [] if nothing is."""
    flats = [flat(of_run) for of_run in facts]
    keys = dict.fromkeys(key for of_run in flats for key in of_run)
    rows = [[key, *(_text(of_run[key]) if key in of_run else "-" for of_run in flats)] for key in keys]
    return [Table(caption, ["", *(run.name for run in runs)], rows, prose=True)] if rows else []
