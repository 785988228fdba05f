"""The stock pre-training YAMLs: fairseq 0.12.2's names and values, and each composes into a config that could train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

import fairseq.criterions
import fairseq.models
import fairseq.optim
import fairseq.tasks  # noqa: F401
from fairseq.dataclass.initialize import resolve_config
from fairseq.dataclass.validate import find_problems

FOLDER = Path(__file__).resolve().parents[2] / "examples/wav2vec/config/pretraining"
# values of the four files at fairseq's tag v0.12.2, read with yaml.safe_load
GOLDEN = json.loads((Path(__file__).parent / "data/stock_pretraining_yamls.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", GOLDEN)
def test_values_are_fairseqs(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text.startswith("# @package _group_\n")  # fairseq's users keep their copies beginning so
    assert yaml.safe_load(text) == GOLDEN[name]


def test_golden_values_are_the_reference(shared_dir: Path) -> None:
    reference = json.loads((shared_dir / "reference/configs/stock_yaml_values.json").read_text(encoding="utf-8"))
    assert {f"pretraining/{name}": values for name, values in GOLDEN.items()}.items() <= reference.items()


def assert_has(cfg: dict[str, Any], given: dict[str, Any], path: str = "") -> None:
    """Every value of a YAML, groups inside groups too."""
    for key, value in given.items():
        if isinstance(value, dict):
            assert_has(cfg[key], value, f"{path}{key}.")
        else:
            assert cfg[key] == value or float(cfg[key]) == float(value), path + key


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_resolves_without_problems(path: Path) -> None:
    given = OmegaConf.load(path)
    cfg = OmegaConf.to_container(resolve_config(given))
    assert_has(cfg, OmegaConf.to_container(given))
    typed = {
        "task": {"data": "somewhere"},
        "checkpoint": {"finetune_from_model": "a.pt"} if "_continue" in path.stem else {},
    }
    problems = find_problems(resolve_config(OmegaConf.merge(given, typed)), check_paths=False)
    assert problems == ([], [])


def test_every_stock_file_is_there() -> None:
    assert set(GOLDEN) <= {path.name for path in FOLDER.glob("*.yaml")}
