"""A wav2vec 2.0 model independent of file formats: config as plain values, tensors with fairseq's names."""

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
    """The output layer that fine-tuning adds."""

    weights: dict[str, Tensor]  # weight V x C and bias V
    symbols: list[str]  # meaning of its rows, blank first
    settings: dict[str, Any]  # of the `wav2vec_ctc` config
    their_rows: list[int | None] | None = None  # row of each symbol in the source file; None: unchanged


class PortableModel(NamedTuple):
    """A pre-trained or fine-tuned model."""

    config: dict[str, Any]  # every field of Wav2Vec2Config
    task: dict[str, Any]  # normalize, sample_rate
    encoder: dict[str, Tensor]  # with Wav2Vec2Model's names; without the pre-training heads if fine-tuned
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
    if settings["_name"] == "wav2vec2":
        return model
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
    kept = {name: tensor for name, tensor in model.encoder.items() if not Wav2Vec2Model.is_pretraining_only(name)}
    return model._replace(encoder=kept)


def _encoder_in(state: dict[str, Any], path: str) -> tuple[PortableModel, pretrained.Pretrained]:
    cfg = state.get("cfg") or {}
    kind = (cfg.get("model") or {}).get("_name")
    if kind not in ("wav2vec2", "wav2vec_ctc"):
        raise ValueError(f"{path} has model._name={kind!r}; it must be one of: wav2vec2, wav2vec_ctc")
    source = pretrained.split(path, cfg, state)
    task = {
        "normalize": pretrained.normalizes(source.w2v_args),
        "sample_rate": (cfg.get("task") or {}).get("sample_rate", 16_000),
    }
    return PortableModel(complete_config(source.w2v_args["model"]), task, source.encoder), source


def complete_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return all fields of Wav2Vec2Config, with defaults for those missing from `values`."""
    return {
        **config_to_container(merge_with_parent(Wav2Vec2Config(), dict(values), remove_missing=True)),
        "_name": "wav2vec2",
    }


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
) -> tuple[dict[str, Tensor], set[str], set[str]]:
    """Take an encoder's tensors from another tool's file.

    Tensors that the tool's encoders can lack (mask embedding, pre-training heads) are initialized with a fixed seed.

    Args:
        weights: tensors with the other tool's names; parts of weight norms are called weight_g and weight_v.
        name_there: maps our names to theirs.
    Returns:
        Tensors with our names in our order; names of the newly initialized ones; unused names in the file.
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
    """Build the model, in eval mode.

    Raises:
        ValueError: the weights do not match the config.
    """
    state = to_checkpoint(source)
    task = None if source.output is None else _Task(source.output.symbols)
    with bounded.by(state["model"]):
        model = cast(Wav2VecCtc | Wav2Vec2Model, build_model(state["cfg"]["model"], task))
    try:
        model.load_state_dict(state["model"], strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights do not match the config: {error}") from error
    return model.eval()


def to_checkpoint(source: PortableModel) -> dict[str, Any]:
    """Return the checkpoint that training this model would write, without optimizer state."""
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
    """Run the model on audio B x S.

    Returns:
        Fine-tuned: logits, B x T x V. Pre-trained: predictions and quantized targets, B x T x D, or with `encoder_only`
        the encoder's features, B x T x C.
    """
    if isinstance(model, Wav2VecCtc):
        return [model(source=waveform, padding_mask=None)["encoder_out"].transpose(0, 1)]
    features = model(waveform, mask=False, features_only=True)["x"]
    if encoder_only:
        return [features]
    assert model.final_proj is not None and model.project_q is not None  # only fine-tuning drops them
    return [model.final_proj(features), model.project_q(model.quantize(waveform)[0])]
