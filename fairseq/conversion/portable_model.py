"""An audio model independent of file formats: config as plain values, tensors with fairseq's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from fairseq.conversion import names
from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.initialize import resolve_config
from fairseq.dataclass.utils import config_to_container, merge_with_parent
from fairseq.models import bounded, build_model, kinds
from fairseq.models.wav2vec import pretrained
from fairseq.models.wav2vec.audio_model import AudioModel
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc


class OutputLayer(NamedTuple):
    """The output layer that fine-tuning adds."""

    weights: dict[str, Tensor]  # weight V x C and bias V
    symbols: list[str]  # meaning of its rows, blank first
    settings: dict[str, Any]  # of the config of the model with an output layer, and its _name (default: wav2vec_ctc)
    their_rows: list[int | None] | None = None  # row of each symbol in the source file; None: unchanged
    language: str | None = None  # the chosen one of a file with several


class PortableModel(NamedTuple):
    """A pre-trained or fine-tuned model."""

    config: dict[str, Any]  # every field of the model's config class, and _name
    task: dict[str, Any]  # normalize, sample_rate
    encoder: dict[str, Tensor]  # with fairseq's names; without what only pre-training needs if fine-tuned
    output: OutputLayer | None = None  # None: pre-trained
    has_new_parts: bool = False  # pre-training heads are newly initialized: the source file had only an encoder

    @property
    def is_fine_tuned(self) -> bool:
        return self.output is not None


def from_checkpoint(state: dict[str, Any], path: str) -> PortableModel:
    """Extract the model from a checkpoint read by `fairseq.checkpoint.io.load`; low-rank updates are merged.

    Raises:
        ValueError: the model is of another kind, or fine-tuned but without its output layer or dictionary.
    """
    model, source = _encoder_in(state, path)
    settings = state["cfg"]["model"]
    if not kinds.fine_tuned(settings["_name"]):
        return model
    if not kinds.transcribes(settings["_name"]):
        raise ValueError(f"{path} holds a model of kind {settings['_name']!r}, which no other format here can hold")
    if source.head is None:
        raise ValueError(f"{path} is fine-tuned but has no output layer")
    if source.symbols is None:
        raise ValueError(
            f"{path} is fine-tuned but has no dictionary: give one with --dict (dict.ltr.txt in the folder of the "
            "labels)"
        )
    if len(source.symbols) != (rows := source.head["weight"].size(0)):
        raise ValueError(
            f"the dictionary has {len(source.symbols)} symbols, but the output layer of {path} has {rows} rows"
        )
    settings = {**{key: value for key, value in settings.items() if key != "w2v_args"}, "tuning": "all"}
    return model._replace(output=OutputLayer(source.head, source.symbols, settings))


def encoder_in(state: dict[str, Any], path: str) -> PortableModel:
    """Extract only the encoder of a checkpoint, pre-trained or fine-tuned, as a model without an output layer.

    Raises:
        ValueError: the model is of another kind.
    """
    model, _ = _encoder_in(state, path)
    cls = kinds.encoder_of({"model": model.config})
    kept = {name: tensor for name, tensor in model.encoder.items() if not cls.is_pretraining_only(name)}
    return model._replace(encoder=kept)


def _encoder_in(state: dict[str, Any], path: str) -> tuple[PortableModel, pretrained.Pretrained]:
    cfg = state.get("cfg") or {}
    model = cfg.get("model") or {}
    kind = model.get("_name")
    fine_tuned = kinds.fine_tuned(kind)
    if kind is None or not (fine_tuned or kinds.encoder(kind)):
        raise ValueError(f"{path} has model._name={kind!r}; it must be one of: {kinds.names(with_fine_tuned=True)}")
    source = pretrained.split(path, cfg, state)
    args = source.w2v_args
    if fine_tuned:  # which can add adapters
        adapters = {key: model[key] for key in model if key in pretrained.ADAPTERS}
        args = pretrained.encoder_args(pretrained.settings_of({**adapters, "w2v_args": args}))
    config = complete_config(args["model"])
    cls = kinds.encoder_of({"model": config})
    encoder = {
        name: tensor
        for name, tensor in source.encoder.items()
        # data2vec's files have a teacher, which is not one tensor
        if isinstance(tensor, Tensor) and not (fine_tuned and cls.is_pretraining_only(name))
    }
    task = {
        "normalize": pretrained.normalizes(source.w2v_args),
        "sample_rate": (cfg.get("task") or {}).get("sample_rate", 16_000),
    }
    return PortableModel(config, task, encoder), source


def complete_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return all fields of a model's config, with defaults for those missing from `values`.

    Raises:
        ValueError: `_name` is no audio model; missing, it is wav2vec2.
    """
    name = values.get("_name") or "wav2vec2"
    config = kinds.encoder_of({"model": {"_name": name}}).config_class()
    return {**config_to_container(merge_with_parent(config, dict(values), remove_missing=True)), "_name": name}


def dictionary_from(symbols: list[str]) -> Dictionary:
    """Build a dictionary with exactly these symbols; the first four are the special ones."""
    bos, pad, eos, unk = symbols[:4]
    counts = [1] * len(symbols)
    return Dictionary.from_state_dict(
        {"symbols": symbols, "count": counts, "nspecial": 4, "bos": bos, "pad": pad, "eos": eos, "unk": unk}
    )


