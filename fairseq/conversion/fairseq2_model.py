"""Read checkpoints of fairseq2, and of Omnilingual ASR, which is built on it: wav2vec 2.0, pre-trained or with CTC.

A file has tensors only: fairseq2 keeps configs in cards of its own. Widths and counts follow from the tensors' shapes;
what they do not show is assumed to be as in the published models: strides of the extractor, attention heads (`HEADS`),
two codebooks, audio normalized where the extractor has layer norms, and CTC's blank in row 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fairseq.conversion import names
from fairseq.conversion.portable_model import OutputLayer, PortableModel, complete_config, encoder_of

HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16, 2048: 16}  # width of the encoder -> attention heads
_KERNELS, _STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
_CODEBOOKS = 2
_COUNTERS = ("quantizer.num_updates",)  # not part of the model
_EXTRACTOR = "encoder_frontend.feature_extractor.layers."


def weights_of(content: Any) -> dict[str, Tensor] | None:
    """Return the tensors of a file's content if it is a model of fairseq2, else None."""
    found = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping) or "encoder_frontend.post_extract_layer_norm.weight" not in found:
        return None
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def read(weights: Mapping[str, Tensor], path: str, symbols: list[str] | None = None) -> PortableModel:
    """Convert tensors with fairseq2's names.

    Args:
        weights: result of `weights_of`.
        symbols: meaning of the output layer's rows, the four special symbols first; needed if there is one.
    Raises:
        ValueError: it is not a published form of the model, or the symbols are missing or do not fit.
    """
    weights = names.one_spelling({name: tensor for name, tensor in weights.items() if name not in _COUNTERS})
    fine_tuned = "final_proj.weight" in weights and "quantizer.entries" not in weights
    config = _config(weights, path)
    head = {name: weights.pop(f"final_proj.{name}") for name in ("weight", "bias")} if fine_tuned else None
    table = names.FAIRSEQ2_PRE_NORM if config["layer_norm_first"] else names.FAIRSEQ2_POST_NORM
    encoder, new, left_over = encoder_of(config, fine_tuned, weights, table.of, path)
    if left_over:
        raise ValueError(f"{path} has tensors that fairseq does not have: {', '.join(sorted(left_over)[:5])}")
    task = {"normalize": config["extractor_mode"] == "layer_norm", "sample_rate": 16_000}
    if head is None:
        return PortableModel(config, task, encoder, has_new_parts="final_proj.weight" in new)
    rows = head["weight"].size(0)
    if symbols is None:
        raise ValueError(
            f"{path} is a model of fairseq2 with {rows} outputs, whose symbols are not in the file: give them with "
            "--dict (one symbol per line, without the four special ones)"
        )
    if len(symbols) != rows:
        raise ValueError(f"the dictionary has {len(symbols)} symbols, but the output layer of {path} has {rows} rows")
    return PortableModel(config, task, encoder, OutputLayer(head, symbols, {}))


def _config(weights: Mapping[str, Tensor], path: str) -> dict[str, Any]:
    """Derive fairseq's config from the shapes of the tensors."""
    layers = len({match[1] for name in weights if (match := re.match(r"encoder\.layers\.(\d+)\.", name))})
    needed = ("encoder.layers.0.ffn.inner_proj.weight", "encoder_frontend.pos_encoder.conv.weight_v")
    kernels = []
    while (convolution := weights.get(f"{_EXTRACTOR}{len(kernels)}.conv.weight")) is not None:
        kernels.append(tuple(convolution.shape))
    missing = [name for name in needed if name not in weights or weights[name].dim() < 2]
    if missing or any(len(shape) != 3 for shape in kernels):
        raise ValueError(f"{path} is not a wav2vec 2.0 model of fairseq2: it lacks {', '.join(missing) or 'kernels'}")
    inner, positions = (weights[name] for name in needed)
    width = inner.size(1)
    if width not in HEADS or positions.dim() != 3 or tuple(shape[2] for shape in kernels) != _KERNELS:
        raise ValueError(
            f"{path} has an encoder of width {width} and an extractor with kernels {[s[2] for s in kernels]}. The file "
            f"has no config, so only the published forms can be read: widths {', '.join(map(str, HEADS))}, kernels "
            f"{list(_KERNELS)}"
        )
    convolutions = [
        (shape[0], kernel, stride) for shape, kernel, stride in zip(kernels, _KERNELS, _STRIDES, strict=True)
    ]
    values = {
        "conv_feature_layers": str(convolutions),
        "conv_bias": f"{_EXTRACTOR}0.conv.bias" in weights,
        "extractor_mode": "layer_norm" if f"{_EXTRACTOR}1.layer_norm.weight" in weights else "default",
        "layer_norm_first": "encoder.layer_norm.weight" in weights,
        "encoder_layers": layers,
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": inner.size(0),
        "encoder_attention_heads": HEADS[width],
        "conv_pos": positions.size(2),
        "conv_pos_groups": width // max(1, positions.size(1)),
        "quantize_targets": True,
    }
    codewords, predicted = weights.get("quantizer.entries"), weights.get("final_proj.weight")
    if codewords is not None and codewords.dim() == 3 and predicted is not None:
        values |= {
            "latent_groups": _CODEBOOKS,
            "latent_vars": codewords.size(1) // _CODEBOOKS,
            "latent_dim": codewords.size(2) * _CODEBOOKS,
            "final_dim": predicted.size(0),
        }
    return complete_config(values)
