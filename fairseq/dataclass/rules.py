"""What must hold between the fields of a config. Each rule yields findings; fairseq.dataclass.validate collects them.

Errors are what could only fail later, or train something else than was meant. Warnings are what an engineer would ask
about.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fairseq.dataclass import device_rules
from fairseq.dataclass.findings import Finding, Rule, named, odd, wrong
from fairseq.dataclass.groups import CONFIG_GROUPS
from fairseq.dataclass.training_configs import valid_subsets
from fairseq.dataclass.wer_args import wer_args
from fairseq.frames import ConvSpec, frames_for_samples, parse_conv_layers, receptive_field

_AUDIO_TASKS = ("audio_pretraining", "audio_finetuning")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# -- single values -----------------------------------------------------------------------------------------------------

_AT_LEAST = {
    "common.log_interval": 1,
    "common.seed": 0,
    "common.threads_per_process": 0,
    "common.empty_cache_freq": 0,
    "dataset.num_workers": 0,
    "dataset.max_tokens": 1,
    "dataset.max_tokens_valid": 1,
    "dataset.batch_size": 1,
    "dataset.batch_size_valid": 1,
    "dataset.required_batch_size_multiple": 1,
    "dataset.validate_interval": 1,
    "dataset.validate_interval_updates": 0,
    "dataset.max_valid_steps": 1,
    "distributed_training.distributed_world_size": 1,
    "distributed_training.distributed_timeout": 1,
    "optimization.max_epoch": 0,
    "optimization.max_update": 0,
    "optimization.stop_time_hours": 0,
    "optimization.clip_norm": 0,
    "optimization.max_nonfinite_updates": 1,
    "checkpoint.save_interval": 1,
    "checkpoint.save_interval_updates": 0,
    "ema.ema_update_freq": 1,
    "task.sample_rate": 1,
    "task.max_sample_size": 1,
    "task.min_sample_size": 0,
    "task.num_batch_buckets": 0,
    "lr_scheduler.warmup_updates": 0,
    "lr_scheduler.warmup_steps": 0,
    "model.num_negatives": 0,
    "model.cross_sample_negatives": 0,
    "model.codebook_negatives": 0,
    "model.encoder_layers": 1,
    "model.encoder_embed_dim": 1,
    "model.encoder_attention_heads": 1,
    "model.conv_pos": 1,
    "model.conv_pos_groups": 1,
    "model.latent_groups": 1,
    "model.latent_vars": 1,
    "model.mask_length": 1,
    "model.mask_channel_length": 1,
}
_SHARES = re.compile(
    r"(model\.(.*dropout.*|encoder_layerdrop|layerdrop|mask_channel_prob)|ema\.ema_decay|task\.max_quarantined_share)$"
)


def single_values(cfg: DictConfig) -> Iterator[Finding]:
    """Numbers that are below what they mean, and shares outside 0 to 1."""
    for group in cfg:
        if not isinstance(cfg[group], DictConfig):
            continue
        for name, value in cfg[group].items_ex(resolve=False):
            key = f"{group}.{name}"
            if not _is_number(value):
                continue
            if key in _AT_LEAST and value < _AT_LEAST[key]:
                yield wrong(f"{key} is {value}: it must be at least {_AT_LEAST[key]}.")
            if _SHARES.match(key) and not 0 <= value <= 1:
                yield wrong(f"{key} is {value}: it is a share, from 0 to 1.")


# -- batches and sample sizes ------------------------------------------------------------------------------------------


def batches(cfg: DictConfig) -> Iterator[Finding]:
    """Whether batches can be made of the utterances that the task lets through."""
    dataset, task = cfg.dataset, cfg.task
    if dataset.max_tokens is None and dataset.batch_size is None:
        yield wrong(
            "neither dataset.max_tokens (audio samples in a batch) nor dataset.batch_size (utterances) is set: set "
            "one of them."
        )
    if not named(task, *_AUDIO_TASKS):
        return
    longest, shortest = task.max_sample_size, task.min_sample_size
    for name in (
        ("max_tokens", "max_tokens_valid") if dataset.max_tokens_valid != dataset.max_tokens else ("max_tokens",)
    ):
        if longest is not None and dataset[name] is not None and dataset[name] < longest:
            yield wrong(
                f"dataset.{name} is {dataset[name]} but task.max_sample_size is {longest}: "
                f"no batch could hold one such utterance. Raise the one or lower the other."
            )
    if longest is not None and shortest is not None and shortest > longest:
        yield wrong(
            f"task.min_sample_size is {shortest} but task.max_sample_size is {longest}: every utterance would be "
            "left out."
        )
    if task.num_batch_buckets > 0 and not (task.enable_padding or task.labels):
        yield wrong(
            f"task.num_batch_buckets is {task.num_batch_buckets} but task.enable_padding is false: buckets need "
            "padding.",
            "buckets-without-padding",
        )


def corpora(cfg: DictConfig) -> Iterator[Finding]:
    """Names and weights of several corpora."""
    if not named(cfg.task, *_AUDIO_TASKS) or cfg.task.multi_corpus_keys is None:
        return
    keys = [key.strip() for key in cfg.task.multi_corpus_keys.split(",")]
    for key in keys:
        if Path(key).is_absolute():
            yield wrong(
                f"task.multi_corpus_keys names {key!r}: it must be the names of folders in task.data, such as "
                "books,calls."
            )
    weights = cfg.task.multi_corpus_sampling_weights
    if weights is not None and len(weights.split(",")) != len(keys):
        yield wrong(
            f"task.multi_corpus_sampling_weights is {weights!r}: it must be {len(keys)} numbers, one for each of "
            "task.multi_corpus_keys."
        )


# -- how long, how fast ------------------------------------------------------------------------------------------------


def optimisation(cfg: DictConfig) -> Iterator[Finding]:
    """Lists of update_freq and learning rates, the end of the run, precision."""
    optimization, common = cfg.optimization, cfg.common
    if not optimization.update_freq or min(optimization.update_freq) < 1:
        yield wrong(
            f"optimization.update_freq is {list(optimization.update_freq)}: it must be a list of numbers of at "
            "least 1, such as [64]."
        )
    if not optimization.lr or min(optimization.lr) < 0:
        yield wrong(
            f"optimization.lr is {list(optimization.lr)}: it must be a list of learning rates, such as [0.0005]."
        )
    elif max(optimization.lr) >= 0.25 and named(cfg.optimizer, "adam"):
        yield odd(f"optimization.lr is {list(optimization.lr)}: Adam diverges at that; base is trained with [0.0005].")
    if not (optimization.max_update or optimization.max_epoch or optimization.stop_time_hours):
        yield odd(
            "none of optimization.max_update, max_epoch and stop_time_hours is set: the run ends only when it is "
            "stopped."
        )
    half = [name for name in ("fp16", "memory_efficient_fp16", "amp") if common[name]]
    brain = [name for name in ("bf16", "memory_efficient_bf16") if common[name]]
    if half and brain:
        yield wrong(
            f"common.{half[0]} and common.{brain[0]} are both true: set one of them to false (common.{half[0]}=false)."
        )
    fused = cfg.optimizer.get("use_fused") if isinstance(cfg.optimizer, DictConfig) else None
    if fused is not None and str(fused).lower() not in ("auto", "true", "false"):
        yield wrong(f"optimizer.use_fused is {fused!r}: it may be auto, true or false.")
    betas = cfg.optimizer.get("adam_betas") if isinstance(cfg.optimizer, DictConfig) else None
    if betas is not None and not _is_pair_of_betas(betas):
        yield wrong(
            f"optimizer.adam_betas is {betas!r}: it must be two numbers from 0 to below 1, such as (0.9, 0.98)."
        )


def _is_pair_of_betas(betas: Any) -> bool:
    try:
        values = ast.literal_eval(betas) if isinstance(betas, str) else list(betas)
    except (ValueError, SyntaxError, TypeError):
        return False
    return (
        isinstance(values, (list, tuple))
        and len(values) == 2
        and all(_is_number(beta) and 0 <= beta < 1 for beta in values)
    )


def schedule(cfg: DictConfig) -> Iterator[Finding]:
    """The learning rate schedule against the run's length."""
    scheduler, max_update, rates = cfg.lr_scheduler, cfg.optimization.max_update, list(cfg.optimization.lr)
    if not isinstance(scheduler, DictConfig):
        return
    name = scheduler.get("_name")
    if name in ("tri_stage", "cosine", "inverse_sqrt") and len(rates) > 1:
        yield wrong(f"optimization.lr is {rates} but lr_scheduler {name} knows one learning rate: give one.")
    if name == "polynomial_decay" and scheduler.total_num_update <= 0:
        yield wrong(
            "lr_scheduler polynomial_decay falls over the whole run, so it must know its length: set "
            "optimization.max_update."
        )
    if name == "tri_stage" and scheduler.phase_ratio is not None:
        if max_update <= 0:
            yield wrong(
                "lr_scheduler.phase_ratio divides the whole run, so its length must be known: set "
                "optimization.max_update."
            )
        if len(scheduler.phase_ratio) != 3 or abs(sum(scheduler.phase_ratio) - 1) > 1e-6:
            yield wrong(
                f"lr_scheduler.phase_ratio is {list(scheduler.phase_ratio)}: it must be three shares that add up to 1."
            )
    warm_up = next((key for key in ("warmup_updates", "warmup_steps") if key in scheduler), None)
    if warm_up is not None and 0 < max_update < scheduler[warm_up]:
        yield odd(
            f"lr_scheduler.{warm_up} is {scheduler[warm_up]} but optimization.max_update is {max_update}: "
            f"the run ends while the learning rate still rises, at {max_update / scheduler[warm_up]:.1%} of it."
        )


