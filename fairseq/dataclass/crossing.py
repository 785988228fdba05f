"""Rules that involve more than one config group.

Rules of a single group are in its dataclass (`FairseqDataclass.check`); `fairseq.dataclass.validate` applies both. An
error means that the run would fail later, or train something other than intended. A warning is something that an
engineer would ask about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fairseq.dataclass.base import FairseqDataclass
from fairseq.dataclass.findings import Finding, named, odd, wrong
from fairseq.dataclass.groups import CONFIG_GROUPS
from fairseq.dataclass.values import corpus_metric, from_here
from fairseq.frames import frames_for_samples, parse_conv_layers, receptive_field

_AUDIO_TASKS = ("audio_pretraining", "audio_finetuning", "audio_classification")

# (model, task, criterion) that go together
_PARTS = {
    "pre-training": ("wav2vec2", "audio_pretraining", "wav2vec"),
    "fine-tuning": ("wav2vec_ctc", "audio_finetuning", "ctc"),
    "classification": ("wav2vec_classification", "audio_classification", "classification"),
}
_GROUPS = ("model", "task", "criterion")


def kept_graphs(cfg: DictConfig) -> Iterator[Finding]:
    """Settings that change between updates, which a captured graph cannot."""
    common, model = cfg.common, cfg.model
    if not (common.hpu or common.device == "hpu") or common.hpu_compile == "none":
        return
    if named(model, "wav2vec2") and model.logit_temp_start is not None:
        yield wrong(
            f"model.logit_temp_start is {model.logit_temp_start} and common.hpu_compile is "
            f"{common.hpu_compile}: compiled graphs would keep the temperature of their first update. Set "
            "common.hpu_compile=none or model.logit_temp_start=null.",
            "gaudi",
        )
    if isinstance(model, DictConfig) and model.get("checkpoint_activations"):
        yield wrong(
            f"common.hpu_compile is {common.hpu_compile} and model.checkpoint_activations is true: a captured graph "
            "draws new dropout seeds at each replay, so recomputed activations would use different dropout masks, "
            "and the gradients would be wrong without an error. Set common.hpu_compile=none or "
            "model.checkpoint_activations=false.",
            "gaudi",
        )


# (ddp_backend, ddp_comm_hook) that a device's library supports; CUDA's supports all
_HOOKS = {
    "cpu": {("pytorch_ddp", "fp16"), ("flat", "fp16"), ("flat", "bf16")},
    "hpu": {("flat", "bf16")},
}


def exchanges(cfg: DictConfig) -> Iterator[Finding]:
    """Ways to share a model that a device does not have."""
    common, training = cfg.common, cfg.distributed_training
    device = str(common.device or ("hpu" if common.hpu else "cpu" if common.cpu else ""))
    hook, backend = str(training.ddp_comm_hook), str(training.ddp_backend)
    if backend == "fully_sharded":
        if device == "hpu" and (common.hpu_lazy_mode or common.hpu_compile != "none"):
            key = "hpu_lazy_mode=false" if common.hpu_lazy_mode else "hpu_compile=none"
            yield wrong(
                "distributed_training.ddp_backend is fully_sharded, which gathers weights between blocks, so a step "
                f"cannot be one graph. Set common.{key}, or ddp_backend=flat.",
                "gaudi",
            )
        return
    kind = "flat" if backend == "flat" else "pytorch_ddp"
    if hook != "none" and device in _HOOKS and (kind, hook) not in _HOOKS[device]:
        yield wrong(
            f"distributed_training.ddp_comm_hook is {hook} and ddp_backend is {backend}, but {device} cannot exchange "
            "gradients that way. Set ddp_comm_hook=none, or ddp_backend=flat with ddp_comm_hook=bf16.",
            "device",
        )


def whole_utterances(cfg: DictConfig) -> Iterator[Finding]:
    """A batch must hold the longest utterance that the task allows, and that utterance must have a frame."""
    dataset, task, model = cfg.dataset, cfg.task, cfg.model
    if not named(task, *_AUDIO_TASKS) or task.max_sample_size is None:
        return
    longest = task.max_sample_size
    for name in (
        ("max_tokens", "max_tokens_valid") if dataset.max_tokens_valid != dataset.max_tokens else ("max_tokens",)
    ):
        if dataset[name] is not None and dataset[name] < longest:
            yield wrong(
                f"dataset.{name} is {dataset[name]} but task.max_sample_size is {longest}: "
                f"no batch could hold the longest utterance. Raise dataset.{name} or lower task.max_sample_size.",
                "batches",
            )
    groups = {"model": model, "task.inferred_w2v_config": task.inferred_w2v_config}
    for group, values in groups.items():
        key = f"{group}.conv_feature_layers"
        text = values.get("conv_feature_layers") if isinstance(values, DictConfig) else None
        if not isinstance(text, str):
            continue
        try:
            layers = parse_conv_layers(text)
        except ValueError:
            continue  # the group's own rule says so
        if frames_for_samples(longest, layers) < 1:
            yield wrong(
                f"task.max_sample_size is {longest} but a frame of {key} needs {receptive_field(layers)[0]} samples: "
                "no utterance would have a frame. Raise task.max_sample_size.",
                "conv-layers",
            )


def rates(cfg: DictConfig) -> Iterator[Finding]:
    """The learning rate must suit the optimizer, and the warm-up the length of the run."""
    lr, max_update, scheduler = cfg.optimization.lr, cfg.optimization.max_update, cfg.lr_scheduler
    if lr and min(lr) >= 0 and max(lr) >= 0.25 and named(cfg.optimizer, "adam"):
        yield odd(
            f"optimization.lr is {list(lr)}: Adam diverges at this rate. The base recipe uses [0.0005].",
            "optimisation",
        )
    if not isinstance(scheduler, DictConfig):
        return
    warm_up = next((key for key in ("warmup_updates", "warmup_steps") if key in scheduler), None)
    if warm_up is not None and 0 < max_update < scheduler[warm_up]:
        yield odd(
            f"lr_scheduler.{warm_up} is {scheduler[warm_up]} but optimization.max_update is {max_update}: "
            f"the run ends during warm-up, {max_update / scheduler[warm_up]:.1%} of the way through it.",
            "schedule",
        )


# -- validation --------------------------------------------------------------------------------------------------------

_ALWAYS_LOGGED = ("loss", "ntokens", "nsentences")
PROBE_LOGS = ("probe_cer", "probe_loss")
_CTC_LOGS = ("nll_loss", "uer", "wer", "blanks", "symbols_used")


def best_checkpoint(cfg: DictConfig) -> Iterator[Finding]:
    """The metric of the best checkpoint must be logged, and be compared in the right direction."""
    metric, larger = cfg.checkpoint.best_checkpoint_metric, cfg.checkpoint.maximize_best_checkpoint_metric
    if cfg.dataset.disable_validation:
        if cfg.checkpoint.patience > 0:
            yield wrong(
                "checkpoint.patience counts validations, but dataset.disable_validation is true. Set "
                "checkpoint.patience=-1, or dataset.disable_validation=false.",
                "best-checkpoint",
            )
        return
    probed = [] if cfg.dataset.probe_data is None else list(PROBE_LOGS)
    if metric in PROBE_LOGS and not probed:
        yield wrong(
            f"checkpoint.best_checkpoint_metric is {metric}, but dataset.probe_data is not set. Set it to a folder "
            "with train.tsv and train.ltr of transcribed speech.",
            "best-checkpoint",
        )
        return
    known = _logged_in_validation(cfg)
    if known is not None:
        known += probed
    if known is not None and metric not in known:
        near = get_close_matches(metric, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        name = cfg.criterion._name
        yield wrong(
            f"checkpoint.best_checkpoint_metric is {metric!r}, which criterion {name} does not log.{hint} It logs "
            f"{', '.join(known)}.",
            "best-checkpoint",
        )
    if known is None and metric in ("wer", "uer") and not (cfg.task.get("eval_wer") or cfg.task.get("eval_uer")):
        yield wrong(
            f"checkpoint.best_checkpoint_metric is {metric!r}, but criterion {cfg.criterion._name} does not count "
            f"errors. Set task.eval_{metric}=true, or use criterion ctc, which always counts them.",
            "best-checkpoint",
        )
    if (metric in ("accuracy", "f1") or metric.endswith("_accuracy")) and not larger:
        yield odd(
            f"checkpoint.best_checkpoint_metric is {metric} and checkpoint.maximize_best_checkpoint_metric is false: "
            "the worst checkpoint would be kept. Set checkpoint.maximize_best_checkpoint_metric=true.",
            "best-checkpoint",
        )
    if larger and (metric.startswith("loss") or metric.split("_")[-1] in ("loss", "wer", "uer", "cer", "eer")):
        yield odd(
            f"checkpoint.maximize_best_checkpoint_metric is true and checkpoint.best_checkpoint_metric is {metric}: "
            "the worst checkpoint would be kept. Set checkpoint.maximize_best_checkpoint_metric=false.",
            "best-checkpoint",
        )


def probe(cfg: DictConfig) -> Iterator[Finding]:
    """The probe needs a pre-training model, whole on the process that probes it."""
    if cfg.dataset.probe_data is None:
        return
    if not (named(cfg.model, "wav2vec2") and named(cfg.task, "audio_pretraining")):
        yield wrong(
            f"dataset.probe_data is set, but the model is {cfg.model._name} and the task {cfg.task._name}. The probe "
            "measures pre-training: model wav2vec2 with task audio_pretraining. Set dataset.probe_data=null.",
            "probe",
        )
    if str(cfg.distributed_training.ddp_backend) == "fully_sharded":
        yield wrong(
            "dataset.probe_data is set, but distributed_training.ddp_backend is fully_sharded: no process has the "
            "whole model. Set dataset.probe_data=null, and run fairseq-probe on the checkpoints.",
            "probe",
        )


def _logged_in_validation(cfg: DictConfig) -> list[str] | None:
    """The metrics that this package's criterions log in validation; None for a plug-in's criterion."""
    if named(cfg.criterion, "wav2vec"):
        accuracy = ["accuracy"] if cfg.criterion.infonce else []
        own = [*_ALWAYS_LOGGED, *_parts_of_loss(cfg), *accuracy, *cfg.criterion.log_keys]
        return own + _of_corpora(cfg, ["loss", *accuracy])
    if named(cfg.criterion, "ctc"):
        return [*_ALWAYS_LOGGED, *_CTC_LOGS, *_of_corpora(cfg, ["loss", "uer", "wer"])]
    if named(cfg.criterion, "classification"):
        return [*_ALWAYS_LOGGED, "accuracy", "f1", "eer", *_of_corpora(cfg, ["loss", "accuracy"])]
    return None


def _of_corpora(cfg: DictConfig, names: list[str]) -> list[str]:
    """The metrics of each corpus of task.multi_corpus_keys, such as german_loss."""
    keys = None if cfg.task is None else cfg.task.get("multi_corpus_keys")
    corpora = [name.strip() for name in (keys or "").split(",")]
    return [f"{corpus_metric(corpus)}_{name}" for corpus in corpora if len(corpora) > 1 for name in names]


def _parts_of_loss(cfg: DictConfig) -> list[str]:
    """loss_0, loss_1 ...: the contrastive loss, and the further losses with a weight other than 0."""
    weights = list(cfg.criterion.loss_weights or [])
    if len(weights) == 1 and named(cfg.model, "wav2vec2") and cfg.model.quantize_targets:
        weights *= 2  # one for diversity and feature penalty
    further = sum(weight != 0 for weight in weights)
    return [f"loss_{number}" for number in range(further + 1)] if further else []


# -- model and criterion -----------------------------------------------------------------------------------------------


def normalised_audio(cfg: DictConfig) -> Iterator[Finding]:
    """Audio should be normalised as for the published models."""
    model, task = cfg.model, cfg.task
    if not (named(model, "wav2vec2") and named(task, *_AUDIO_TASKS)):
        return
    if model.extractor_mode == "layer_norm" and not task.normalize:
        yield odd(
            "model.extractor_mode is layer_norm but task.normalize is false: the published models of this kind use "
            "normalised audio.",
            "wav2vec2-widths",
        )


def contrast(cfg: DictConfig) -> Iterator[Finding]:
    """There must be negatives, and one weight for each of the model's further losses."""
    model, criterion = cfg.model, cfg.criterion
    if not (named(model, "wav2vec2") and named(criterion, "wav2vec")):
        return
    negatives = model.num_negatives + model.cross_sample_negatives + model.codebook_negatives
    if criterion.infonce and negatives == 0:
        yield wrong(
            "model.num_negatives, cross_sample_negatives and codebook_negatives are all 0: the loss would always be "
            "0. Set one of them above 0.",
            "contrast",
        )
    if not criterion.infonce:
        yield odd(
            "criterion.infonce is false: the loss is a binary cross-entropy of each candidate. For the paper's loss, "
            "set criterion.infonce=true.",
            "contrast",
        )
    losses = ["diversity", "feature penalty"] if model.quantize_targets else ["feature penalty"]
    if criterion.loss_weights is not None and len(criterion.loss_weights) not in (1, len(losses)):
        yield wrong(loss_weights_problem(criterion.loss_weights, len(losses), f" ({', '.join(losses)})"), "contrast")


