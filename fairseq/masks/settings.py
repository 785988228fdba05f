"""Mask settings: those of one axis, and those that a data-loading worker needs."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from fairseq.frames import ConvSpec, parse_conv_layers

SELECTIONS = ("static", "uniform", "normal", "poisson")
MIN_TIME_MASKS = 2  # fairseq: wav2vec 2.0 masks at least two spans per utterance, so that negatives exist


class MaskConfig(NamedTuple):
    """Settings of the spans along one axis (time or channels)."""

    prob: float  # share of the axis that would be masked if no spans overlapped
    length: int  # span length: exact for static, mean for normal and poisson, half the maximum for uniform
    selection: str  # one of SELECTIONS
    other: float  # shortest length for uniform, standard deviation for normal
    no_overlap: bool
    min_space: int  # with no_overlap: unmasked positions between spans, as fairseq counts them
    min_masks: int  # minimum number of spans
    dropout: float = 0.0  # share of the masked positions to unmask
    same_count: bool = False  # rows are cut to `common_count`: fairseq's require_same_masks

    def check(self, axis: str) -> MaskConfig:
        """Raise ValueError for invalid settings; `axis` is "mask" or "mask_channel", the prefix of the config keys."""
        problems = []
        if self.selection not in SELECTIONS:
            problems.append(f"{axis}_selection is {self.selection!r}; it must be one of: {', '.join(SELECTIONS)}")
        if self.prob < 0:
            problems.append(f"{axis}_prob is {self.prob}; it must be at least 0")
        if self.length < 1:
            problems.append(f"{axis}_length is {self.length}; it must be at least 1")
        if self.other < 0 or (self.selection == "uniform" and self.other > 2 * self.length):
            problems.append(
                f"{axis}_other is {self.other}; it must be at least 0, and for uniform at most twice {axis}_length"
            )
        if not 0 <= self.dropout <= 1:
            problems.append(f"{axis}_dropout is {self.dropout}; it must be between 0 and 1")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class SpanFields(Protocol):
    """Config fields that control the spans."""

    mask_prob: float
    mask_length: int
    mask_selection: str
    mask_other: float
    no_mask_overlap: bool
    mask_min_space: int
    mask_channel_prob: float
    mask_channel_length: int
    mask_channel_selection: str
    mask_channel_other: float
    no_mask_channel_overlap: bool
    mask_channel_min_space: int


class MaskSettings(SpanFields, Protocol):
    """Mask settings of a model: fields of Wav2Vec2Config, and model attributes that callers may set after loading."""

    require_same_masks: bool
    mask_dropout: float
    mask_channel_before: bool
    crop_seq_to_multiple: int


class WorkerFields(SpanFields, Protocol):
    """Model settings that a data-loading worker needs: fields of `task.inferred_w2v_config` and Wav2Vec2Config."""

    encoder_embed_dim: int
    conv_feature_layers: str


class EncoderFields(WorkerFields, Protocol):
    """Fields of a pre-trained encoder's config that control masking in fine-tuning."""

    mask_dropout: float


_SPAN_SETTINGS = tuple(SpanFields.__annotations__)
MASK_SETTINGS = (*_SPAN_SETTINGS, *MaskSettings.__annotations__)
WORKER_SETTINGS = (*_SPAN_SETTINGS, *WorkerFields.__annotations__)


class PretrainingMasks(NamedTuple):
    """Everything a data-loading worker needs to draw an utterance's masks and, in validation, its negatives."""

    time: MaskConfig
    channel: MaskConfig | None  # None: no channel masks
    num_channels: int  # width of the channel masks, equal to the encoder's
    conv_layers: tuple[ConvSpec, ...]
    num_negatives: int = 0  # negatives per masked frame in validation batches; 0: the model draws them

    @classmethod
    def from_config(
        cls, cfg: WorkerFields, dropout: float = 0.0, num_negatives: int = 0, same_count: bool = True
    ) -> PretrainingMasks:
        """Read the fields that `task.inferred_w2v_config` and the wav2vec 2.0 model's config share.

        Raises:
            ValueError: the settings are invalid, or mask nothing.
        """
        if cfg.mask_prob <= 0:
            raise ValueError(
                f"mask_prob is {cfg.mask_prob}; it must be above 0, because pre-training predicts masked frames (the "
                "paper uses 0.65)."
            )
        return cls(
            time=time_masks(cfg, dropout)._replace(same_count=same_count),
            channel=channel_masks(cfg) if cfg.mask_channel_prob > 0 else None,
            num_channels=cfg.encoder_embed_dim,
            conv_layers=tuple(parse_conv_layers(cfg.conv_feature_layers)),
            num_negatives=num_negatives,
        )


class FinetuningMasks(NamedTuple):
    """Everything a worker needs to draw fine-tuning masks, which are used in training only."""

    time: MaskConfig | None
    channel: MaskConfig | None
    num_channels: int
    conv_layers: tuple[ConvSpec, ...]

    @classmethod
    def from_config(cls, cfg: EncoderFields, apply_mask: bool) -> FinetuningMasks:
        """Read the fields of the encoder's config; there are no masks unless `apply_mask` is true.

        Raises:
            ValueError: the settings are invalid.
        """
        return cls(
            time=time_masks(cfg, cfg.mask_dropout) if apply_mask and cfg.mask_prob > 0 else None,
            channel=channel_masks(cfg) if apply_mask and cfg.mask_channel_prob > 0 else None,
            num_channels=cfg.encoder_embed_dim,
            conv_layers=tuple(parse_conv_layers(cfg.conv_feature_layers)),
        )


Masks = PretrainingMasks | FinetuningMasks


def time_masks(cfg: SpanFields, dropout: float = 0.0) -> MaskConfig:
    """Return a config's settings for masks over time, after checking them."""
    return MaskConfig(
        cfg.mask_prob,
        cfg.mask_length,
        str(cfg.mask_selection),
        cfg.mask_other,
        cfg.no_mask_overlap,
        cfg.mask_min_space,
        MIN_TIME_MASKS,
        dropout,
    ).check("mask")


def channel_masks(cfg: SpanFields) -> MaskConfig:
    """Return a config's settings for masks over channels, after checking them."""
    return MaskConfig(
        cfg.mask_channel_prob,
        cfg.mask_channel_length,
        str(cfg.mask_channel_selection),
        cfg.mask_channel_other,
        cfg.no_mask_channel_overlap,
        cfg.mask_channel_min_space,
        0,
    ).check("mask_channel")
