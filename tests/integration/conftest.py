"""A small corpus, a small config, and the command as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from fairseq import tasks
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.initialize import resolve_config
from fairseq.distributed.exit_status import STOPPED
from fairseq.models.wav2vec import Wav2Vec2Model
from fairseq.trainer import Trainer
from tests.integration.finetuning_runs import LETTERS, write_labels
from tests.integration.finetuning_runs import TINY as TINY_W2V
from tests.warm import Done, Warm

REPOSITORY = Path(__file__).resolve().parents[2]

TINY = """# @package _group_
common: {fp16: false, log_format: json, log_interval: 2, seed: 1, cpu: true}
checkpoint: {save_interval_updates: 4, keep_interval_updates: 2, no_epoch_checkpoints: true, save_dir: run}
task: {_name: audio_pretraining, data: "???", max_sample_size: 24000, min_sample_size: 8000, normalize: true}
dataset: {num_workers: 1, max_tokens: 96000, required_batch_size_multiple: 1, validate_interval_updates: 100}
distributed_training: {distributed_world_size: 1, ddp_backend: legacy_ddp}
criterion: {_name: wav2vec, infonce: true, log_keys: [prob_perplexity, code_perplexity, temp], loss_weights: [0.1, 10]}
optimization: {max_update: 12, lr: [0.001]}
optimizer: {_name: adam, adam_betas: "(0.9,0.98)", adam_eps: 1e-06, weight_decay: 0.01}
lr_scheduler: {_name: polynomial_decay, warmup_updates: 4}
model: {_name: wav2vec2, quantize_targets: true, final_dim: 16, encoder_layerdrop: 0.2, dropout_input: 0.1, dropout_features: 0.1,
  feature_grad_mult: 0.1, encoder_embed_dim: 32, encoder_layers: 2, encoder_ffn_embed_dim: 64, encoder_attention_heads: 2, latent_vars: 8,
  num_negatives: 10, conv_feature_layers: "[(16,10,5)] + [(16,3,2)]*4 + [(16,2,2)]*2", conv_pos: 16, conv_pos_groups: 4}
"""


def write_audio(path: Path, seconds: float, seed: int, sample_rate: int = 16000) -> None:
    """Noise that rises and falls and a few tones: audio that no two frames of are alike."""
    rng = np.random.default_rng(seed)
    time_axis = np.arange(int(seconds * sample_rate)) / sample_rate
    tones = sum(np.sin(2 * np.pi * rng.uniform(100, 2000) * time_axis + rng.uniform(0, 6)) for _ in range(4))
    audio = 0.05 * tones * (1 + np.sin(2 * np.pi * rng.uniform(1, 4) * time_axis)) + 0.01 * rng.standard_normal(
        len(time_axis)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.astype(np.float32), sample_rate)


def write_manifest(path: Path, root: Path, files: list[Path]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{file.relative_to(root)}\t{soundfile.info(file).frames}" for file in files]
    path.write_text("\n".join([str(root), *lines]) + "\n")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.tsv (24 files of 0.6 to 2.5 s) and valid.tsv (5 files)."""
    root = tmp_path_factory.mktemp("corpus")
    files = []
    for i in range(29):
        files.append(root / "audio" / f"{i:02d}.flac")
        write_audio(files[-1], 0.6 + 1.9 * ((i * 7) % 29) / 28, seed=i)
    write_manifest(root / "train.tsv", root, files[:24])
    write_manifest(root / "valid.tsv", root, files[24:])
    return root


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.tsv (8 files of about a second) and dev_other.tsv (3 files), their .ltr, and the
    dictionary.
    """
    root = tmp_path_factory.mktemp("labelled")
    files = [root / "audio" / f"{i:02d}.flac" for i in range(11)]
    for i, file in enumerate(files):
        write_audio(file, 0.8 + 0.05 * i, seed=i)
    for name, part in (("train", files[:8]), ("dev_other", files[8:])):
        write_manifest(root / f"{name}.tsv", root, part)
        write_labels(root / f"{name}.ltr", len(part), seed=len(part))
    (root / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in "|" + LETTERS))
    return root


@pytest.fixture(scope="session")
def pretrained_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of tiny models with random weights: `base`, and `vox` (layer-norm extractor, pre-norm, normalised
    audio).
    """
    folder = tmp_path_factory.mktemp("pretrained")
    changes = {"base": {}, "vox": {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}}
    paths = {}
    for name, change in changes.items():
        torch.manual_seed(1)
        model = {**TINY_W2V, **change}
        cfg = {
            "model": model,
            "task": {"_name": "audio_pretraining", "data": "gone", "normalize": name == "vox"},
            "common": {},
        }
        paths[name] = folder / f"{name}.pt"
        torch.save({"cfg": cfg, "model": Wav2Vec2Model(model).state_dict(), "args": None}, paths[name])
    return paths