def loss_weights_problem(weights: Sequence[float], losses: int, named_so: str = "") -> str:
    """The error for `criterion.loss_weights` whose length does not match the model's further losses.

    Args:
        named_so: " (diversity, feature penalty)", if their names are known.
    """
    return (
        f"criterion.loss_weights is {list(weights)}: this model has {losses} further losses{named_so}, so it must "
        f"have {losses} weights, or 1 for all of them."
    )


def trains(cfg: DictConfig) -> Iterator[Finding]:
    """Model and task must be ones that train, not ones that only open files; adapters are trained in fine-tuning."""
    if named(cfg.model, "wav2vec2") and (cfg.model.layer_type == "trf_adp" or cfg.model.adp_num > 0):
        yield wrong(
            f"model.layer_type is {str(cfg.model.layer_type)!r} and model.adp_num is {cfg.model.adp_num}: adapters are "
            "not part of pre-training here. Leave them at their defaults.",
            "fine-tuning",
        )
    for group in ("model", "task"):
        dataclass = None if cfg[group] is None else CONFIG_GROUPS[group].get(cfg[group].get("_name"))
        if dataclass is None or not issubclass(dataclass, FairseqDataclass):  # a plug-in's can be any dataclass
            continue
        instead = dataclass.only_opens()
        if instead is not None:
            yield wrong(f"{group}._name={cfg[group]._name} cannot be trained here: {instead}", "fine-tuning")


