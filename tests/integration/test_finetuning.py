"""Fine-tuning runs in this process: the stock configs at the width of a tiny pre-trained checkpoint, and what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from fairseq.dataclass.initialize import resolve_config
from fairseq.models.wav2vec import Wav2Vec2Model
from fairseq_cli import train
from tests.integration.conftest import REPOSITORY, write_audio, write_manifest

STOCK = sorted((REPOSITORY / "examples/wav2vec/config/finetuning").glob("*.yaml"))
LETTERS = "ABCDEFGH"
WIDTH = 32
CONV = "[(16,10,5)] + [(16,3,2)]*4 + [(16,2,2)]*2"
TINY = {
    "_name": "wav2vec2", "quantize_targets": True, "final_dim": 16, "encoder_embed_dim": WIDTH, "encoder_layers": 2,
    "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 2, "latent_vars": 8, "conv_feature_layers": CONV, "conv_pos": 16,
    "conv_pos_groups": 4,
}  # fmt: skip


def write_labels(path: Path, count: int, seed: int) -> None:
    """Two words of letters a line."""
    generator = torch.Generator().manual_seed(seed)
    lines = []
    for _ in range(count):
        words = ["".join(LETTERS[i] for i in torch.randint(len(LETTERS), (3,), generator=generator).tolist()) for _ in range(2)]
        lines.append(" ".join([*words[0], "|", *words[1], "|"]))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.tsv (8 files of about a second) and dev_other.tsv (3 files), their .ltr, and the dictionary."""
    root = tmp_path_factory.mktemp("labelled")
    files = [root / "audio" / f"{i:02d}.flac" for i in range(11)]
    for i, file in enumerate(files):
        write_audio(file, 0.8 + 0.05 * i, seed=i)
    for name, part in (("train", files[:8]), ("dev_other", files[8:])):
        write_manifest(root / f"{name}.tsv", root, part)
        write_labels(root / f"{name}.ltr", len(part), seed=len(part))
    (root / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in "|" + LETTERS))
    return root


@pytest.fixture(scope="module")
def pretrained_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of tiny models with random weights: `base`, and `vox` (layer-norm extractor, pre-norm, normalised audio)."""
    folder = tmp_path_factory.mktemp("pretrained")
    changes = {"base": {}, "vox": {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}}
    paths = {}
    for name, change in changes.items():
        torch.manual_seed(1)
        model = {**TINY, **change}
        cfg = {"model": model, "task": {"_name": "audio_pretraining", "data": "gone", "normalize": name == "vox"}, "common": {}}
        paths[name] = folder / f"{name}.pt"
        torch.save({"cfg": cfg, "model": Wav2Vec2Model(model).state_dict(), "args": None}, paths[name])
    return paths


def config(stock: Path | str, data: Path, w2v_path: Path, folder: Path, **changes: Any) -> DictConfig:
    """A stock config with overrides of data, paths, device and length of the run, and further dotted keys."""
    path = stock if isinstance(stock, Path) else next(path for path in STOCK if path.stem == stock)
    cfg = OmegaConf.load(path)
    overrides = {
        "task.data": str(data), "model.w2v_path": str(w2v_path), "checkpoint.save_dir": str(folder / "run"), "common.cpu": True,
        "distributed_training.distributed_world_size": 1, "optimization.max_update": 2, "dataset.num_workers": 0, **changes,
    }  # fmt: skip
    for key, value in overrides.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    return resolve_config(cfg)


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def load(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "run" / "checkpoint_last.pt", weights_only=True)


@pytest.mark.parametrize("trained", ["as it is", "whole"])
@pytest.mark.parametrize("stock", [path for path in STOCK if not path.stem.endswith("_hpu")], ids=lambda path: path.stem)
def test_stock_configs_run(stock: Path, trained: str, labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path) -> None:
    """Two updates of each; once more with nothing frozen and a channel mask that fits the width."""
    changes = {} if trained == "as it is" else {"model.freeze_finetune_updates": 0, "model.mask_channel_length": 4}
    source = pretrained_files[stock.stem.split("_")[0]]
    cfg = config(stock, labelled, source, tmp_path, **changes)
    train.main(cfg)
    state = load(tmp_path)
    assert state["optimizer_history"][-1]["num_updates"] == 2
    validation = rows(tmp_path, "dev_other")[-1]
    assert validation["wer"] >= 0 and validation["uer"] >= 0 and 0 <= validation["blanks"] <= 100
    before = torch.load(source, weights_only=True)["model"]["encoder.layers.0.fc1.weight"]
    after = state["model"]["w2v_encoder.w2v_model.encoder.layers.0.fc1.weight"]
    assert torch.equal(before, after) == (cfg.model.freeze_finetune_updates > 0)
