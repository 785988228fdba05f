"""Values passed between the stages of wav2vec 2.0's forward pass: latents, masks, context."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from fairseq.masks.forward import FrameMask
from fairseq.models.wav2vec.encoder import LayerResult


class Latents(NamedTuple):
    """Output of the feature extractor for a batch."""

    features: Tensor  # layer-normed, B x T x C
    padding_mask: Tensor | None  # bool, B x T, true where a frame is padding
    squares: Tensor  # mean square of each raw frame, B x T', before cropping: the feature penalty
    valid: Tensor | None  # bool, B x T', before cropping; None: all are


class GivenMasks(NamedTuple):
    """Masks passed by the caller; those that are None are drawn from the config."""

    indices: Tensor | None = None  # bool, B x T
    channels: Tensor | None = None  # bool, B x C
    positions: Tensor | None = None  # int64 or int32, B x M
    weights: Tensor | None = None  # float32, B x M


class Encoded(NamedTuple):
    """Output of the encoder for a batch, and the other inputs of prediction."""

    context: Tensor  # B x T x C
    layer_results: list[LayerResult]
    unmasked: Tensor  # the extractor's frames after their dropout, before masking, B x T x C
    inputs: Tensor  # the encoder's input, projected and masked, B x T x C
    padding_mask: Tensor | None  # bool, B x T
    frames: FrameMask | None  # the masked frames; None: nothing to predict
    row_counts: Tensor | None  # bool, B: rows with a masked frame of weight > 0; None: all rows
    input_statistics: dict[str, Any]  # of the input quantizer, if any
    latents: Latents

    def features(self) -> dict[str, Any]:
        """Return value of `forward(features_only=True)`, with fairseq's keys."""
        return {
            "x": self.context,
            "padding_mask": self.padding_mask,
            "features": self.unmasked,
            "layer_results": self.layer_results,
        }
