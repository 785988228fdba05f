"""A wav2vec 2.0 model apart from any tool's file format: configs as plain values, tensors under fairseq's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.initialize import resolve_config
from fairseq.dataclass.utils import config_to_container, merge_with_parent
from fairseq.models import bounded, build_model
from fairseq.models.wav2vec import pretrained
from fairseq.models.wav2vec.config import Wav2Vec2Config
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc


class OutputLayer(NamedTuple):
    """What fine-tuning added."""

    weights: dict[str, Tensor]  # weight V x C and bias V
    symbols: list[str]  # what its rows mean, the blank first
    settings: dict[str, Any]  # of the `wav2vec_ctc` config
    their_rows: list[int | None] | None = None  # the row of each symbol in the file that this came from; None: the same


class PortableModel(NamedTuple):
    """Pre-trained, or with an output layer over a dictionary's symbols."""

    config: dict[str, Any]  # every field of Wav2Vec2Config
    task: dict[str, Any]  # normalize, sample_rate
    encoder: dict[str, Tensor]  # under Wav2Vec2Model's names, of a fine-tuned model without the pre-training's heads
    output: OutputLayer | None = None  # None: pre-trained
    has_new_parts: bool = False  # the other tool's file had an encoder only; heads of the pre-training are new

    @property
    def is_fine_tuned(self) -> bool:
        return self.output is not None


def from_checkpoint(state: dict[str, Any], path: str) -> PortableModel:
    """The model in a checkpoint that `fairseq.checkpoint.io.load` read.

    Raises:
        ValueError: another kind of model, or a fine-tuned one without its dictionary; the message names it.
    """
    cfg = state.get("cfg") or {}
    model = cfg.get("model") or {}
    kind = model.get("_name")
    if kind not in ("wav2vec2", "wav2vec_ctc"):
        raise ValueError(f"{path} holds a model of kind {kind!r}: only wav2vec2 and wav2vec_ctc can be converted")
    source = pretrained.split(path, cfg, state)
    config = complete_config(source.w2v_args["model"])
    task = {
        "normalize": pretrained.normalizes(source.w2v_args),
        "sample_rate": (cfg.get("task") or {}).get("sample_rate", 16_000),
    }
    if kind == "wav2vec2":
        return PortableModel(config, task, source.encoder)
    if source.head is None:
        raise ValueError(f"{path} is fine-tuned, but has no output layer")
    if source.symbols is None:
        raise ValueError(
            f"{path} is fine-tuned and holds no dictionary: give its file with --dict (dict.ltr.txt of the labels' "
            "folder)"
        )
    if len(source.symbols) != (rows := source.head["weight"].size(0)):
        raise ValueError(f"the dictionary has {len(source.symbols)} symbols, the output layer of {path} {rows} rows")
    settings = {key: value for key, value in model.items() if key != "w2v_args"}
    return PortableModel(config, task, source.encoder, OutputLayer(source.head, source.symbols, settings))


def complete_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of Wav2Vec2Config, those that `values` lacks at their defaults."""
    return {
        **config_to_container(merge_with_parent(Wav2Vec2Config(), dict(values), remove_missing=True)),
        "_name": "wav2vec2",
    }


def dictionary_from(symbols: list[str]) -> Dictionary:
    """A dictionary with these symbols as they stand, the four special ones first."""
    bos, pad, eos, unk = symbols[:4]
    counts = [1] * len(symbols)
    return Dictionary.from_state_dict(
        {"symbols": symbols, "count": counts, "nspecial": 4, "bos": bos, "pad": pad, "eos": eos, "unk": unk}
    )


class _Task:
    """All that a fine-tuned model asks of its task."""

    def __init__(self, symbols: list[str]) -> None:
        self.target_dictionary = dictionary_from(symbols)


def encoder_of(
    config: Mapping[str, Any],
    fine_tuned: bool,
    weights: Mapping[str, Tensor],
    name_there: Callable[[Iterable[str]], dict[str, str]],
    path: str,
) -> tuple[dict[str, Tensor], set[str], set[str]]:
    """An encoder's tensors out of another tool's file.

    What that tool's encoders may not have (the mask embedding, heads of the pre-training) is then new, the same every
    time.

    Args:
        weights: under the other tool's names, the weight norm's parts called weight_g and weight_v.
        name_there: our names -> theirs, for each.
    Returns:
        the tensors under our names and in our order; names of those that are new; names in the file that were not used.
    Raises:
        ValueError: other tensors are missing.
    """
    with torch.device("meta"), bounded.by(weights):
        model = cast(Wav2Vec2Model, build_model({**config, "_name": "wav2vec2"}))
    if fine_tuned:
        model.remove_pretraining_modules()
    translated = name_there(model.state_dict())
    missing = {ours for ours, theirs in translated.items() if theirs not in weights}
    needed = sorted(
        translated[name] for name in missing if name != "mask_emb" and not name.startswith(pretrained.PRETRAINING_ONLY)
    )
    if needed:
        raise ValueError(f"{path} lacks the tensors {', '.join(needed[:5])}{' ...' if len(needed) > 5 else ''}")
    fresh = _fresh(config) if missing else {}
    found = {ours: fresh[ours] if ours in missing else weights[theirs] for ours, theirs in translated.items()}
    return found, missing, set(weights) - set(translated.values())


def _fresh(config: Mapping[str, Any]) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build_model({**config, "_name": "wav2vec2"}).state_dict()


def build(source: PortableModel) -> Wav2VecCtc | Wav2Vec2Model:
    """The model itself, in eval mode.

    Raises:
        ValueError: weights that do not fit the config.
    """
    state = to_checkpoint(source)
    task = None if source.output is None else _Task(source.output.symbols)
    with bounded.by(state["model"]):
        model = cast(Wav2VecCtc | Wav2Vec2Model, build_model(state["cfg"]["model"], task))
    try:
        model.load_state_dict(state["model"], strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the config: {error}") from error
    return model.eval()


def to_checkpoint(source: PortableModel) -> dict[str, Any]:
    """The checkpoint that a run of this model would have written, without an optimizer state."""
    pretraining = {"model": source.config, "task": {"_name": "audio_pretraining", **source.task}}
    if source.output is None:
        criterion = {"_name": "wav2vec", "infonce": True, "loss_weights": [0.1, 10.0]}
        cfg, model, task_state = {**pretraining, "criterion": criterion}, dict(source.encoder), {}
    else:
        settings = {
            **source.output.settings,
            "_name": "wav2vec_ctc",
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


@torch.no_grad()
def outputs(model: Wav2VecCtc | Wav2Vec2Model, waveform: Tensor, encoder_only: bool = False) -> list[Tensor]:
    """What the model makes of audio B x S.

    Returns:
        of a fine-tuned one the logits B x T x V; else predictions and quantized targets B x T x D, or with
        `encoder_only` the encoder's features B x T x C.
    """
    if isinstance(model, Wav2VecCtc):
        return [model(source=waveform, padding_mask=None)["encoder_out"].transpose(0, 1)]
    features = model(waveform, mask=False, features_only=True)["x"]
    if encoder_only:
        return [features]
    assert model.final_proj is not None and model.project_q is not None  # only fine-tuning drops them
    return [model.final_proj(features), model.project_q(model.quantize(waveform)[0])]
