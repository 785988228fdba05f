"""The same training by several strategies, in two processes on CPU: losses, gradient norms, and bytes held."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from fairseq import tasks, utils
from fairseq.checkpoint import run
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.initialize import resolve_config
from fairseq.distributed import launch, strategy
from fairseq.distributed import utils as distributed
from fairseq.models.wav2vec import Wav2Vec2Model, codebook_use
from fairseq.trainer import Trainer
from fairseq.training.description import cost_of

BACKENDS = ("pytorch_ddp", "flat", "fully_sharded")
# dropout, layerdrop, accumulation, activation checkpointing and the running average are all on
SETTINGS = """
common: {log_interval: 1000, seed: 1, cpu: true, threads_per_process: 1}
task: {_name: audio_pretraining, data: "???", max_sample_size: 24000, min_sample_size: 8000, normalize: true}
dataset: {num_workers: 0, max_tokens: 48000, required_batch_size_multiple: 1, disable_validation: true}
distributed_training: {distributed_world_size: 2}
criterion: {_name: wav2vec, infonce: true, log_keys: [prob_perplexity, code_perplexity, temp], loss_weights: [0.1, 10]}
optimization: {update_freq: [2], lr: [0.001], clip_norm: 5.0}
optimizer: {_name: adam, adam_betas: "(0.9,0.98)", adam_eps: 1e-06, weight_decay: 0.01}
lr_scheduler: {_name: fixed}
ema: {store_ema: true, ema_decay: 0.9}
model: {_name: wav2vec2, quantize_targets: true, final_dim: 16, encoder_layerdrop: 0.3, dropout_input: 0.1,
  dropout_features: 0.1, feature_grad_mult: 0.1, encoder_embed_dim: 32, encoder_layers: 3, encoder_ffn_embed_dim: 64,
  encoder_attention_heads: 2, latent_vars: 8, num_negatives: 10, checkpoint_activations: true,
  conv_feature_layers: "[(16,10,5)] + [(16,3,2)]*4 + [(16,2,2)]*2", conv_pos: 15, conv_pos_groups: 4}
"""
CONFORMER = {
    "layer_type": "conformer",
    "attn_type": "espnet",
    "pos_enc_type": "rel_pos",
    "depthwise_conv_kernel_size": 5,
}


FINETUNING = """
task: {_name: audio_finetuning, labels: ltr, data: "???", normalize: true}
criterion: {_name: ctc, zero_infinity: true}
model: {_name: wav2vec_ctc, w2v_path: "???", apply_mask: true, mask_prob: 0.3, mask_channel_prob: 0.1,
  mask_channel_length: 4, layerdrop: 0.3, feature_grad_mult: 0.0, freeze_finetune_updates: 2}
