"""Read and write weights of torchaudio's wav2vec 2.0.

A folder has model.pt, the state dict, and wav2vec2_model.json, the arguments to build the model. torchaudio's
`wav2vec2_model(**arguments)` has an encoder and an optional output layer, but no pre-training heads.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq.conversion import hf_config, names, portable_model, vocabulary
from fairseq.conversion.portable_model import OutputLayer, PortableModel, complete_config, encoder_of
from fairseq.frames import parse_conv_layers
from fairseq.models.wav2vec.pretrained import PRETRAINING_ONLY
from fairseq.utils import PICKLE_PROTOCOL

logger = logging.getLogger(__name__)

WEIGHTS, DESCRIPTION = "model.pt", "wav2vec2_model.json"

# fairseq's field -> torchaudio's argument, with the same value
_SAME = {
    "conv_bias": "extractor_conv_bias",
    "encoder_embed_dim": "encoder_embed_dim",
    "dropout_input": "encoder_projection_dropout",
    "conv_pos": "encoder_pos_conv_kernel",
    "conv_pos_groups": "encoder_pos_conv_groups",
    "encoder_layers": "encoder_num_layers",
    "encoder_attention_heads": "encoder_num_heads",
    "attention_dropout": "encoder_attention_dropout",
    "encoder_ffn_embed_dim": "encoder_ff_interm_features",
    "activation_dropout": "encoder_ff_interm_dropout",
    "dropout": "encoder_dropout",
    "layer_norm_first": "encoder_layer_norm_first",
    "encoder_layerdrop": "encoder_layer_drop",
}
# settings whose other values torchaudio's model does not have
_ONLY: dict[str, tuple[Any, ...]] = {
    "_name": ("wav2vec2",),
    "layer_type": ("transformer",),
    "pos_enc_type": ("abs",),
    "activation_fn": ("gelu",),
    "pos_conv_depth": (1,),
    "quantize_input": (False,),
    "target_glu": (False,),
    "quantizer_depth": (1,),
    "crop_seq_to_multiple": (1,),
}
_PROJECTION = "encoder.feature_projection.projection."


def is_folder(path: str | os.PathLike) -> bool:
    return os.path.isfile(os.path.join(path, DESCRIPTION))


def write(source: PortableModel, folder: str) -> None:
    """Write the files to `folder`, which must exist.

    Raises:
        ValueError: torchaudio cannot represent the model; the message names the settings.
    """
    hf_config.refuse(source, "torchaudio", _ONLY)
    config = source.config
    arguments = {theirs: config[ours] for ours, theirs in _SAME.items()} | {
        "extractor_mode": "layer_norm" if config["extractor_mode"] == "layer_norm" else "group_norm",
        "extractor_conv_layer_config": [list(layer) for layer in parse_conv_layers(config["conv_feature_layers"])],
        "aux_num_out": None if source.output is None else len(source.output.symbols),
    }
    left = [name for name in source.encoder if name == "mask_emb" or name.startswith(PRETRAINING_ONLY)]
    logger.info(f"tensors dropped, because torchaudio's model does not have them: {', '.join(left)}")
    translated = names.TORCHAUDIO.of(name for name in source.encoder if name not in left)
    weights = {theirs: source.encoder[ours].float() for ours, theirs in translated.items()}
    if f"{_PROJECTION}weight" not in weights:
        width = config["encoder_embed_dim"]
        weights |= {f"{_PROJECTION}weight": torch.eye(width), f"{_PROJECTION}bias": torch.zeros(width)}
    if source.output is not None:
        weights |= {names.TORCHAUDIO.head + name: tensor.float() for name, tensor in source.output.weights.items()}
    torch.save(weights, os.path.join(folder, WEIGHTS), pickle_protocol=PICKLE_PROTOCOL)
    description = {
        "arguments": arguments,
        "labels": None if source.output is None else source.output.symbols,
        **source.task,
    }
    Path(folder, DESCRIPTION).write_text(json.dumps(description, indent=2, ensure_ascii=False), encoding="utf-8")


def read(folder: str | os.PathLike, read_pickle: Callable[[str], Any]) -> PortableModel:
    """Read the model in a folder.

    Tensors that torchaudio's model does not have (mask embedding, pre-training heads) are newly initialized and logged.

    Args:
        read_pickle: the restricted reader of checkpoints, for model.pt.
    Raises:
        ValueError: the description is incomplete, or does not match the tensors.
    """
    folder = os.fspath(folder)
    description = _description(folder)
    arguments = description["arguments"]
    layers = [tuple(layer) for layer in arguments["extractor_conv_layer_config"]]
    values = {ours: arguments[theirs] for ours, theirs in _SAME.items()} | {
        "conv_feature_layers": str(layers),
        "extractor_mode": "layer_norm" if arguments["extractor_mode"] == "layer_norm" else "default",
    }
    weights = names.one_spelling(read_pickle(os.path.join(folder, WEIGHTS)))
    fine_tuned = "aux.weight" in weights
    config = complete_config({**values, "quantize_targets": True})
    head = {name: weights.pop(names.TORCHAUDIO.head + name) for name in ("weight", "bias")} if fine_tuned else {}
    if config["encoder_embed_dim"] == layers[-1][0]:
        _drop_identity(weights, folder)
    encoder, new, left_over = encoder_of(config, fine_tuned, weights, names.TORCHAUDIO.of, folder)
    if left_over:
        raise ValueError(f"{folder} has tensors that fairseq does not have: {', '.join(sorted(left_over)[:5])}")
    logger.info(f"{folder} lacks these tensors, which are newly initialized: {', '.join(sorted(new))}")
    task = {"normalize": description.get("normalize", False), "sample_rate": description.get("sample_rate", 16_000)}
    if not fine_tuned:
        return PortableModel(config, task, encoder, has_new_parts=True)
    symbols, rows = _symbols(description.get("labels"), head["bias"].size(0), os.path.join(folder, DESCRIPTION))
    return PortableModel(config, task, encoder, OutputLayer(vocabulary.reordered(head, rows), symbols, {}, rows))


def _symbols(labels: Any, num_rows: int, path: str) -> tuple[list[str], list[int | None]]:
    """Return the result of `vocabulary.to_symbols`; labels from a fairseq dictionary are kept unchanged.

    Those start with the four special symbols.
    """
    if not isinstance(labels, list) or len(labels) != num_rows or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{path} must have `labels`, a list of {num_rows} strings, one per output, blank first")
    if tuple(labels[:4]) == vocabulary.SPECIAL:
        return labels, list(range(num_rows))
    try:
        return vocabulary.to_symbols(vocabulary.from_labels(labels), num_rows)
    except ValueError as error:
        raise ValueError(f"{path}: `labels` cannot be converted to a dictionary: {error}") from error


def _drop_identity(weights: dict[str, Tensor], folder: str) -> None:
    """Drop the identity projection, which fairseq omits if extractor and encoder have equal widths."""
    weight, bias = weights.pop(f"{_PROJECTION}weight"), weights.pop(f"{_PROJECTION}bias")
    if not torch.equal(weight, torch.eye(weight.size(0))) or bias.any():
        raise ValueError(
            f"{folder} has a projection that is not the identity, but extractor and encoder have equal widths: "
            "fairseq has no projection in that case"
        )


def _description(folder: str) -> dict[str, Any]:
    path = Path(folder, DESCRIPTION)
    try:
        description = json.loads(path.read_text(encoding="utf-8-sig"))
        needed = (*_SAME.values(), "extractor_mode", "extractor_conv_layer_config")
        missing = [name for name in needed if name not in description["arguments"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must be a JSON object with the `arguments` of torchaudio.models.wav2vec2_model ({error})"
        ) from error
    if missing:
        raise ValueError(f"{path}: `arguments` lacks {', '.join(missing)}")
    return description


@torch.no_grad()
def outputs(folder: str | os.PathLike, waveform: Tensor, read_pickle: Callable[[str], Any]) -> list[Tensor]:
    """Run torchaudio's own model on audio B x S: logits, or the encoder's features.

    If torchaudio is not installed, or not for this torch, the written files are read back and run here.
    """
    try:
        wav2vec2_model = importlib.import_module("torchaudio.models").wav2vec2_model
    except (ImportError, OSError) as error:
        logger.warning(
            f"torchaudio cannot be imported ({error}): comparing with the written files, read back by fairseq, instead"
        )
        source = read(folder, read_pickle)
        found = portable_model.outputs(portable_model.build(source), waveform, encoder_only=True)
        rows = None if source.output is None else source.output.their_rows
        if rows is None:
            return found
        return [found[0][..., [rows.index(row) for row in range(found[0].size(-1) - rows.count(None))]]]
    model = wav2vec2_model(**_description(os.fspath(folder))["arguments"]).eval()
    model.load_state_dict(read_pickle(os.path.join(folder, WEIGHTS)))
    return [model(waveform)[0]]