def _heed_signals() -> None:
    """The background jobs of a shell ignore Ctrl-C, and so would what they start."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Workplace:
    """A folder with `tiny.yaml`, from which commands are typed.

    `run` and `run_until` fork them from a process that has imported the package, and fork also the processes that they
    spawn; `start`, and a launcher, start processes of their own.
    """

    def __init__(self, folder: Path, corpus: Path, warm: Warm) -> None:
        self.folder, self.corpus, self.warm = folder, corpus, warm
        self.variables: dict[str, str] = {}  # of the environment, beside the tests' own
        (folder / "tiny.yaml").write_text(TINY)

    def arguments(self, *overrides: str) -> list[str]:
        return [f"task.data={self.corpus}", "--config-dir", ".", "--config-name", "tiny", *overrides]

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **self.variables}

    def start(self, *overrides: str, launcher: list[str] | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, *(launcher or []), "-m", "fairseq_cli.hydra_train", *self.arguments(*overrides)]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_heed_signals,
        )

    def run(
        self, *overrides: str, launcher: list[str] | None = None, status: int | None = 0, forks: bool = True
    ) -> str:
        """The command's output; `status` is the exit status that it must have (None: any but 0).

        `forks` false: the processes that it spawns are started as a user's are.
        """
        if launcher is None:
            arguments = self.arguments(*overrides)
            done = self.python_module("fairseq_cli.hydra_train", *arguments, forks=forks)
        else:
            process = self.start(*overrides, launcher=launcher)
            output, _ = process.communicate(timeout=300)
            done = Done(process.returncode, output)
        assert (done.code == status) if status is not None else done.code != 0, done.output
        return done.output

    def python_module(self, name: str, *arguments: str, **how: Any) -> Done:
        """`python -m name` in the folder, in the warm process."""
        return self.warm.module(name, arguments, self.folder, self.environment(), **how)

    def run_until(self, pattern: str, number: signal.Signals, *overrides: str) -> str:
        """Run the command, send it the signal once a file of this pattern is there, and return what it printed."""
        arguments, stop = self.arguments(*overrides), (pattern, int(number))
        done = self.python_module("fairseq_cli.hydra_train", *arguments, forks=True, stop=stop)
        assert any(self.folder.glob(pattern)), f"{pattern} did not appear: {done.output}"
        assert done.code == (-number if number == signal.SIGKILL else STOPPED), done.output
        return done.output

    def rows(self, split: str = "train_inner", save_dir: str = "run") -> list[dict[str, Any]]:
        lines = (self.folder / save_dir / "metrics.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, lines) if row["split"] == split]


@pytest.fixture()
def workplace(tmp_path: Path, corpus: Path, warm: Warm) -> Workplace:
    return Workplace(tmp_path, corpus, warm)


def make_trainer(
    corpus: Path, tmp_path: Path, task_settings: dict[str, Any] | None = None, **model: Any
) -> tuple[Trainer, EpochBatchIterator]:
    """A trainer of the small config in this process, two micro-batches an update, with its training iterator."""
    cfg = OmegaConf.create(TINY)
    cfg.task.data, cfg.checkpoint.save_dir, cfg.dataset.num_workers = str(corpus), str(tmp_path), 0
    cfg.optimization.clip_norm = 1.0
    cfg.optimization.update_freq = [2]
    OmegaConf.update(cfg, "model", model)
    OmegaConf.update(cfg, "task", task_settings or {})
    cfg = resolve_config(cfg)
    task = tasks.setup_task(cfg.task)
    trainer = Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
    return trainer, trainer.get_train_iterator(1)