class _Task:
    """The parts of a task that a fine-tuned model uses."""

    def __init__(self, symbols: list[str]) -> None:
        self.target_dictionary = dictionary_from(symbols)


def encoder_of(
    config: Mapping[str, Any],
    fine_tuned: bool,
    weights: Mapping[str, Tensor],
    name_there: Callable[[Iterable[str]], dict[str, str]],
    path: str,
    has_heads: bool = True,
) -> tuple[dict[str, Tensor], set[str], set[str]]:
    """Take an encoder's tensors from another tool's file.

    Tensors that the tool's encoders can lack (mask embedding, pre-training heads) are initialized with a fixed seed.

    Args:
        weights: tensors with the other tool's names; parts of weight norms are called weight_g and weight_v.
        name_there: maps our names to theirs.
        has_heads: the tool has names for what only pre-training needs.
    Returns:
        Tensors with our names in our order; names of the newly initialized ones; unused names in the file.
    Raises:
        ValueError: other tensors are missing.
    """
    with torch.device("meta"), bounded.by(weights):
        model = cast(AudioModel, build_model(config))
    if fine_tuned:
        model.remove_pretraining_modules()
    here = model.state_dict()
    objective = {name for name in here if model.is_pretraining_only(name)}
    shared = [name for name in here if has_heads or name not in objective]
    translated = name_there(shared)
    missing = {name for name in here if translated.get(name) not in weights}
    needed = sorted(translated[name] for name in missing if name != "mask_emb" and name not in objective)
    if needed:
        raise ValueError(f"{path} lacks the tensors {', '.join(needed[:5])}{' ...' if len(needed) > 5 else ''}")
    fresh = _fresh(config) if missing else {}
    found = {
        name: fresh[name] if name in missing else names.like(weights[translated[name]], like.shape)
        for name, like in here.items()
    }
    return found, missing, set(weights) - set(translated.values())


def _fresh(config: Mapping[str, Any]) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        # what is missing is never in a block: one is enough, and a large model is not built a second time
        return build_model({**config, "encoder_layers": 1}).state_dict()


def build(source: PortableModel) -> Wav2VecCtc | AudioModel:
    """Build the model, in eval mode.

    Raises:
        ValueError: the weights do not match the config.
    """
    state = to_checkpoint(source)
    task = None if source.output is None else _Task(source.output.symbols)
    with bounded.by(state["model"]):
        model = cast(Wav2VecCtc | AudioModel, build_model(state["cfg"]["model"], task))
    try:
        model.load_state_dict(dict(state["model"]), strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights do not match the config: {error}") from error
    return model.eval()


def to_checkpoint(source: PortableModel) -> dict[str, Any]:
    """Return the checkpoint that training this model would write, without optimizer state."""
    pretraining = {"model": source.config, "task": {**_pretraining_task(source.config), **source.task}}
    if source.output is None:
        criterion = {"_name": "wav2vec", "infonce": True, "loss_weights": [0.1, 10.0]}
        cfg, model, task_state = {**pretraining, "criterion": criterion}, dict(source.encoder), {}
    else:
        settings = {
            "_name": "wav2vec_ctc",
            **source.output.settings,
            "w2v_args": pretraining,
            "normalize": source.task["normalize"],
        }
        settings.setdefault("w2v_path", "")
        cfg = {"model": settings, "task": {"_name": "audio_finetuning", "labels": "ltr", **source.task}}
        model = {pretrained.ENCODER + name: tensor for name, tensor in source.encoder.items()}
        model |= {pretrained.HEAD + name: tensor for name, tensor in source.output.weights.items()}
        task_state = {"target_symbols": dictionary_from(source.output.symbols).state_dict()}
    whole = config_to_container(resolve_config(cfg, remove_missing=True))
    return {
        "args": None,
        "cfg": whole,
        "model": model,
        "optimizer_history": [],
        "task_state": task_state,
        "extra_state": {},
    }


def _pretraining_task(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the task that opens such a pre-trained model."""
    name = kinds.encoder_of({"model": config}).pretraining_task
    rate = {"label_rate": config["label_rate"]} if "label_rate" in config else {}
    return {"_name": name, **rate}


@torch.no_grad()
def outputs(model: Wav2VecCtc | AudioModel, waveform: Tensor, encoder_only: bool = False) -> list[Tensor]:
    """Run the model on audio B x S.

    Returns:
        Fine-tuned: logits, B x T x V. Pre-trained wav2vec 2.0: predictions and quantized targets, B x T x D. Other
        pre-trained models, or with `encoder_only`: the encoder's features, B x T x C.
    """
    if isinstance(model, Wav2VecCtc):
        return [model(source=waveform, padding_mask=None)["encoder_out"].transpose(0, 1)]
    features = model.encode(waveform, features_only=True).context
    if encoder_only or not isinstance(model, Wav2Vec2Model):
        return [features]
    assert model.final_proj is not None and model.project_q is not None  # only fine-tuning drops them
    return [model.final_proj(features), model.project_q(model.quantize(waveform)[0])]
