"""Configuration of a fine-tuned wav2vec 2.0: fields and defaults of fairseq 0.12.2 and later versions."""

# ChoiceEnum makes the types of choices at run time
# pyright: reportInvalidTypeForm=false
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, cast

from omegaconf import II, MISSING

from fairseq.dataclass import ChoiceEnum, FairseqDataclass, Finding, wrong
from fairseq.dataclass.values import from_here
from fairseq.masks.settings import SpanFields, selection_problems
from fairseq.models.wav2vec.config import MASKING_DISTRIBUTION_CHOICES, conv_layer_findings
from fairseq.modules.lora import TARGETS
from fairseq.stores import is_url

BLANK_MODE_CHOICES = ChoiceEnum(["add", "set"])
TUNING_CHOICES = ChoiceEnum(["all", "adapters", "lora", "bias"])
_CONV_FEATURE_LAYERS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"


def _help(text: str, **rules: Any) -> dict[str, Any]:
    """A field's metadata: its help, and rules (see FairseqDataclass)."""
    return {"help": text, **rules}


@dataclass
class Wav2Vec2AsrConfig(FairseqDataclass):
    """Fine-tuning settings. `w2v_args`, from a checkpoint, describes the pre-trained model."""

    w2v_path: str = field(
        default=MISSING, metadata=_help("pre-trained (or fine-tuned) checkpoint, read if w2v_args is not set")
    )
    no_pretrained_weights: bool = field(
        default=False, metadata=_help("use only the checkpoint's config, with random weights")
    )
    dropout_input: float = field(default=0.0, metadata=_help("dropout of the encoder's input features", share=True))
    final_dropout: float = field(default=0.0, metadata=_help("dropout of the encoder's output", share=True))
    dropout: float = field(default=0.0, metadata=_help("dropout in the encoder", share=True))
    attention_dropout: float = field(default=0.0, metadata=_help("dropout on attention weights", share=True))
    activation_dropout: float = field(
        default=0.0,
        metadata=_help("dropout after the activation of a feed-forward layer", share=True)
        | {"argparse_alias": "--relu-dropout"},
    )

    # masks over time, in training only
    apply_mask: bool = field(default=False, metadata=_help("mask frames (and channels) in training"))
    mask_length: int = field(default=10, metadata=_help("frames per masked span", at_least=1))
    mask_prob: float = field(default=0.5, metadata=_help("share of frames in masked spans, if no spans overlapped"))
    mask_selection: MASKING_DISTRIBUTION_CHOICES = field(default="static", metadata=_help("how span lengths are drawn"))
    mask_other: float = field(
        default=0, metadata=_help("second parameter of that draw (uniform: shortest; normal: deviation)")
    )
    no_mask_overlap: bool = field(default=False, metadata=_help("spans do not overlap"))
    mask_min_space: Optional[int] = field(default=1, metadata=_help("frames between spans that do not overlap"))
    require_same_masks: bool = field(
        default=True, metadata=_help("mask equally many frames per row, if the model draws the masks")
    )
    mask_dropout: float = field(default=0.0, metadata=_help("share of masked frames to unmask again", share=True))

    # masks over channels
    mask_channel_length: int = field(default=10, metadata=_help("channels per masked span", at_least=1))
    mask_channel_prob: float = field(
        default=0.0, metadata=_help("share of channels in masked spans, if no spans overlapped", share=True)
    )
    mask_channel_selection: MASKING_DISTRIBUTION_CHOICES = field(
        default="static", metadata=_help("how channel span lengths are drawn")
    )
    mask_channel_other: float = field(default=0, metadata=_help("second parameter of that draw"))
    no_mask_channel_overlap: bool = field(default=False, metadata=_help("channel spans do not overlap"))

    freeze_finetune_updates: int = field(
        default=0, metadata=_help("number of first updates that only train the output layer")
    )
    feature_grad_mult: float = field(
        default=0.0, metadata=_help("factor on the feature extractor's gradient; 0: frozen")
    )
    layerdrop: float = field(default=0.0, metadata=_help("probability of skipping a block in training", share=True))
    drop_path: float = field(default=0, metadata=_help("for data2vec 2; only 0 is offered"))
    mask_channel_min_space: Optional[int] = field(
        default=1, metadata=_help("channels between spans that do not overlap")
    )
    mask_channel_before: bool = field(default=False, metadata=_help("mask channels before frames"))
    normalize: bool = II("task.normalize")
    update_alibi: bool = field(default=True, metadata=_help("for data2vec 2; no effect"))
    data: str = II("task.data")
    w2v_args: Any = field(
        default=None, metadata=_help("pre-training config; read from w2v_path, and saved in checkpoints")
    )
    offload_activations: bool = field(default=False, metadata=_help("not offered: see checkpoint_activations"))
    min_params_to_wrap: int = field(default=100_000_000, metadata=_help("for fully sharded training; no effect"))
    checkpoint_activations: bool = field(
        default=False, metadata=_help("recompute blocks in the backward pass: less memory, more time")
    )
    ddp_backend: str = II("distributed_training.ddp_backend")

    # of fairseq after 0.12.2
    zero_mask: bool = field(default=False, metadata=_help("set masked frames to 0 instead of the learned vector"))
    load_ema: bool = field(
        default=False, metadata=_help("start from the running average of the checkpoint's weights (ema.store_ema)")
    )
    layer_decay: float = field(
        default=1, metadata=_help("only 1 is offered; use optimizer.layer_decay of optimizer composite")
    )
    layer_type: str = field(
        default="transformer",
        metadata=_help("trf_adp: add adapters to the blocks; else w2v_args has the kind of block"),
    )
    adp_num: int = field(default=-1, metadata=_help("adapters per block, one per language; for layer_type=trf_adp"))
    adp_dim: int = field(default=64, metadata=_help("their width"))
    adp_act_fn: str = field(default="relu", metadata=_help("their activation"))
    adp_trf_idx: str = field(default="all", metadata=_help("blocks with adapters: all, or first:end, counted from 0"))
    freeze_regex: Optional[str] = field(
        default=None, metadata=_help("freeze parameters whose name starts with a match of this regular expression")
    )

    # not fairseq's: which parameters are trained beside the output layer
    tuning: TUNING_CHOICES = field(
        default="all",
        metadata=_help(
            "parameters of the encoder that are trained: all; adapters (of blocks with layer_type=trf_adp); lora "
            "(low-rank updates of attention and feed-forward weights); bias"
        ),
    )
    lora_rank: int = field(default=8, metadata=_help("rank of the updates; for tuning=lora", at_least=1))
    lora_alpha: float = field(default=16.0, metadata=_help("the updates are multiplied by lora_alpha / lora_rank"))
    lora_dropout: float = field(default=0.0, metadata=_help("dropout on the updates' input", share=True))
    lora_targets: str = field(
        default=TARGETS,
        metadata=_help("layers with updates: a regular expression for their whole name within a block"),
    )

    # 0.12.2 only, for its data-loading workers; here the model's own values are used
    conv_feature_layers: Optional[str] = field(
        default=_CONV_FEATURE_LAYERS, metadata=_help("has no effect: w2v_args has it")
    )
    encoder_embed_dim: Optional[int] = field(default=768, metadata=_help("has no effect: w2v_args has it", at_least=1))

    def check(self) -> Iterator[Finding]:
        yield from conv_layer_findings("model.conv_feature_layers", self.conv_feature_layers)
        if self.layer_type == "trf_adp" and self.adp_num < 1:
            yield wrong(
                "model.layer_type=trf_adp adds adapters. Set model.adp_num=1, and model.adp_dim.", "fine-tuning"
            )
        elif self.layer_type != "trf_adp" and self.adp_num > 0:
            yield wrong(
                f"model.adp_num is {self.adp_num}, but only model.layer_type=trf_adp adds adapters.", "fine-tuning"
            )
        if str(self.tuning) == "lora":
            try:
                re.compile(self.lora_targets)
            except re.error as error:
                yield wrong(
                    f"model.lora_targets is {self.lora_targets!r}, which is not a regular expression: {error}.",
                    "wav2vec2-widths",
                )
        if self.apply_mask:
            for problem in selection_problems(cast(SpanFields, self)):
                yield wrong(f"model.{problem}", "masks")

    def check_files(self) -> Iterator[Finding]:
        source = self.w2v_path
        if source in (None, MISSING) or self.w2v_args is not None or is_url(source):
            return
        if not Path(source).expanduser().exists():
            yield wrong(
                f"model.w2v_path is {source!r}: the checkpoint does not exist{from_here(Path(source))}.", "other-paths"
            )


@dataclass
class Wav2Vec2CtcConfig(Wav2Vec2AsrConfig):
    blank_weight: float = field(default=0, metadata=_help("for blank_mode"))
    blank_mode: BLANK_MODE_CHOICES = field(
        default="add", metadata=_help("add blank_weight to the blank's logit, or set it to blank_weight")
    )
