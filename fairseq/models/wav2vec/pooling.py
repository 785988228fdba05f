"""From frames to one vector per utterance, and from that to logits. Padding frames have no effect on either."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

_LEAST_VARIANCE = 1e-5  # keeps the square root's gradient finite where a channel never changes


class Pooling(nn.Module):
    """A vector per utterance, then linear layer, activation and projection, with fairseq's names of parameters.

    Args:
        width: C, channels of a frame.
        latent: width of the linear layer's output.
        num_classes: K.
        activation: between the two layers.
    """

    vectors: ClassVar[int] = 1  # C-wide parts of the pooled vector

    def __init__(self, width: int, latent: int, num_classes: int, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.linear = _linear(self.vectors * width, latent)
        self.projection = _linear(latent, num_classes)

    def forward(self, frames: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Compute logits.

        Args:
            frames: T x B x C.
            padding_mask: bool, B x T, True for padding; None: no padding.
        Returns:
            B x K.
        """
        return self.projection(self.activation(self.linear(self.pooled(frames, padding_mask))))

    def pooled(self, frames: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Pool the frames that are not padding, in fp32; arguments as for `forward`.

        Returns:
            B x (vectors * C).
        """
        frames = frames.float()
        if padding_mask is None:
            weights = torch.full(frames.shape[:2], 1 / frames.size(0), device=frames.device)
            return self._pool(frames, weights, None)
        inside = ~padding_mask.t()  # T x B
        # where, not a product: padding may hold values that are not finite
        frames = torch.where(inside.unsqueeze(-1), frames, 0.0)
        weights = inside.float()
        return self._pool(frames, weights / weights.sum(dim=0).clamp(min=1), inside)

    def _pool(self, frames: Tensor, weights: Tensor, inside: Tensor | None) -> Tensor:
        """Pool.

        Args:
            frames: T x B x C, fp32, 0 for padding.
            weights: T x B: one over the number of frames, and 0 for padding; they sum to 1.
            inside: T x B, False for padding; None: no padding.
        """
        raise NotImplementedError


class MeanPooling(Pooling):
    """The mean over frames. fairseq: averages after the linear layer, which is the same up to rounding."""

    def _pool(self, frames: Tensor, weights: Tensor, inside: Tensor | None) -> Tensor:
        return _weighted(frames, weights)


class StatisticsPooling(Pooling):
    """Mean and standard deviation over frames (Snyder et al. 2018, x-vectors)."""

    vectors = 2

    def _pool(self, frames: Tensor, weights: Tensor, inside: Tensor | None) -> Tensor:
        mean = _weighted(frames, weights)
        variance = _weighted((frames - mean).square(), weights)  # padding has weight 0
        return torch.cat([mean, (variance + _LEAST_VARIANCE).sqrt()], dim=-1)


class AttentivePooling(Pooling):
    """A mean over frames with learned weights (Okabe et al. 2018, without the deviation).

    A frame's score is v tanh(W x + b), and the weights are the softmax of the scores over the utterance. They start
    equal, so training starts from the mean.
    """

    def __init__(self, width: int, latent: int, num_classes: int, activation: nn.Module) -> None:
        super().__init__(width, latent, num_classes, activation)
        self.attention = _linear(width, width)
        self.attention_score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.attention_score.weight)

    def _pool(self, frames: Tensor, weights: Tensor, inside: Tensor | None) -> Tensor:
        scores = self.attention_score(torch.tanh(self.attention(frames))).squeeze(-1).float()  # T x B
        if inside is not None:
            scores = torch.where(inside, scores, torch.finfo(scores.dtype).min)
        return _weighted(frames, scores.softmax(dim=0))


POOLINGS: dict[str, type[Pooling]] = {
    "mean": MeanPooling,
    "attentive": AttentivePooling,
    "statistics": StatisticsPooling,
}


def _weighted(frames: Tensor, weights: Tensor) -> Tensor:
    """Sum over frames of frames T x B x C times weights T x B; B x C."""
    return (frames * weights.unsqueeze(-1)).sum(dim=0)


def _linear(in_features: int, out_features: int) -> nn.Linear:
    """Linear layer with Xavier-uniform weights and a zero bias."""
    layer = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
