"""Mask settings: those of one axis, and those that a data-loading worker needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from fairseq.frames import ConvSpec, parse_conv_layers
from fairseq.masks.selections import SELECTIONS, SpanLengths, parameter_keys

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
    parameters: tuple[tuple[str, Any], ...] = ()  # name and value of those that only this selection has

    @property
    def lengths(self) -> SpanLengths:
        """How span lengths are drawn."""
        return SELECTIONS[self.selection](self.length, self.other, **dict(self.parameters))

    def check(self, axis: str) -> MaskConfig:
        """Raise ValueError for invalid settings; `axis` is "mask" or "mask_channel", the prefix of the config keys."""
        problems = []
        if self.selection not in SELECTIONS:
            problems.append(f"{axis}_selection is {self.selection!r}; it must be one of: {', '.join(SELECTIONS)}")
        if self.prob < 0:
            problems.append(f"{axis}_prob is {self.prob}; it must be at least 0")
        if self.length < 1:
            problems.append(f"{axis}_length is {self.length}; it must be at least 1")
        if self.selection in SELECTIONS and self.length >= 1:
            problems += self.lengths.problems(axis)
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
        cls,
        cfg: WorkerFields,
        dropout: float = 0.0,
        num_negatives: int = 0,
        same_count: bool = True,
        model: Any = None,
    ) -> PretrainingMasks:
        """Read the fields that `task.inferred_w2v_config` and the wav2vec 2.0 model's config share.

        Args:
            model: the model's config, for the parameters of a mask selection's own that `cfg` lacks.
        Raises:
            ValueError: the settings are invalid, or mask nothing.
        """
        if cfg.mask_prob <= 0:
            raise ValueError(
                f"mask_prob is {cfg.mask_prob}; it must be above 0, because pre-training predicts masked frames (the "
                "paper uses 0.65)."
            )
        return cls(
            time=time_masks(cfg, dropout, model)._replace(same_count=same_count),
            channel=channel_masks(cfg, model) if cfg.mask_channel_prob > 0 else None,
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


def parameters_of(axis: str, cfg: SpanFields, model: Any = None) -> tuple[tuple[str, Any], ...]:
    """Name and value of the parameters that only the axis's selection has; those without a field are left out.

    Args:
        axis: "mask" or "mask_channel".
        model: a second config, for those that `cfg` lacks.
    """
    selection = cfg.mask_selection if axis == "mask" else cfg.mask_channel_selection
    found: dict[str, Any] = {}
    for name in SELECTIONS.get(str(selection), SpanLengths).own_parameters():
        values = [getattr(config, f"{axis}_{name}") for config in (cfg, model) if hasattr(config, f"{axis}_{name}")]
        if values:
            found[name] = values[0]
    return tuple(found.items())


def selection_problems(cfg: SpanFields) -> Iterator[str]:
    """What is wrong with how a model's config draws the lengths of spans, each text beginning with the key.

    The values need not be within their fields' limits.
    """
    if cfg.mask_prob > 0 and cfg.mask_length >= 1 and str(cfg.mask_selection) in SELECTIONS:
        yield from _time_masks(cfg).lengths.problems("mask")
    if cfg.mask_channel_prob > 0 and cfg.mask_channel_length >= 1 and str(cfg.mask_channel_selection) in SELECTIONS:
        yield from _channel_masks(cfg).lengths.problems("mask_channel")


def setting_names(cfg: Any) -> tuple[str, ...]:
    """MASK_SETTINGS, and the own parameters of selections that this config has fields for."""
    return (*MASK_SETTINGS, *(key for key in parameter_keys() if hasattr(cfg, key)))


def time_masks(cfg: SpanFields, dropout: float = 0.0, model: Any = None) -> MaskConfig:
    """Return a config's settings for masks over time, after checking them.

    Args:
        model: see `parameters_of`.
    """
    return _time_masks(cfg, dropout, model).check("mask")


def channel_masks(cfg: SpanFields, model: Any = None) -> MaskConfig:
    """Return a config's settings for masks over channels, after checking them.

    Args:
        model: see `parameters_of`.
    """
    return _channel_masks(cfg, model).check("mask_channel")


def _time_masks(cfg: SpanFields, dropout: float = 0.0, model: Any = None) -> MaskConfig:
    return MaskConfig(
        cfg.mask_prob,
        cfg.mask_length,
        str(cfg.mask_selection),
        cfg.mask_other,
        cfg.no_mask_overlap,
        cfg.mask_min_space,
        MIN_TIME_MASKS,
        dropout,
        parameters=parameters_of("mask", cfg, model),
    )


def _channel_masks(cfg: SpanFields, model: Any = None) -> MaskConfig:
    return MaskConfig(
        cfg.mask_channel_prob,
        cfg.mask_channel_length,
        str(cfg.mask_channel_selection),
        cfg.mask_channel_other,
        cfg.no_mask_channel_overlap,
        cfg.mask_channel_min_space,
        0,
        parameters=parameters_of("mask_channel", cfg, model),
    )
