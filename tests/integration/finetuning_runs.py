"""What runs of fine-tuning need: stock configs with overrides, labels, and what a run left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from fairseq.dataclass.initialize import resolve_config

REPOSITORY = Path(__file__).resolve().parents[2]
STOCK = sorted((REPOSITORY / "examples/wav2vec/config/finetuning").glob("*.yaml"))
LETTERS = "ABCDEFGH"
WIDTH = 32
CONV = "[(16,10,5)] + [(16,3,2)]*4 + [(16,2,2)]*2"
TINY = {
    "_name": "wav2vec2",
    "quantize_targets": True,
    "final_dim": 16,
    "encoder_embed_dim": WIDTH,
    "encoder_layers": 2,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 2,
    "latent_vars": 8,
    "conv_feature_layers": CONV,
    "conv_pos": 16,
    "conv_pos_groups": 4,
}


def write_labels(path: Path, count: int, seed: int) -> None:
    """Two words of letters a line."""
    generator = torch.Generator().manual_seed(seed)
    lines = []
    for _ in range(count):
        words = [
            "".join(LETTERS[i] for i in torch.randint(len(LETTERS), (3,), generator=generator).tolist())
            for _ in range(2)
        ]
        lines.append(" ".join([*words[0], "|", *words[1], "|"]))
    path.write_text("\n".join(lines) + "\n")


def config(stock: Path | str, data: Path, w2v_path: Path, folder: Path, **changes: Any) -> DictConfig:
    """A stock config with overrides of data, paths, device and length of the run, and further dotted keys."""
    path = stock if isinstance(stock, Path) else next(path for path in STOCK if path.stem == stock)
    cfg = OmegaConf.load(path)
    overrides = {
        "task.data": str(data),
        "model.w2v_path": str(w2v_path),
        "checkpoint.save_dir": str(folder / "run"),
        "common.cpu": True,
        "distributed_training.distributed_world_size": 1,
        "optimization.max_update": 2,
        "dataset.num_workers": 0,
        **changes,
    }
    for key, value in overrides.items():
        OmegaConf.update(cfg, key, value, force_add=True, merge=False)
    return resolve_config(cfg)


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def load(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "run" / "checkpoint_last.pt", weights_only=True)