def fine_tuning(cfg: DictConfig) -> Iterator[Finding]:
    """Fine-tuning needs its own model, task and criterion, and settings that suit them."""
    model, task, criterion = cfg.model, cfg.task, cfg.criterion
    found = {
        use: [named(cfg[group], name) for group, name in zip(_GROUPS, names, strict=True)]
        for use, names in _PARTS.items()
    }
    used = [use for use, parts in found.items() if any(parts)]
    if len(used) > 1:
        told = ", ".join(f"{group}._name={cfg[group]._name}" for group in _GROUPS)
        needs = [
            f"{use} needs model {m}, task {t} and criterion {c}" for use, (m, t, c) in _PARTS.items() if use in used[1:]
        ]
        yield wrong(f"{told} do not go together: {'; '.join(needs)}.", "fine-tuning")
        return
    parts = dict(zip(_GROUPS, found["fine-tuning"], strict=True))
    if parts["task"] and not task.labels:
        yield wrong(
            "task.labels is not set: fine-tuning reads the labels of train.tsv from train.<labels>. The stock "
            "configs use task.labels=ltr.",
            "fine-tuning",
        )
    if parts["criterion"] and parts["task"] and task.labels in ("wrd", "phn") and criterion.post_process == "letter":
        yield odd(
            f"criterion.post_process is letter but task.labels is {task.labels}: these units are not letters, so wer "
            "would compare whole utterances. Set criterion.post_process=none.",
            "fine-tuning",
        )
    if named(task, "audio_finetuning", "audio_classification") and task.inferred_w2v_config is not None:
        yield odd(
            "task.inferred_w2v_config has no effect in fine-tuning: masks follow the model's settings.", "fine-tuning"
        )
    if not named(model, "wav2vec_ctc", "wav2vec_classification"):
        return
    max_update, frozen = cfg.optimization.max_update, model.freeze_finetune_updates
    if 0 < max_update <= frozen:
        yield odd(
            f"model.freeze_finetune_updates is {frozen} and optimization.max_update is {max_update}: only the output "
            "layer is trained. Set model.freeze_finetune_updates=0 for short runs.",
            "fine-tuning",
        )
    if cfg.common.hpu_compile == "hpu_graphs" and frozen > 0 and (max_update <= 0 or frozen < max_update):
        yield wrong(
            "common.hpu_compile is hpu_graphs, which captures the first updates, when "
            f"model.freeze_finetune_updates ({frozen}) freezes the encoder. Set model.freeze_finetune_updates=0, or "
            "common.hpu_compile=none.",
            "fine-tuning",
        )
    layers, width = model.conv_feature_layers, model.encoder_embed_dim
    defaults = CONFIG_GROUPS["model"][model._name].field_defaults()
    if (layers, width) != (defaults["conv_feature_layers"], defaults["encoder_embed_dim"]):
        yield odd(
            "model.conv_feature_layers and model.encoder_embed_dim have no effect in fine-tuning: they come from the "
            "pre-trained model.",
            "fine-tuning",
        )


