"""Give an encoder a language's adapter and output layer, whatever wrote them.

`FORMATS` has a reader for each kind of file; fairseq's MMS checkpoints have their languages inside. All readers return
an `Adapter`, whose tensors have fairseq's names, and `apply` does not ask where it came from.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from fairseq.conversion import adapter_file, hf_folder, names, vocabulary
from fairseq.conversion.adapter_file import HEAD, fingerprint, part
from fairseq.conversion.hf_folder import ReadPickle
from fairseq.conversion.portable_model import OutputLayer, PortableModel
from fairseq.models.wav2vec import pretrained, tuning
from fairseq.modules.lora import DOWN, UP
from fairseq.text_files import MissingFileError

logger = logging.getLogger(__name__)

State = Mapping[str, Any]  # a checkpoint; its entry `adapter` has MMS' languages
_OF_BLOCK = re.compile(r"\.layers\.(\d+)\.adapter_layer\.")


class Adapter(NamedTuple):
    """What is specific to a language: parts of the encoder, and the output layer with its symbols."""

    source: str  # for messages
    tensors: dict[str, Tensor]  # of the encoder
    head: dict[str, Tensor]  # weight V x C and bias V
    symbols: list[str]
    config: dict[str, Any]  # of the blocks' adapters; {}: as the encoder's config has them
    settings: dict[str, Any]  # of the fine-tuning config
    task: dict[str, Any]  # normalize, sample_rate; {}: the encoder's
    encoder: str | None = None  # fingerprint of the encoder that it was trained with; None: not recorded
    language: str | None = None


# -- finding one -------------------------------------------------------------------------------------------------------


def opened(name: str, model: str, state: State | None, read_pickle: ReadPickle) -> Adapter:
    """Read the adapter that `--adapter NAME` means.

    Args:
        name: a file, or a language: one inside the checkpoint, else that of a file adapter.NAME.safetensors or .bin
            beside it.
        model: path of the checkpoint, or of a folder with a model.
        state: the checkpoint; None for a folder.
        read_pickle: the restricted reader of checkpoints, for .bin files.
    Raises:
        MissingFileError: neither a file nor a language has this name; the message lists the languages.
        ValueError: the file is damaged, or is not an adapter.
    """
    if os.path.isfile(name):
        return _read(Path(name), read_pickle)
    inside = languages_in(state)
    if name in inside:
        assert state is not None
        return _from_fairseq(state, name, model)
    folder = Path(model) if os.path.isdir(model) else Path(model).parent
    for file in hf_folder.adapter_files(name):
        if (folder / file).is_file():
            return _read(folder / file, read_pickle)
    known = {*inside, *(hf_folder.languages_in(folder) if folder.is_dir() else [])}
    missing = f"no {folder / hf_folder.adapter_files(name)[0]}"
    raise MissingFileError(
        f"--adapter {name}: there is no such file, {missing}, and no such language in {model}."
        + (f" The languages are: {hf_folder.listed(known, name)}." if known else "")
    )


def languages_in(state: State | None) -> list[str]:
    """List the languages inside a checkpoint, as in MMS' files.

    Raises:
        ValueError: the entry `adapter` is not what fairseq writes.
    """
    inside = (state or {}).get("adapter") or {}
    if not isinstance(inside, Mapping):
        raise ValueError("the checkpoint's entry adapter must be a dict: language -> its model and task_state")
    return sorted(str(language) for language in inside)


def _read(path: Path, read_pickle: ReadPickle) -> Adapter:
    if path.suffix not in FORMATS:
        raise ValueError(
            f"--adapter {path}: an adapter is a file of one of: {', '.join(FORMATS)}. For a checkpoint with several "
            "languages inside (MMS), set --path to it, and --adapter to the language."
        )
    return FORMATS[path.suffix](path, read_pickle)


# -- formats -----------------------------------------------------------------------------------------------------------


def _from_safetensors(path: Path, read_pickle: ReadPickle) -> Adapter:
    own = written(path)
    return _from_transformers(path, read_pickle) if own is None else own


def written(path: Path) -> Adapter | None:
    """Read a file that `fairseq-convert --to adapter` wrote; None: something else wrote it.

    Raises:
        ValueError: the file is damaged, or safetensors is not installed.
    """
    own = adapter_file.read(path)
    if own is None:
        return None
    tensors, about = own
    head = part(tensors, HEAD)
    parts = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEAD)}
    return Adapter(
        str(path), parts, head, about["symbols"], about["adapters"], about["settings"], about["task"], about["encoder"]
    )


def _from_transformers(path: Path, read_pickle: ReadPickle) -> Adapter:
    """Read a language's file of MMS' models in transformers; its symbols are in the vocab.json beside it."""
    theirs = hf_folder.tensors(str(path), read_pickle)
    blocks = {int(match[1]) for match in map(_OF_BLOCK.search, theirs) if match is not None}
    ours = [f"encoder.layers.{block}.adapter_layer.{part}" for block in sorted(blocks) for part in names.ADAPTER_PARTS]
    translated = names.WAV2VEC2_ADAPTERS.of(ours)
    head_prefix = names.WAV2VEC2_ADAPTERS.head
    head = {name: f"{head_prefix}{name}" for name in ("weight", "bias")}
    wrong = sorted({*translated.values(), *head.values()} ^ set(theirs))
    if wrong or not blocks:
        raise ValueError(
            f"{path} is not an adapter: neither one that fairseq-convert --to adapter wrote, nor one of transformers' "
            f"Wav2Vec2ForCTC, with the adapters of all blocks and lm_head{': see ' if wrong else ''}"
            f"{', '.join(wrong[:3])}"
        )
    if not (path.parent / "vocab.json").is_file():
        raise ValueError(f"{path} needs the vocab.json of its model beside it, which has the symbols of its outputs")
    tensors = {name: theirs[translated[name]].unsqueeze(0) for name in ours}
    language, weights = hf_folder.language_of(path), {name: theirs[there] for name, there in head.items()}
    words = hf_folder.vocabulary(str(path.parent), language)
    symbols, rows = vocabulary.to_symbols(words, len(weights["bias"]))
    config = {
        "layer_type": "trf_adp",
        "adp_num": 1,
        "adp_dim": tensors[ours[0]].size(1),
        "adp_act_fn": "relu",
        "adp_trf_idx": "all",
    }
    return Adapter(str(path), tensors, vocabulary.reordered(weights, rows), symbols, config, {}, {}, None, language)


# a file's ending -> its reader
FORMATS: dict[str, Callable[[Path, ReadPickle], Adapter]] = {
    ".safetensors": _from_safetensors,
    ".bin": _from_transformers,
}


def _from_fairseq(state: State, language: str, path: str) -> Adapter:
    """Take a language out of an MMS checkpoint: its `model` replaces parameters, its `task_state` has the symbols."""
    entry = state["adapter"][language]
    weights = entry.get("model") if isinstance(entry, Mapping) else None
    symbols = None if weights is None else pretrained.symbols_of(entry)
    source = f"{path}, language {language}"
    if not isinstance(weights, Mapping) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ValueError(f"{source}: its entry must have a dict of tensors, model")
    head = part(weights, pretrained.HEAD)
    if symbols is None or set(head) != {"weight", "bias"}:
        raise ValueError(f"{source}: its entry must have an output layer, {pretrained.HEAD}*, and a dictionary")
    settings = (pretrained.as_container(state["cfg"]).get("model") or {}) if state.get("cfg") else {}
    settings = {key: settings[key] for key in ("blank_weight", "blank_mode") if key in settings}
    return Adapter(source, part(weights, pretrained.ENCODER), head, symbols, {}, settings, {}, None, language)


# -- applying it -------------------------------------------------------------------------------------------------------


def apply(model: PortableModel, adapter: Adapter) -> PortableModel:
    """Give an encoder an adapter and its output layer; low-rank updates are merged into its weights.

    Raises:
        ValueError: it belongs to another encoder.
    """
    source = adapter.source
    if adapter.encoder is not None and fingerprint(model.encoder) != adapter.encoder:
        logger.warning("%s was trained with another encoder, or one of another precision: results may be wrong", source)
    base = {name: tensor for name, tensor in model.encoder.items() if not tuning.is_added(name)}
    for name, tensor in adapter.tensors.items():
        if not _fits(name, tensor, base):
            raise ValueError(f"{source} does not fit the model: it has {name} of shape {tuple(tensor.shape)}")
    # adapters that it brings replace all that the encoder has
    kept = base if any(map(tuning.is_adapter, adapter.tensors)) else model.encoder
    encoder = tuning.merged({**kept, **adapter.tensors}, adapter.settings)
    if len(adapter.head["weight"]) != len(adapter.symbols):
        raise ValueError(f"{source} has {len(adapter.head['weight'])} outputs for {len(adapter.symbols)} symbols")
    settings = {**adapter.settings, "tuning": "all"}
    output = OutputLayer(adapter.head, adapter.symbols, settings, language=adapter.language)
    config, task = {**model.config, **adapter.config}, {**model.task, **adapter.task}
    return model._replace(config=config, task=task, encoder=encoder, output=output)


def _fits(name: str, tensor: Tensor, base: Mapping[str, Tensor]) -> bool:
    """Whether a tensor of an adapter belongs to this encoder; adapters' own shapes are compared when it is built."""
    if name in base:
        return base[name].shape == tensor.shape
    layer, _, part = name.rpartition(".")
    if part in (DOWN, UP):
        weight = base.get(f"{layer}.weight")
        if weight is None or tensor.dim() != 2:
            return False
        return tensor.size(1) == weight.size(1) if part == DOWN else tensor.size(0) == weight.size(0)
    return tuning.is_adapter(name)
