"""Keys of fairseq's configs whose feature is not offered here, each with what to use instead.

They are accepted at their defaults, so that every stock YAML and checkpoint loads; any other value is an error. `*`
matches any ending.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

_TPU = "train on CPU or CUDA"
_PARALLEL = "use data parallel training: distributed_training.distributed_world_size, or torchrun"
_SHARDING = "use distributed_training.ddp_backend=fully_sharded"
_TRACKER = "use common.tensorboard_logdir, common.wandb_project or common.mlflow_experiment"
_LOCAL_SGD = "use distributed_training.ddp_backend=pytorch_ddp"
_LAUNCHER = "start the processes with torchrun, which sets their ranks"
_EVALUATION = "it belongs to commands that evaluate"
_TEXT = "it belongs to models that generate text, which are not offered"
_TRANSLATION = "it belongs to translation"
_LM_DECODING = "validation decodes greedily: fairseq-infer decodes a checkpoint with a lexicon and a language model"

NOT_OFFERED: dict[str, str] = {
    "common.profile": "run a few updates under torch.profiler",
    "common.threshold_loss_scale": "use common.bf16=true; common.min_loss_scale stops a run if its scale falls too low",
    "common.amp_scale_window": "amp uses common.fp16_scale_window",
    "common.tpu": _TPU,
    "distributed_training.tpu": _TPU,
    "task.tpu": _TPU,
    "optimizer.tpu": _TPU,
    "common.model_parallel_size": _PARALLEL,
    "checkpoint.model_parallel_size": _PARALLEL,
    "common.quantization_config_path": "quantise a trained model with torch.ao.quantization",
    "common.aim_repo": _TRACKER,
    "common.aim_run_hash": _TRACKER,
    "common.azureml_logging": _TRACKER,
    "common.use_plasma_view": "file names are kept in compact arrays that processes share",
    "distributed_training.distributed_init_method": _LAUNCHER,
    "distributed_training.distributed_no_spawn": _LAUNCHER,
    "distributed_training.slowmo_*": _LOCAL_SGD,
    "distributed_training.localsgd_frequency": _LOCAL_SGD,
    "distributed_training.pipeline_*": _PARALLEL,
    "distributed_training.zero_sharding": _SHARDING,
    "dataset.dataset_impl": "audio is read through a manifest: fairseq-manifest",
    "dataset.curriculum": "batches are shuffled from the first epoch on",
    "dataset.grouped_shuffling": "task.num_batch_buckets gives all processes the same shapes",
    "optimization.use_bmuf": _LOCAL_SGD,
    "optimization.debug_param_names": "model.named_parameters() has them in the optimizer's order",
    "checkpoint.checkpoint_shard_count": "a checkpoint is one file",
    "checkpoint.load_checkpoint_on_all_dp_ranks": "the processes of a run read the same checkpoint file",
    "task.binarized_dataset": "use a manifest of audio files, or of members of a .zip (path.zip:offset:length)",
    "task.precompute_mask_config": (
        "data-loading workers always draw the masks, from task.inferred_w2v_config or the model's settings"
    ),
    "task.post_save_script": "run it separately on the files in checkpoint.save_dir",
    "task.eval_bleu*": _TRANSLATION,
    "task.eval_tokenized_bleu": _TRANSLATION,
    "task.eval_wer_tokenizer": "task.eval_wer_post_process says how units become words",
    "task.autoregressive": "wav2vec_seq2seq is not offered: fine-tune wav2vec_ctc",
    "criterion.wer_kenlm_model": _LM_DECODING,
    "criterion.wer_lexicon": _LM_DECODING,
    "model.drop_path": "it belongs to data2vec 2: use model.layerdrop",
    "model.layer_decay": "use optimizer=composite with optimizer.layer_decay",
    "model.offload_activations": "model.checkpoint_activations=true saves memory",
    "optimizer.fp16_adam_stats": "the optimizer's state is fp32",
}

# single values that are not offered, of keys that are
NOT_OFFERED_VALUES: dict[str, dict[str, str]] = {
    "distributed_training.ddp_backend": {"slowmo": _LOCAL_SGD},
}

# keys that have no effect here; a value other than the default is reported in a warning
WITHOUT_EFFECT: dict[str, str] = {
    "common.fp16_no_flatten_grads": "gradients are never flattened",
    "common.on_cpu_convert_precision": "parameters are always fp32",
    "common.fp16_scale_tolerance": "the loss scale halves at each overflow",
    "common.amp_batch_retries": "an update that overflows is skipped",
    "common.all_gather_list_size": "log entries are summed on the device",
    "common.reset_logging": "log handlers that others installed are always removed",
    "common.empty_cache_freq": (
        "the memory cache is never emptied; PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True reduces fragmentation"
    ),
    "distributed_training.distributed_backend": "CUDA uses nccl, HPU uses hccl and CPU uses gloo",
    "distributed_training.distributed_num_procs": (
        "distributed_training.distributed_world_size says how many processes start"
    ),
    "distributed_training.fix_batches_to_gpus": "the batches of a process are always a function of seed and epoch",
    "distributed_training.fast_stat_sync": "statistics are always summed in one all-reduce",
    "distributed_training.fp32_reduce_scatter": "fully_sharded always reduces gradients in fp32",
    "distributed_training.not_fsdp_flatten_parameters": "fully_sharded never flattens parameters",
    "distributed_training.use_sharded_state": "a fully_sharded run always saves shards",
    "dataset.required_seq_len_multiple": "it belongs to fairseq's text datasets",
    "dataset.fixed_validation_seed": "validation always makes the same random draws, from common.seed",
    "dataset.gen_subset": _EVALUATION,
    "dataset.num_shards": _EVALUATION,
    "dataset.shard_id": _EVALUATION,
    "dataset.update_epoch_batch_itr": "batches are planned again for every epoch",
    "dataset.update_ordered_indices_seed": "the order of batches is always a function of seed and epoch",
    "task.text_compression_level": "file names are kept in compact arrays",
    "task.eval_wer_config": _TEXT,
    "criterion.wer_lm_weight": _LM_DECODING,
    "criterion.wer_word_score": _LM_DECODING,
    "criterion.wer_sil_weight": _LM_DECODING,
    "model.update_alibi": "it belongs to data2vec 2",
    "model.min_params_to_wrap": "it belongs to fully sharded training",
    "common_eval.post_process": _EVALUATION,
    "common_eval.quiet": _EVALUATION,
    "common_eval.results_path": _EVALUATION,
    "generation.*": _TEXT,
    "eval_lm.*": _TEXT,
    "interactive.*": _TEXT,
    "bmuf.*": "it belongs to optimization.use_bmuf, which is not offered",
}


def not_offered(key: str, value: Any) -> str:
    """The error for a key in NOT_OFFERED whose value is not its default."""
    return f"{key} is {value!r}, which is not offered: {entry(key, NOT_OFFERED)}."


def entry(key: str, table: dict[str, str]) -> str | None:
    """A table's text for a key; None if it is not listed."""
    if key in table:
        return table[key]
    return next((text for pattern, text in table.items() if "*" in pattern and fnmatchcase(key, pattern)), None)