# -- files -------------------------------------------------------------------------------------------------------------


def manifests(cfg: DictConfig) -> Iterator[Finding]:
    """The data folder, its manifests and label files must exist."""
    task, dataset = cfg.task, cfg.dataset
    if not named(task, *_AUDIO_TASKS) or OmegaConf.is_missing(task, "data"):
        return
    folder = Path(task.data).expanduser()
    if not folder.is_dir():
        yield wrong(
            f"task.data is {task.data!r}: there is no such folder{from_here(folder)}. Give the folder that "
            "fairseq-manifest wrote.",
            "manifests",
        )
        return
    subsets = {"dataset.train_subset": dataset.train_subset}
    if not (dataset.disable_validation or dataset.combine_valid_subsets):
        subsets["dataset.valid_subset"] = dataset.valid_subset
    corpora = [key.strip() for key in (task.multi_corpus_keys or "").split(",") if key.strip()]
    if any(Path(key).is_absolute() for key in corpora):
        return  # the task's own rule says so
    there = sorted(
        {
            str(path.relative_to(folder)).removesuffix(".gz").removesuffix(".tsv")
            for place in ("", *(f"{key}/" for key in corpora))
            for pattern in (f"{place}*.tsv", f"{place}*.tsv.gz")
            for path in folder.glob(pattern)
        }
    )
    # labels of classes can also be in a table or in the paths
    elsewhere = named(task, "audio_classification") and (task.label_table or task.label_pattern)
    label_files = None if elsewhere else task.labels
    for key, names in subsets.items():
        for name in names.split(","):
            stem = name.split(":")[-1].strip()  # several corpora: key:name, else <key>/<name> of each
            for place in [stem] if ":" in name or not corpora else [f"{corpus}/{stem}" for corpus in corpora]:
                yield from _manifest(folder, place, f"{key} is {name!r}", there, label_files)
    if label_files and not named(task, "audio_classification"):  # which can take its classes from the labels
        dictionary = Path(task.get("target_dictionary") or folder / f"dict.{task.labels}.txt").expanduser()
        if not dictionary.is_file():
            key = "task.target_dictionary" if task.get("target_dictionary") else "task.labels"
            yield wrong(
                f"{key} requires the dictionary {dictionary}, which does not exist{from_here(dictionary)}. "
                "fairseq-prepare-labels writes it with the labels.",
                "manifests",
            )


def _manifest(folder: Path, place: str, asked: str, there: list[str], labels: str | None) -> Iterator[Finding]:
    """One manifest, and its label file if the task has labels."""
    if place not in there:
        has = (
            f"the folder has {', '.join(there)}"
            if there
            else "the folder has no .tsv files. Make them with fairseq-manifest"
        )
        yield wrong(f"{asked} but {folder / place}.tsv does not exist: {has}.", "manifests")
    elif labels and not (folder / f"{place}.{labels}").is_file():
        yield wrong(
            f"task.labels is {labels!r} but {folder / place}.{labels} does not exist. It must have one line of units "
            f"for each utterance of {place}.tsv; fairseq-prepare-labels makes it from transcripts. With task "
            "audio_classification, each line is one label.",
            "manifests",
        )


RULES: tuple[Callable[[DictConfig], Iterator[Finding]], ...] = (
    kept_graphs,
    exchanges,
    whole_utterances,
    rates,
    best_checkpoint,
    probe,
    normalised_audio,
    contrast,
    trains,
    fine_tuning,
)
