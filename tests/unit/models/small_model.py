"""A model small enough for tests, and batches as the data-loading worker makes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairseq.frames import frames_for_samples
from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model

CONV = "[(16,10,5)] + [(16,3,2)]*3 + [(16,2,2)]"  # 80 samples a frame
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


def small_config(**changes: Any) -> Wav2Vec2Config:
    """Two blocks of 24 channels, quantized targets, no dropout, 5 negatives."""
    settings: dict[str, Any] = {
        "conv_feature_layers": CONV,
        "encoder_layers": 2,
        "encoder_embed_dim": 24,
        "encoder_ffn_embed_dim": 40,
        "encoder_attention_heads": 3,
        "final_dim": 12,
        "latent_vars": 6,
        "quantize_targets": True,
        "conv_pos": 8,
        "conv_pos_groups": 4,
        "num_negatives": 5,
        **NO_DROPOUT,
        **changes,
    }
    return Wav2Vec2Config(**settings)


def small_model(seed: int = 0, **changes: Any) -> Wav2Vec2Model:
    torch.manual_seed(seed)
    return Wav2Vec2Model(small_config(**changes))


def num_frames(num_samples: int, model: Wav2Vec2Model) -> int:
    return frames_for_samples(num_samples, model.conv_layers)


def masked_batch(
    model: Wav2Vec2Model, lengths: list[int], counts: list[int], seed: int = 1, num_negatives: int = 5
) -> dict[str, Tensor]:
    """A net_input with padding, positions, weights and negatives.

    Args:
        lengths: valid samples of each row.
        counts: masked frames of each row; 0 makes it a filler row, and fewer than two count in nothing either.
    """
    generator = torch.Generator().manual_seed(seed)
    B, S = len(lengths), max(lengths)
    T, M = num_frames(S, model), max(counts) + 2
    net_input = {
        "source": torch.randn(B, S, generator=generator),
        "padding_mask": torch.arange(S) >= torch.tensor(lengths).unsqueeze(1),
        "mask_indices": torch.zeros(B, T, dtype=torch.bool),
        "masked_positions": torch.zeros(B, M, dtype=torch.long),
        "masked_weights": torch.zeros(B, M),
        "negative_indices": torch.zeros(B, M, num_negatives, dtype=torch.long),
    }
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        net_input["source"][row, length:] = 0
        frames = torch.randperm(num_frames(length, model), generator=generator)[:count].sort().values
        net_input["mask_indices"][row, frames] = True
        net_input["masked_positions"][row, :count] = frames
        if count >= 2:
            net_input["masked_weights"][row, :count] = 1
            drawn = torch.randint(count - 1, (count, num_negatives), generator=generator)
            net_input["negative_indices"][row, :count] = drawn + (drawn >= torch.arange(count).unsqueeze(1)).long()
    return net_input


def one_row(net_input: dict[str, Tensor], row: int, length: int) -> dict[str, Tensor]:
    """A row of such a batch alone: no padding, no filler."""
    count = int(net_input["masked_weights"][row].sum())
    return {
        "source": net_input["source"][row : row + 1, :length],
        "mask_indices": net_input["mask_indices"][row : row + 1],
        "masked_positions": net_input["masked_positions"][row : row + 1, :count],
        "masked_weights": net_input["masked_weights"][row : row + 1, :count],
        "negative_indices": net_input["negative_indices"][row : row + 1, :count],
    }


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of all gradients; parameters without one have zeros."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of `theirs` (over 1e-6, if that is larger)."""
    return (ours - theirs).abs().max().item() / max(theirs.abs().max().item(), 1e-6)
