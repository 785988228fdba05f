"""Parameter names in fairseq, transformers and torchaudio (the latter two differ only in prefixes)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

_LEAF = r"(weight|bias)"
_BLOCK = r"encoder\.layers\.(\d+)\."

# fairseq's name -> the other one; {extractor}, {projection} and {encoder} are prefixes of the other tool
_RULES = (
    (r"mask_emb", "{model}masked_spec_embed"),
    (rf"feature_extractor\.conv_layers\.(\d+)\.0\.{_LEAF}", r"{extractor}conv_layers.\1.conv.\2"),
    (rf"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?{_LEAF}", r"{extractor}conv_layers.\1.layer_norm.\2"),
    (rf"layer_norm\.{_LEAF}", r"{projection}layer_norm.\1"),
    (rf"post_extract_proj\.{_LEAF}", r"{projection}projection.\1"),
    (r"encoder\.pos_conv\.0\.(bias|weight_g|weight_v)", r"{encoder}pos_conv_embed.conv.\1"),
    (rf"encoder\.layer_norm\.{_LEAF}", r"{encoder}layer_norm.\1"),
    (rf"{_BLOCK}self_attn\.([kvq]|out)_proj\.{_LEAF}", r"{encoder}layers.\1.attention.\2_proj.\3"),
    (rf"{_BLOCK}fc1\.{_LEAF}", r"{encoder}layers.\1.feed_forward.intermediate_dense.\2"),
    (rf"{_BLOCK}fc2\.{_LEAF}", r"{encoder}layers.\1.feed_forward.output_dense.\2"),
    (rf"{_BLOCK}final_layer_norm\.{_LEAF}", r"{encoder}layers.\1.final_layer_norm.\2"),
    # blocks of the conformer
    (rf"{_BLOCK}(ffn[12])\.layer_norm\.{_LEAF}", r"{encoder}layers.\1.\2_layer_norm.\3"),
    (rf"{_BLOCK}(ffn[12])\.w_1\.{_LEAF}", r"{encoder}layers.\1.\2.intermediate_dense.\3"),
    (rf"{_BLOCK}(ffn[12])\.w_2\.{_LEAF}", r"{encoder}layers.\1.\2.output_dense.\3"),
    (rf"{_BLOCK}(self_attn\.(?:linear_\w+\.{_LEAF}|pos_bias_[uv]))", r"{encoder}layers.\1.\2"),
    (rf"{_BLOCK}self_attn\.rotary_emb\.inv_freq", r"{encoder}embed_positions.inv_freq"),  # shared by all blocks there
    (rf"{_BLOCK}(conv_module\.[\w.]+)", r"{encoder}layers.\1.\2"),
    # heads of the pre-training
    (r"quantizer\.vars", "quantizer.codevectors"),
    (rf"(quantizer\.weight_proj|project_q)\.{_LEAF}", r"\1.\2"),
    (rf"final_proj\.{_LEAF}", r"project_hid.\1"),
)
# has a different name in each kind of block
_SELF_ATTENTION_NORM = re.compile(rf"{_BLOCK}self_attn_layer_norm\.{_LEAF}")
_OTHER_SPELLING = {  # torch's second weight norm, of 2.0 and later
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}


class Prefixes(NamedTuple):
    """Prefixes of the model's parts in another tool."""

    model: str
    extractor: str
    projection: str
    encoder: str
    head: str  # the output layer of a fine-tuned model


def huggingface(conformer: bool) -> Prefixes:
    model = "wav2vec2_conformer." if conformer else "wav2vec2."
    return Prefixes(model, f"{model}feature_extractor.", f"{model}feature_projection.", f"{model}encoder.", "lm_head.")


TORCHAUDIO = Prefixes("", "feature_extractor.", "encoder.feature_projection.", "encoder.transformer.", "aux.")


def translate(names: Iterable[str], prefixes: Prefixes, conformer: bool = False) -> dict[str, str]:
    """Translate names of an encoder's tensors to the other tool's names.

    Returns:
        fairseq's name -> the other tool's name.
    Raises:
        ValueError: the other tool's model does not have a tensor.
    """
    found = {}
    for name in names:
        norm = _SELF_ATTENTION_NORM.fullmatch(name)
        if norm is not None:
            kept = "self_attn_layer_norm" if conformer else "layer_norm"
            found[name] = f"{prefixes.encoder}layers.{norm[1]}.{kept}.{norm[2]}"
            continue
        for pattern, template in _RULES:
            match = re.fullmatch(pattern, name)
            if match is not None:
                found[name] = match.expand(template.format(**prefixes._asdict()))
                break
        else:
            raise ValueError(f"the tensor {name} does not exist in the other tool's model")
    return found


def one_spelling(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parts of weight norms to weight_g and weight_v."""
    renamed = {}
    for name, tensor in weights.items():
        for old, new in _OTHER_SPELLING.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed
