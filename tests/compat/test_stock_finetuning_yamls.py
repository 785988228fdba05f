"""The stock fine-tuning YAMLs: fairseq 0.12.2's names and values, and each composes into a config that could train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

import fairseq.criterions
import fairseq.models
import fairseq.optim
import fairseq.tasks  # noqa: F401
from fairseq.dataclass.initialize import resolve_config
from fairseq.dataclass.validate import find_problems

FOLDER = Path(__file__).resolve().parents[2] / "examples/wav2vec/config/finetuning"
# values of the ten files at fairseq's tag v0.12.2, read with yaml.safe_load
GOLDEN = json.loads((Path(__file__).parent / "data/stock_finetuning_yamls.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", GOLDEN)
def test_values_are_fairseqs(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text.startswith("# @package _group_\n")
    assert yaml.safe_load(text) == GOLDEN[name]


def test_golden_values_are_the_reference(shared_dir: Path) -> None:
    reference = json.loads((shared_dir / "reference/configs/stock_yaml_values.json").read_text(encoding="utf-8"))
    assert len(GOLDEN) == 10
    assert {f"finetuning/{name}": values for name, values in GOLDEN.items()}.items() <= reference.items()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_resolves_without_problems(path: Path) -> None:
    given = OmegaConf.load(path)
    cfg = OmegaConf.to_container(resolve_config(given))
    for group, values in OmegaConf.to_container(given).items():
        for key, value in values.items():
            if isinstance(value, dict):  # of a dataclass of its own, or w2v_args
                assert value.items() <= cfg[group][key].items(), f"{group}.{key}"
            else:
                assert cfg[group][key] == value or float(cfg[group][key]) == float(value), f"{group}.{key}"
    filled = OmegaConf.merge(given, {"task": {"data": "somewhere"}, "model": {"w2v_path": "some.pt"}})
    errors, warnings = find_problems(resolve_config(filled), check_paths=False)
    # whether there is a layer for it is not asked here
    assert [error for error in errors if not error.startswith("common.hpu ")] == []
    assert warnings == []


@pytest.mark.parametrize("hours", ["10h", "100h"])
def test_hpu_files_differ_in_shapes_and_devices_only(hours: str) -> None:
    """The same audio an update, static shapes, and nothing else changed."""
    stock = yaml.safe_load((FOLDER / f"base_{hours}.yaml").read_text(encoding="utf-8"))
    hpu = yaml.safe_load((FOLDER / f"base_{hours}_hpu.yaml").read_text(encoding="utf-8"))
    assert hpu["task"].pop("enable_padding") and hpu["task"].pop("num_batch_buckets") > 1
    assert hpu["common"].pop("hpu") and hpu["common"].pop("bf16") and stock["common"].pop("fp16")
    sizes = [
        cfg["distributed_training"].pop("distributed_world_size") * cfg["optimization"].pop("update_freq")[0]
        for cfg in (stock, hpu)
    ]
    assert sizes[0] == sizes[1]
    assert hpu == stock