"""


def settings(data: Path | str, save_dir: Path | str, finetuning: bool = False, **groups: dict[str, Any]) -> DictConfig:
    """The config, with these values in its groups.

    Args:
        finetuning: train wav2vec_ctc; `data` also has base.pt, the pre-trained model.
    """
    cfg = OmegaConf.create(SETTINGS)
    if finetuning:
        for group, values in OmegaConf.create(FINETUNING).items():
            cfg[group] = values
        cfg.model.w2v_path = str(Path(data) / "base.pt")
    cfg.task.data, cfg.checkpoint = str(data), {"save_dir": str(save_dir)}
    for group, values in groups.items():
        OmegaConf.update(cfg, group, values)
    return resolve_config(cfg)


def with_backend(cfg: DictConfig, backend: str) -> DictConfig:
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))
    assert isinstance(cfg, DictConfig)
    with open_dict(cfg):
        cfg.distributed_training.ddp_backend = backend
    return resolve_config(cfg)


def build(cfg: DictConfig) -> Trainer:
    """A trainer as a run builds it."""
    task = tasks.setup_task(cfg.task)
    utils.set_torch_seed(cfg.common.seed)
    with strategy.building(cfg.distributed_training):
        model = task.build_model(cfg.model)
    return Trainer(cfg, task, model, task.build_criterion(cfg.criterion))


def losses(trainer: Trainer, batches: EpochBatchIterator, updates: int) -> list[float]:
    """Train, and return the loss per item of every update, over all processes."""
    found: list[float] = []
    while True:
        for samples in batches.next_epoch_itr(shuffle=True):
            trainer.train_step(samples)
            sums = trainer.statistics.fetch().logged
            found.append(sums["loss"] / sums["sample_size"])
            if "code_counts" in sums:  # activation checkpointing computes some parts twice, but counts once
                assert sum(sums["code_counts"]) == 2 * sums["sample_size"]
            if len(found) == updates:
                return found


def size(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of this process's tensors: of its shards, for sharded ones."""
    local = [getattr(tensor, "_local_tensor", tensor) for tensor in tensors if tensor is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


def held(trainer: Trainer) -> dict[str, int]:
    """Bytes that this process holds between two updates."""
    optimizers = getattr(trainer.optimizer, "optimizers", {"": trainer.optimizer}).values()
    adam = [entry for part in optimizers for entry in part.optimizer.state.values()]
    return {
        "parameters": size(trainer.unwrapped_model.parameters()),
        "gradients": size(param.grad for param in trainer._params),
        "optimizer": size(
            value for entry in adam for value in entry.values() if torch.is_tensor(value) and value.dim()
        ),
        "average": size([] if trainer.ema is None else trainer.ema.params.values()),
    }


def codewords(trainer: Trainer) -> list[int] | None:
    """How many codewords some audio uses: by a method of the model besides `forward`, on all processes."""
    model, audio = trainer.unwrapped_model, trainer.task.dataset("train")
    if not isinstance(model, Wav2Vec2Model):
        return None
    return codebook_use.measure(model, audio, trainer.device, 16000, seed=1, minutes=0.05).used


def live(cfg: DictConfig, updates: int, backends: Iterable[str], report: str) -> None:
    """Each process: train with every strategy in turn, and write what it found to `report`, with its rank."""
    found: dict[str, Any] = {}
    for backend in backends:
        trainer = build(with_backend(cfg, backend))
        found[backend] = {
            "losses": losses(trainer, trainer.get_train_iterator(1), updates),
            "held": held(trainer),
            "name": trainer.strategy.name,
            "costs": cost_of(trainer)._asdict(),
            "codewords": codewords(trainer),
        }
        del trainer
        gc.collect()
    Path(f"{report}.{distributed.get_rank()}").write_text(json.dumps(found))


def live_on(cfg: DictConfig, runs: dict[str, list[tuple[str, int]]], report: str) -> None:
    """Each process: train several runs, each with one strategy after another, for some updates each."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for name, backend, updates in [(name, *leg) for name, legs in runs.items() for leg in legs]:
        of_run = OmegaConf.merge(cfg, {"checkpoint": {"save_dir": f"{cfg.checkpoint.save_dir}/{name}"}})
        trainer = build(with_backend(cast(DictConfig, of_run), backend))
        _, batches = run.resume(trainer.cfg.checkpoint, trainer)
        found[name] += losses(trainer, batches, updates)
        run.save(trainer.cfg.checkpoint, trainer, batches, None, stopping=True)
        distributed.barrier()  # the file is there
        del trainer
        gc.collect()
    Path(f"{report}.{distributed.get_rank()}").write_text(json.dumps(found))


def continued(cfg: DictConfig, runs: dict[str, list[tuple[str, int]]], report: Path) -> dict[str, list[float]]:
    """Train in two processes as `live_on` does, and return the losses of all updates by run."""
    launch.call_main(cfg, live_on, runs=runs, report=str(report))
    return json.loads(Path(f"{report}.0").read_text())


def compare(cfg: DictConfig, updates: int, report: Path, backends: Iterable[str] = BACKENDS) -> list[dict[str, Any]]:
    """Train with every strategy in two processes, and return each process's report."""
    launch.call_main(cfg, live, updates=updates, backends=list(backends), report=str(report))
    return [json.loads(Path(f"{report}.{rank}").read_text()) for rank in (0, 1)]


def difference(ones: list[float], others: list[float]) -> float:
    """The largest relative difference of two lists."""
    return max(abs(one - other) / abs(one) for one, other in zip(ones, others, strict=True))
