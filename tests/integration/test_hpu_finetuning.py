"""Fine-tuning on HPU's stand-in and on torch's lazy device trains what the CPU trains, with the vendor's CTC kernel
and without.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from fairseq.dataclass.base import ConfigError
from fairseq.device.graph_counts import graph_counts
from fairseq.trainer import Trainer
from fairseq_cli import train
from tests.integration.finetuning_runs import config, load, rows

SETTINGS: dict[str, Any] = {
    "common.bf16": False,
    "common.cpu": False,
    "task.num_batch_buckets": 2,
    "model.freeze_finetune_updates": 1,
    "model.mask_channel_length": 4,
    "model.activation_dropout": 0.0,
    "model.layerdrop": 0.0,
    "dataset.max_tokens": 60000,
    "dataset.required_batch_size_multiple": 1,
    "optimization.max_update": 3,
    "optimization.lr": [0.001],
    "lr_scheduler": {"_name": "fixed"},
}


def run(data: Path, w2v_path: Path, folder: Path, **changes: Any) -> dict[str, Tensor]:
    train.main(config("base_10h_hpu", data, w2v_path, folder, **{**SETTINGS, **changes}))
    return load(folder)["model"]


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """A key's bias shifts all scores alike: its gradient is rounding noise, which Adam makes steps of."""
    for name, tensor in one.items():
        assert name.endswith("k_proj.bias") or torch.allclose(tensor, other[name], atol=2e-5), name


@pytest.mark.parametrize("kernel", [True, False], ids=["vendor's kernel", "on the host"])
def test_the_stand_in_trains_what_the_cpu_does(
    kernel: bool,
    labelled: Path,
    pretrained_files: dict[str, Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_cpu = run(labelled, pretrained_files["base"], tmp_path / "cpu", **{"common.hpu": False, "common.cpu": True})
    recorder: ModuleType = request.getfixturevalue("fake_habana")
    if not kernel:
        from habana_frameworks.torch.hpex import kernels

        monkeypatch.delattr(kernels, "CTCLoss")
    on_hpu = run(labelled, pretrained_files["base"], tmp_path / "hpu", **{"common.hpu": True})
    assert_close(on_cpu, on_hpu)
    shapes = [arguments["shape"] for name, arguments in recorder.calls if name == "CTCLoss"]
    assert bool(shapes) == kernel and len(set(shapes)) <= 4  # two buckets in training, two in validation
    one, other = (rows(tmp_path / name, "dev_other")[-1] for name in ("cpu", "hpu"))
    assert one["wer"] == other["wer"] and one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.needs("lazy")
def test_the_lazy_device_trains_what_the_cpu_does(
    labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path
) -> None:
    on_cpu = run(labelled, pretrained_files["base"], tmp_path / "cpu", **{"common.hpu": False, "common.cpu": True})
    lazy = run(labelled, pretrained_files["base"], tmp_path / "lazy", **{"common.hpu": False, "common.device": "lazy"})
    assert_close(on_cpu, lazy)


@pytest.mark.needs("lazy")
def test_a_frozen_encoder_keeps_its_graphs_and_its_weights(
    labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs change where the encoder unfreezes, in that update and the next, and nowhere else; weight decay leaves
    it alone until then."""
    compiled: list[int] = []
    before = torch.load(pretrained_files["base"], weights_only=True)["model"]
    train_step = Trainer.train_step

    def recorded(trainer: Trainer, samples: list[dict[str, Any]]) -> None:
        start = graph_counts()
        train_step(trainer, samples)
        compiled.append(graph_counts().since(start).compiled)
        if trainer.get_num_updates() == 4:
            encoder = trainer.unwrapped_model.w2v_encoder.w2v_model.state_dict()
            assert all(torch.equal(tensor.cpu(), before[name]) for name, tensor in encoder.items())

    monkeypatch.setattr(Trainer, "train_step", recorded)
    changes = {
        "model.freeze_finetune_updates": 4,
        "optimization.max_update": 8,
        "optimization.update_freq": [2],
        "dataset.max_tokens": 40000,
        "task.num_batch_buckets": 1,
        "optimizer.weight_decay": 0.1,
        "dataset.disable_validation": True,
        "common.hpu": False,
        "common.device": "lazy",
    }
    after = run(labelled, pretrained_files["base"], tmp_path, **changes)
    assert [bool(count) for count in compiled] == [True, True, False, False] * 2, compiled
    assert not torch.equal(
        after["w2v_encoder.w2v_model.encoder.layers.0.fc1.weight"], before["encoder.layers.0.fc1.weight"]
    )


def test_kept_graphs_and_a_frozen_encoder_do_not_go_together(
    fake_habana: ModuleType, labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="captures the first updates"):
        run(labelled, pretrained_files["base"], tmp_path, **{"common.hpu": True, "common.hpu_compile": "hpu_graphs"})
