"""A small twin of a run: same task, data plan, model class and trainer, but few narrow layers, few rows and noise."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
from omegaconf import DictConfig, OmegaConf, open_dict

from fairseq.data.audio.quarantine import PatientReader
from fairseq.data.batch import Batch
from fairseq.data.batching import BatchPlan
from fairseq.frames import parse_conv_layers
from fairseq.models.wav2vec import pretrained
from fairseq.preflight.plan import Split, audio

_HALF = ("fp16", "bf16", "amp", "memory_efficient_fp16", "memory_efficient_bf16")
_ROWS = 2
_WIDTH, _HEADS, _CODEWORD, _CHANNELS = 32, 2, 16, 8
_AT_MOST = {"encoder_layers": 2, "encoder_ffn_embed_dim": 64, "latent_vars": 16, "num_negatives": 20}


def twin(cfg: DictConfig, device: str, narrow: bool) -> DictConfig:
    """Return the run's config on `cpu` or `lazy`, for one process that writes no files.

    Args:
        narrow: use few and narrow layers, if the model has the keys for it.
    """
    small = cast(DictConfig, OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)))
    with open_dict(small):
        common, model = small.common, small.model
        bf16 = device == "cpu" and common.hmp  # the lazy device has no autocast
        common.device, common.cpu, common.hpu, common.hmp = device, device == "cpu", False, False
        common.bf16 = bf16 or (device == "cpu" and common.bf16)
        if device == "lazy":
            common.update(dict.fromkeys(_HALF, False))
        common.log_format, common.log_file = "none", None
        common.tensorboard_logdir = common.wandb_project = common.mlflow_experiment = None
        common.report = False
        small.checkpoint.no_save = True
        if "use_old_adam" in small.optimizer:
            small.optimizer.use_old_adam = True  # plain operations, as on HPU without Habana's fused kernel
        small.distributed_training.distributed_world_size, small.distributed_training.nprocs_per_node = 1, 1
        # early in a warm-up, 1 - lr * weight_decay is 1 in fp32; torch's lazy backend compiles another graph for a
        # product with 1
        for key in ("warmup_updates", "warmup_steps"):
            if small.lr_scheduler.get(key):
                small.lr_scheduler[key] = 1
        if narrow and "w2v_path" in model and model.w2v_args is None:
            model.w2v_args = _encoder_of(model)  # random weights: w2v_path is not read again
        encoder = model.w2v_args.model if model.get("w2v_args") is not None else model
        if narrow:
            _narrow(encoder)
        inferred = small.task.get("inferred_w2v_config")
        if inferred is not None:
            for key in ("encoder_embed_dim", "conv_feature_layers"):
                if key in encoder and key in inferred:
                    inferred[key] = encoder[key]
    return small


def _encoder_of(model: DictConfig) -> DictConfig:
    """Return the pre-training config that fine-tuning would take from its checkpoint, with its own settings."""
    source = pretrained.load(model.w2v_path, averaged=model.load_ema)
    return OmegaConf.create(pretrained.with_fine_tuning(source.w2v_args, model), flags={"allow_objects": True})


def _narrow(model: DictConfig) -> None:
    """Reduce the number of layers and the widths, keeping them divisible, for the keys that the model has."""
    for key in _AT_MOST.keys() & model.keys():
        if model[key] is not None:
            model[key] = min(model[key], _AT_MOST[key])
    if "encoder_embed_dim" not in model:
        return
    heads = min(model.get("encoder_attention_heads") or _HEADS, _HEADS)
    model.encoder_attention_heads = heads
    model.encoder_embed_dim = min(model.encoder_embed_dim, math.lcm(_WIDTH, heads, model.get("conv_pos_groups") or 1))
    groups = model.get("latent_groups") or 1
    for key in ("final_dim", "latent_dim"):
        if (model.get(key) or 0) > 0:
            model[key] = min(model[key], _CODEWORD * groups)
    if model.get("conv_feature_layers"):
        layers = parse_conv_layers(model.conv_feature_layers)
        model.conv_feature_layers = str([(min(layer.dim, _CHANNELS), layer.kernel, layer.stride) for layer in layers])


def hear_noise(split: Split) -> None:
    """Replace the split's audio by noise, the same each time; its files are not opened from now on."""
    dataset = audio(split)
    noise = np.random.default_rng(0).standard_normal(2**16, dtype=np.float32) * 0.1

    def read(index: int, start: int, out: np.ndarray) -> None:
        out[:] = np.resize(np.roll(noise, index), len(out))

    dataset._patient_reader = PatientReader(dataset.sizes, read, dataset.name, dataset.check)


def few_rows(plan: BatchPlan, num_valid: int | None = None, rows: int = _ROWS) -> BatchPlan:
    """Return a plan with its first rows only.

    Args:
        num_valid: real utterances among them; None: all, or all but one if the plan has filler.
    """
    filler = plan.num_valid < len(plan.indices)
    valid = min(plan.num_valid, len(plan.indices[:rows]), num_valid or (rows - 1 if filler else rows))
    return plan._replace(indices=plan.indices[:rows], num_valid=valid)


def batch(split: Split, plan: BatchPlan) -> Batch:
    """Return the batch that a worker would make."""
    return split.dataset.collate_plan(plan)