# -- validation and checkpoints ----------------------------------------------------------------------------------------

_ALWAYS_LOGGED = ("loss", "ntokens", "nsentences")
_CTC_LOGS = ("nll_loss", "uer", "wer", "blanks", "symbols_used")


def best_checkpoint(cfg: DictConfig) -> Iterator[Finding]:
    """The metric that names the best checkpoint exists, and is read the right way round."""
    metric, larger = cfg.checkpoint.best_checkpoint_metric, cfg.checkpoint.maximize_best_checkpoint_metric
    if cfg.dataset.disable_validation:
        if cfg.checkpoint.patience > 0:
            yield wrong("checkpoint.patience counts validations, but dataset.disable_validation is true.")
        return
    known = _logged_in_validation(cfg)
    if known is not None and metric not in known:
        near = get_close_matches(metric, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        name = cfg.criterion._name
        yield wrong(
            f"checkpoint.best_checkpoint_metric is {metric!r}, which criterion {name} does not log.{hint} There is "
            f"{', '.join(known)}."
        )
    if known is None and metric in ("wer", "uer") and not (cfg.task.get("eval_wer") or cfg.task.get("eval_uer")):
        yield wrong(
            f"checkpoint.best_checkpoint_metric is {metric!r}, but nothing counts errors: criterion "
            f"{cfg.criterion._name} with task.eval_{metric}=true does, and criterion ctc always."
        )
    if metric == "accuracy" and not larger:
        yield odd(
            "checkpoint.best_checkpoint_metric is accuracy: without maximize_best_checkpoint_metric=true the worst "
            "one is kept."
        )
    if larger and (metric.startswith("loss") or metric in ("wer", "uer")):
        yield odd(f"checkpoint.maximize_best_checkpoint_metric is true with {metric}: the worst one is kept.")


def _logged_in_validation(cfg: DictConfig) -> list[str] | None:
    """What validation logs with this package's own criterions; None for those of plug-ins."""
    if named(cfg.criterion, "wav2vec"):
        accuracy = ["accuracy"] if cfg.criterion.infonce else []
        return [*_ALWAYS_LOGGED, *_parts_of_loss(cfg), *accuracy, *cfg.criterion.log_keys]
    return [*_ALWAYS_LOGGED, *_CTC_LOGS] if named(cfg.criterion, "ctc") else None


def _parts_of_loss(cfg: DictConfig) -> list[str]:
    """loss_0 and so on: the contrast, and the further losses whose weight is not 0."""
    weights = list(cfg.criterion.loss_weights or [])
    if len(weights) == 1 and named(cfg.model, "wav2vec2") and cfg.model.quantize_targets:
        weights *= 2  # one for diversity and feature penalty
    further = sum(weight != 0 for weight in weights)
    return [f"loss_{number}" for number in range(further + 1)] if further else []


def checkpoints(cfg: DictConfig) -> Iterator[Finding]:
    """Settings about checkpoints that would not be written."""
    checkpoint = cfg.checkpoint
    if checkpoint.continue_pretraining and checkpoint.finetune_from_model is None:
        yield wrong(
            "checkpoint.continue_pretraining is true, but checkpoint.finetune_from_model does not say what is "
            "continued."
        )
    if checkpoint.keep_interval_updates > 0 and not checkpoint.save_interval_updates:
        yield odd("checkpoint.keep_interval_updates has no effect while checkpoint.save_interval_updates is 0.")
    if checkpoint.no_save and (checkpoint.save_interval_updates or checkpoint.keep_best_checkpoints > 0):
        yield odd("checkpoint.no_save is true: nothing is written, whatever else the group says.")
    elif checkpoint.no_last_checkpoints:
        yield odd(
            "checkpoint.no_last_checkpoints is true: typed again, the command continues from the newest of the "
            "other checkpoints, and starts anew where there is none."
        )
    if cfg.dataset.train_subset in valid_subsets(cfg.dataset):
        yield odd(
            f"dataset.valid_subset contains the training data, {cfg.dataset.train_subset}: its loss says nothing "
            "about unseen speech."
        )


# -- model and criterion -----------------------------------------------------------------------------------------------


def conv_layers(cfg: DictConfig) -> Iterator[Finding]:
    """The feature extractor can be built, and makes frames of the audio that it gets."""
    model, task = cfg.model, cfg.task
    specifications = {
        "model.conv_feature_layers": model.get("conv_feature_layers") if isinstance(model, DictConfig) else None
    }
    inferred = task.get("inferred_w2v_config") if isinstance(task, DictConfig) else None
    if isinstance(inferred, DictConfig):
        specifications["task.inferred_w2v_config.conv_feature_layers"] = inferred.get("conv_feature_layers")
    for key, text in specifications.items():
        if not isinstance(text, str):
            continue
        try:
            layers = parse_conv_layers(text)
        except ValueError as error:
            yield wrong(key + str(error).removeprefix("conv_feature_layers"))
            continue
        if named(task, *_AUDIO_TASKS):
            yield from _frames(key, layers, task.max_sample_size)


def _frames(key: str, layers: list[ConvSpec], longest: int | None) -> Iterator[Finding]:
    field, _ = receptive_field(layers)
    if longest is not None and frames_for_samples(longest, layers) < 1:
        yield wrong(
            f"task.max_sample_size is {longest} but a frame of {key} needs {field} samples: no utterance would have "
            "one."
        )


def wav2vec2_widths(cfg: DictConfig) -> Iterator[Finding]:
    """Widths that must divide each other; what the quantizer needs; the temperature's schedule."""
    model = cfg.model
    if not named(model, "wav2vec2"):
        return
    width, heads, groups = model.encoder_embed_dim, model.encoder_attention_heads, model.conv_pos_groups
    if heads > 0 and width % heads:
        yield wrong(f"model.encoder_embed_dim is {width}: model.encoder_attention_heads ({heads}) must divide it.")
    if groups > 0 and width % groups:
        yield wrong(f"model.encoder_embed_dim is {width}: model.conv_pos_groups ({groups}) must divide it.")
    if model.quantize_targets:
        codeword, key = (model.latent_dim, "latent_dim") if model.latent_dim > 0 else (model.final_dim, "final_dim")
        codeword, key = (codeword, key) if codeword > 0 else (width, "encoder_embed_dim")
        if model.latent_groups > 0 and codeword % model.latent_groups:
            yield wrong(
                f"model.{key} is {codeword}, the codewords' width: model.latent_groups ({model.latent_groups}) must "
                "divide it."
            )
        if len(model.latent_temp) != 3:
            yield wrong(
                f"model.latent_temp is {list(model.latent_temp)}: it must be first and last temperature and the "
                "factor per update."
            )
    if model.logit_temp <= 0:
        yield wrong(f"model.logit_temp is {model.logit_temp}: a temperature is above 0.")
    if model.extractor_mode == "layer_norm" and named(cfg.task, *_AUDIO_TASKS) and not cfg.task.normalize:
        yield odd(
            "model.extractor_mode is layer_norm but task.normalize is false: the published models of this kind read "
            "normalised audio."
        )


def contrast(cfg: DictConfig) -> Iterator[Finding]:
    """The criterion has something to contrast with, and as many weights as the model has further losses."""
    model, criterion = cfg.model, cfg.criterion
    if not (named(model, "wav2vec2") and named(criterion, "wav2vec")):
        return
    negatives = model.num_negatives + model.cross_sample_negatives + model.codebook_negatives
    if criterion.infonce and negatives == 0:
        yield wrong(
            "model.num_negatives, cross_sample_negatives and codebook_negatives are all 0: the loss would be 0 from "
            "the start."
        )
    if not criterion.infonce:
        yield odd(
            "criterion.infonce is false: each candidate is judged by itself, by cross-entropy; the paper's loss is "
            "criterion.infonce=true."
        )
    losses = ["diversity", "feature penalty"] if model.quantize_targets else ["feature penalty"]
    if criterion.loss_weights is not None and len(criterion.loss_weights) not in (1, len(losses)):
        yield wrong(
            f"criterion.loss_weights is {list(criterion.loss_weights)}: this model has {len(losses)} further losses "
            f"({', '.join(losses)}), so it must be {len(losses)} weights, or 1 for all of them."
        )


def fine_tuning(cfg: DictConfig) -> Iterator[Finding]:
    """Model, task and criterion of fine-tuning belong together."""
    model, task, criterion = cfg.model, cfg.task, cfg.criterion
    parts = {
        "model": named(model, "wav2vec_ctc"),
        "task": named(task, "audio_finetuning"),
        "criterion": named(criterion, "ctc"),
    }
    pretraining = {
        "model": named(model, "wav2vec2"),
        "task": named(task, "audio_pretraining"),
        "criterion": named(criterion, "wav2vec"),
    }
    if any(parts.values()) and any(pretraining.values()):
        told = ", ".join(f"{group}._name={cfg[group]._name}" for group in parts)
        yield wrong(
            f"{told} do not belong together: fine-tuning has model wav2vec_ctc, task audio_finetuning and criterion "
            "ctc."
        )
        return
    if parts["task"] and not task.labels:
        yield wrong(
            "task.labels is not set: fine-tuning reads the labels of train.tsv from train.<labels>; the stock "
            "configs have ltr."
        )
    if parts["criterion"] and parts["task"] and task.labels in ("wrd", "phn") and criterion.post_process == "letter":
        yield odd(
            f"criterion.post_process is letter but task.labels is {task.labels}: words are not made of letters "
            "there, so wer would count whole utterances. Set criterion.post_process=none."
        )
    if parts["task"] and task.inferred_w2v_config is not None:
        yield odd("task.inferred_w2v_config has no effect in fine-tuning: masks follow the model's settings.")
    if not parts["model"]:
        return
    max_update, frozen = cfg.optimization.max_update, model.freeze_finetune_updates
    if 0 < max_update <= frozen:
        yield odd(
            f"model.freeze_finetune_updates is {frozen} and optimization.max_update {max_update}: only the output "
            "layer is trained. Set model.freeze_finetune_updates=0 for short runs."
        )
    if cfg.common.hpu_compile == "hpu_graphs" and frozen > 0 and (max_update <= 0 or frozen < max_update):
        yield wrong(
            "common.hpu_compile is hpu_graphs, which keeps the graphs of the first updates, in which "
            f"model.freeze_finetune_updates ({frozen}) freezes the encoder: set model.freeze_finetune_updates=0, or "
            "hpu_compile=none."
        )
    layers, width = model.conv_feature_layers, model.encoder_embed_dim
    defaults = CONFIG_GROUPS["model"]["wav2vec_ctc"].field_defaults()
    if (layers, width) != (defaults["conv_feature_layers"], defaults["encoder_embed_dim"]):
        yield odd(
            "model.conv_feature_layers and model.encoder_embed_dim have no effect in fine-tuning: the pre-trained "
            "model has its own."
        )


# -- files -------------------------------------------------------------------------------------------------------------


def manifests(cfg: DictConfig) -> Iterator[Finding]:
    """The data's folder and its manifests are there."""
    task, dataset = cfg.task, cfg.dataset
    if not named(task, *_AUDIO_TASKS) or OmegaConf.is_missing(task, "data"):
        return
    folder = Path(task.data).expanduser()
    if not folder.is_dir():
        yield wrong(
            f"task.data is {task.data!r}: there is no such folder{_from_here(folder)}. Give the one that "
            "fairseq-manifest wrote."
        )
        return
    subsets = {"dataset.train_subset": dataset.train_subset}
    if not (dataset.disable_validation or dataset.combine_valid_subsets):
        subsets["dataset.valid_subset"] = dataset.valid_subset
    corpora = [key.strip() for key in (task.multi_corpus_keys or "").split(",") if key.strip()]
    if any(Path(key).is_absolute() for key in corpora):
        return  # the rule `corpora` says so
    there = sorted(
        str(path.relative_to(folder).with_suffix(""))
        for pattern in ("*.tsv", *(f"{key}/*.tsv" for key in corpora))
        for path in folder.glob(pattern)
    )
    for key, names in subsets.items():
        for name in names.split(","):
            stem = name.split(":")[-1].strip()  # several corpora: key:name, else <key>/<name> of each
            for place in [stem] if ":" in name or not corpora else [f"{corpus}/{stem}" for corpus in corpora]:
                yield from _manifest(folder, place, f"{key} is {name!r}", there, task.labels)
    if task.labels:
        dictionary = Path(task.get("target_dictionary") or folder / f"dict.{task.labels}.txt").expanduser()
        if not dictionary.is_file():
            key = "task.target_dictionary" if task.get("target_dictionary") else "task.labels"
            yield wrong(
                f"{key} asks for the dictionary {dictionary}, which does not exist{_from_here(dictionary)}: "
                "fairseq-prepare-labels makes it with the labels."
            )


def _manifest(folder: Path, place: str, asked: str, there: list[str], labels: str | None) -> Iterator[Finding]:
    """One manifest, and its labels if there are to be any."""
    if place not in there:
        has = (
            f"the folder has {', '.join(there)}"
            if there
            else "the folder has no .tsv at all: make them with fairseq-manifest"
        )
        yield wrong(f"{asked} but {folder / place}.tsv does not exist: {has}.")
    elif labels and not (folder / f"{place}.{labels}").is_file():
        yield wrong(
            f"task.labels is {labels!r} but {folder / place}.{labels} does not exist: a line of units for each line of "
            f"{place}.tsv. fairseq-prepare-labels makes it from transcripts."
        )


def other_paths(cfg: DictConfig) -> Iterator[Finding]:
    """Checkpoints to start from, and the folder to write to."""
    for key in ("checkpoint.finetune_from_model", "ema.ema_seed_model"):
        group, name = key.split(".")
        value = cfg[group][name]
        if value is not None and not Path(value).expanduser().is_file():
            yield wrong(f"{key} is {value!r}: there is no such file{_from_here(Path(value))}.")
    source = (
        cfg.model.get("w2v_path")
        if isinstance(cfg.model, DictConfig) and not OmegaConf.is_missing(cfg.model, "w2v_path")
        else None
    )
    if source is not None and cfg.model.get("w2v_args") is None and not Path(source).expanduser().exists():
        yield wrong(f"model.w2v_path is {source!r}: there is no such checkpoint{_from_here(Path(source))}.")
    folder = Path(cfg.checkpoint.save_dir)
    if folder.exists() and not folder.is_dir():
        yield wrong(f"checkpoint.save_dir is {str(folder)!r}, which is a file: it must be a folder.")


def _from_here(path: Path) -> str:
    return "" if path.is_absolute() else f" in {Path.cwd()}, from where relative paths count"


RULES: tuple[Rule, ...] = (
    device_rules.gaudi,
    single_values,
    batches,
    corpora,
    optimisation,
    schedule,
    best_checkpoint,
    checkpoints,
    conv_layers,
    wav2vec2_widths,
    contrast,
    fine_tuning,
    wer_args,
    device_rules.lazy_device,
)
PATH_RULES: tuple[Rule, ...] = (manifests, other_paths, device_rules.op_lists)
