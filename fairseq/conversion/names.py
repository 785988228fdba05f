"""Parameter names in fairseq and in other tools: one table for each tool and kind of model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

_LEAF = r"(weight|bias)"
_BLOCK = r"encoder\.layers\.(\d+)\."
Rule = tuple[
    str, str
]  # pattern of fairseq's name, template of the other one; {model}, {encoder} ... are prefixes there

# transformers and torchaudio, which differ only in prefixes
_COMMON: tuple[Rule, ...] = (
    (r"mask_emb", "{model}masked_spec_embed"),
    (rf"feature_extractor\.conv_layers\.(\d+)\.0\.{_LEAF}", r"{extractor}conv_layers.\1.conv.\2"),
    (rf"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?{_LEAF}", r"{extractor}conv_layers.\1.layer_norm.\2"),
    (rf"layer_norm\.{_LEAF}", r"{projection}layer_norm.\1"),
    (rf"post_extract_proj\.{_LEAF}", r"{projection}projection.\1"),
    (r"encoder\.pos_conv\.0\.(bias|weight_g|weight_v)", r"{encoder}pos_conv_embed.conv.\1"),
    (rf"encoder\.layer_norm\.{_LEAF}", r"{encoder}layer_norm.\1"),
    (rf"{_BLOCK}self_attn\.([kvq]|out)_proj\.{_LEAF}", r"{encoder}layers.\1.attention.\2_proj.\3"),
    (rf"{_BLOCK}self_attn_layer_norm\.{_LEAF}", r"{encoder}layers.\1.layer_norm.\2"),
    (rf"{_BLOCK}fc1\.{_LEAF}", r"{encoder}layers.\1.feed_forward.intermediate_dense.\2"),
    (rf"{_BLOCK}fc2\.{_LEAF}", r"{encoder}layers.\1.feed_forward.output_dense.\2"),
    (rf"{_BLOCK}final_layer_norm\.{_LEAF}", r"{encoder}layers.\1.final_layer_norm.\2"),
)
_PRETRAINING_HEADS: tuple[Rule, ...] = (
    (r"quantizer\.vars", "quantizer.codevectors"),
    (rf"(quantizer\.weight_proj|project_q)\.{_LEAF}", r"\1.\2"),
    (rf"final_proj\.{_LEAF}", r"project_hid.\1"),
)
_CONFORMER: tuple[Rule, ...] = (
    (rf"{_BLOCK}self_attn_layer_norm\.{_LEAF}", r"{encoder}layers.\1.self_attn_layer_norm.\2"),
    (rf"{_BLOCK}(ffn[12])\.layer_norm\.{_LEAF}", r"{encoder}layers.\1.\2_layer_norm.\3"),
    (rf"{_BLOCK}(ffn[12])\.w_1\.{_LEAF}", r"{encoder}layers.\1.\2.intermediate_dense.\3"),
    (rf"{_BLOCK}(ffn[12])\.w_2\.{_LEAF}", r"{encoder}layers.\1.\2.output_dense.\3"),
    (rf"{_BLOCK}(self_attn\.(?:linear_\w+\.{_LEAF}|pos_bias_[uv]))", r"{encoder}layers.\1.\2"),
    (rf"{_BLOCK}self_attn\.rotary_emb\.inv_freq", r"{encoder}embed_positions.inv_freq"),  # shared by all blocks there
    (rf"{_BLOCK}(conv_module\.[\w.]+)", r"{encoder}layers.\1.\2"),
)
ADAPTER_PARTS = {
    "W_a": "linear_1.weight",
    "b_a": "linear_1.bias",
    "W_b": "linear_2.weight",
    "b_b": "linear_2.bias",
    "ln_W": "norm.weight",
    "ln_b": "norm.bias",
}
_ADAPTERS: tuple[Rule, ...] = tuple(  # tensors here have a leading axis of 1: see `like`
    (rf"{_BLOCK}adapter_layer\.{ours}", rf"{{encoder}}layers.\1.adapter_layer.{theirs}")
    for ours, theirs in ADAPTER_PARTS.items()
)
_BATCH_NORM: tuple[Rule, ...] = (
    (r"encoder\.pos_conv\.0\.(\w+)", r"{encoder}pos_conv_embed.batch_norm.\1"),
    (rf"encoder\.pos_conv\.1\.{_LEAF}", r"{encoder}pos_conv_embed.conv.\1"),
)
_STACKED: tuple[Rule, ...] = ((rf"encoder\.pos_conv\.(\d+)\.0\.{_LEAF}", r"{encoder}pos_conv_embed.layers.\1.conv.\2"),)
_FAIRSEQ2: tuple[Rule, ...] = (
    (r"mask_emb", "masker.temporal_mask_embed"),
    (rf"feature_extractor\.conv_layers\.(\d+)\.0\.{_LEAF}", r"{extractor}layers.\1.conv.\2"),
    (rf"feature_extractor\.conv_layers\.(\d+)\.2\.1\.{_LEAF}", r"{extractor}layers.\1.layer_norm.\2"),
    (rf"feature_extractor\.conv_layers\.0\.2\.{_LEAF}", r"{extractor}layers.0.group_norm.\1"),
    (rf"layer_norm\.{_LEAF}", r"{projection}post_extract_layer_norm.\1"),
    (rf"post_extract_proj\.{_LEAF}", r"{projection}model_dim_proj.\1"),
    (r"encoder\.pos_conv\.0\.(bias|weight_g|weight_v)", r"{projection}pos_encoder.conv.\1"),
    (rf"{_BLOCK}self_attn\.([kvq])_proj\.{_LEAF}", r"{encoder}layers.\1.self_attn.\2_proj.\3"),
    (rf"{_BLOCK}self_attn\.out_proj\.{_LEAF}", r"{encoder}layers.\1.self_attn.output_proj.\2"),
    (rf"{_BLOCK}self_attn_layer_norm\.{_LEAF}", r"{encoder}layers.\1.self_attn_layer_norm.\2"),
    (rf"{_BLOCK}fc1\.{_LEAF}", r"{encoder}layers.\1.ffn.inner_proj.\2"),
    (rf"{_BLOCK}fc2\.{_LEAF}", r"{encoder}layers.\1.ffn.output_proj.\2"),
    (rf"{_BLOCK}final_layer_norm\.{_LEAF}", r"{encoder}layers.\1.ffn_layer_norm.\2"),
    (r"quantizer\.vars", "quantizer.entries"),
    (rf"quantizer\.weight_proj\.{_LEAF}", r"quantizer.entry_proj.\1"),
    (rf"project_q\.{_LEAF}", r"final_target_proj.\1"),
    (rf"final_proj\.{_LEAF}", r"final_proj.\1"),
)
_OTHER_SPELLING = {  # torch's second weight norm, of 2.0 and later
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}


class Names(NamedTuple):
    """The names of one kind of model in another tool."""

    model: str  # prefixes of the model's parts there
    extractor: str
    projection: str
    encoder: str
    head: str  # the output layer of a fine-tuned model
    rules: tuple[Rule, ...]  # the first that matches applies

    def of(self, names: Iterable[str]) -> dict[str, str]:
        """Translate names of an encoder's tensors.

        Returns:
            fairseq's name -> the other tool's name.
        Raises:
            ValueError: the other tool's model does not have a tensor.
        """
        prefixes = {key: value for key, value in self._asdict().items() if key != "rules"}
        compiled = [(re.compile(pattern), template.format(**prefixes)) for pattern, template in self.rules]
        found = {}
        for name in names:
            for pattern, template in compiled:
                match = pattern.fullmatch(name)
                if match is not None:
                    found[name] = match.expand(template)
                    break
            else:
                raise ValueError(f"the tensor {name} does not exist in the other tool's model")
        return found


def _transformers(model: str, *own: tuple[Rule, ...]) -> Names:
    rules = (*(rule for rules in own for rule in rules), *_COMMON)
    return Names(
        f"{model}.",
        f"{model}.feature_extractor.",
        f"{model}.feature_projection.",
        f"{model}.encoder.",
        "lm_head.",
        rules,
    )


WAV2VEC2 = _transformers("wav2vec2", _PRETRAINING_HEADS)
WAV2VEC2_ADAPTERS = _transformers("wav2vec2", _ADAPTERS, _PRETRAINING_HEADS)
WAV2VEC2_CONFORMER = _transformers("wav2vec2_conformer", _CONFORMER, _PRETRAINING_HEADS)
HUBERT = _transformers("hubert")
HUBERT_BATCH_NORM = _transformers("hubert", _BATCH_NORM)
DATA2VEC_AUDIO = _transformers("data2vec_audio", _STACKED)
TORCHAUDIO = Names(
    "",
    "feature_extractor.",
    "encoder.feature_projection.",
    "encoder.transformer.",
    "aux.",
    (*_COMMON, *_PRETRAINING_HEADS),
)


def _fairseq2(encoder_norm: str) -> Names:
    front = "encoder_frontend."
    norm = (rf"encoder\.layer_norm\.{_LEAF}", rf"{encoder_norm}layer_norm.\1")
    return Names("", f"{front}feature_extractor.", front, "encoder.", "final_proj.", (norm, *_FAIRSEQ2))


FAIRSEQ2_PRE_NORM = _fairseq2("encoder.")
FAIRSEQ2_POST_NORM = _fairseq2("encoder_frontend.")


def one_spelling(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parts of weight norms to weight_g and weight_v."""
    renamed = {}
    for name, tensor in weights.items():
        for old, new in _OTHER_SPELLING.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def like(tensor: Tensor, shape: Iterable[int]) -> Tensor:
    """Add or remove a leading axis of 1 if the tensor then has this shape; else return it unchanged.

    fairseq holds all adapters of a block in one tensor, transformers one adapter at a time.
    """
    wanted, found = tuple(shape), tuple(tensor.shape)
    if wanted == (1, *found):
        return tensor.unsqueeze(0)
    return tensor.squeeze(0) if found == (1, *wanted) else tensor
