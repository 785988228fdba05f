"""A task and a data set of a plug-in, written for fairseq: samples, sizes and a collater."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from tests.integration.conftest import Workplace

PLUG_IN = """
from dataclasses import dataclass

import numpy as np
import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask, register_task


class Tones(torch.utils.data.Dataset):
    def __len__(self):
        return 21

    def size(self, index):
        return 8000 + 700 * (index % 5)

    def __getitem__(self, index):
        time = np.arange(self.size(index)) / 16000
        wave = np.sin(2 * np.pi * (200 + 30 * index) * time) + 0.1 * np.random.randn(len(time))
        return torch.from_numpy(wave.astype(np.float32))

    def collater(self, samples):
        source = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
        lengths = torch.tensor([len(sample) for sample in samples])
        return {"net_input": {"source": source, "padding_mask": torch.arange(source.size(1)) >= lengths[:, None]}}


@dataclass
class TonesConfig(FairseqDataclass):
    data: str = "nowhere"


@register_task("tones", dataclass=TonesConfig)
class TonesTask(FairseqTask):
    def load_dataset(self, split, combine=False, **kwargs):
        self.datasets[split] = Tones()
"""


def model_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint_last.pt", map_location="cpu", weights_only=True)["model"]


def test_it_trains_validates_and_resumes(workplace: Workplace) -> None:
    (workplace.folder / "tones").mkdir()
    (workplace.folder / "tones" / "__init__.py").write_text(PLUG_IN)
    config = workplace.folder / "tiny.yaml"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("task:")]
    config.write_text("\n".join([*lines, "task: {_name: tones}"]) + "\n")
    usual = ["common.user_dir=tones", "lr_scheduler.total_num_update=12"]
    workplace.run(*usual)
    rows = workplace.rows()
    assert [row["num_updates"] for row in rows] == [2, 4, 6, 8, 10, 12]
    assert all(math.isfinite(row["loss"]) and row["audio_s_per_update"] > 0 for row in rows)
    assert workplace.rows("valid")[-1]["num_updates"] == 12
    for last in (5, 12):
        workplace.run(*usual, "checkpoint.save_dir=parts", f"optimization.max_update={last}")
    unbroken, parts = model_of(workplace.folder / "run"), model_of(workplace.folder / "parts")
    assert unbroken.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in unbroken.items())
