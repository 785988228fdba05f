"""Product quantization with the Gumbel softmax."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.utils import is_hpu_tensor


class GumbelVectorQuantizer(nn.Module):
    """Choose one of V learned codewords in each of G groups and concatenate them.

    Training draws a hard Gumbel-softmax sample with a straight-through gradient; evaluation uses the largest logit.
    Computed in the parameters' dtype, fp32, with autocast off: logits have a standard deviation of about 20, where bf16
    steps by 1/8.

    Args:
        dim: input channels C.
        num_vars: codewords per group, V.
        temp: Gumbel temperature (start, floor, factor per update).
        groups: G.
        combine_groups: share one set of codewords between all groups.
        vq_dim: width of the concatenated codewords, G * D.
        time_first: input and output are B x T x C (else B x C x T).
        activation: between the layers of a deep projection.
        weight_proj_depth: layers of the projection to logits.
        weight_proj_factor: inner width of a deep projection, as a multiple of `dim`.
        hard: sample one codeword; False mixes them by their soft probabilities.
        std: standard deviation of the initial codewords; 0 draws them uniformly from [0, 1).
    Raises:
        ValueError: `vq_dim` is not a multiple of `groups`, or `temp` does not have three values.
    Source: Baevski et al. 2020, section 2, "Quantization module".
    """

    def __init__(
        self,
        dim: int,
        num_vars: int,
        temp: Sequence[float],
        groups: int,
        combine_groups: bool,
        vq_dim: int,
        time_first: bool,
        activation: nn.Module | None = None,
        weight_proj_depth: int = 1,
        weight_proj_factor: int = 1,
        hard: bool = True,
        std: float = 0,
    ) -> None:
        super().__init__()
        if vq_dim % groups != 0:
            raise ValueError(
                f"The quantizer's width (model.latent_dim or final_dim) is {vq_dim}. It must be a multiple of "
                f"model.latent_groups={groups}."
            )
        if len(temp) != 3:
            raise ValueError(
                f"model.latent_temp is {temp}. It must have three numbers: start, floor, and factor per update."
            )
        self.groups = groups
        self.combine_groups = combine_groups
        self.input_dim = dim
        self.output_dim = vq_dim
        self.num_vars = num_vars
        self.time_first = time_first
        self.hard = hard

        self.vars = nn.Parameter(torch.empty(1, (1 if combine_groups else groups) * num_vars, vq_dim // groups))
        if std == 0:
            nn.init.uniform_(self.vars)
        else:
            nn.init.normal_(self.vars, mean=0, std=std)

        if weight_proj_depth > 1:
            self.weight_proj = self._deep_projection(
                activation or nn.GELU(), weight_proj_depth, dim * weight_proj_factor
            )
        else:
            self.weight_proj = nn.Linear(dim, groups * num_vars)
            nn.init.normal_(self.weight_proj.weight, mean=0, std=1)
            nn.init.zeros_(self.weight_proj.bias)

        self.max_temp, self.min_temp, self.temp_decay = (float(value) for value in temp)
        self.curr_temp = self.max_temp
        # curr_temp as a tensor, for recorded graphs
        self.temperature: Tensor
        self.register_buffer("temperature", torch.tensor(self.max_temp), persistent=False)

    def _deep_projection(self, activation: nn.Module, depth: int, width: int) -> nn.Sequential:
        blocks = [
            nn.Sequential(nn.Linear(self.input_dim if i == 0 else width, width), activation) for i in range(depth - 1)
        ]
        return nn.Sequential(*blocks, nn.Linear(width, self.groups * self.num_vars))

    def set_num_updates(self, num_updates: int) -> None:
        """Set the temperature for this update."""
        self.curr_temp = max(self.max_temp * self.temp_decay**num_updates, self.min_temp)
        device_layer.of(self.temperature).set_number(self.temperature, self.curr_temp)

    # -- codewords -----------------------------------------------------------------------------------------------------

    def grouped_vars(self) -> Tensor:
        """Codewords by group, G x V x D."""
        shared = self.vars.view(-1, self.num_vars, self.vars.size(-1))
        return shared.expand(self.groups, -1, -1)

    def look_up(self, codes: Tensor) -> Tensor:
        """Concatenated codewords for codes ... x G: ... x (G * D)."""
        rows = codes if self.combine_groups else codes + torch.arange(self.groups, device=codes.device) * self.num_vars
        return F.embedding(rows, self.vars[0]).flatten(-2)

    def draw_codes(self, *shape: int) -> Tensor:
        """Codes drawn uniformly from the whole codebook, shape x G, int64, on the quantizer's device."""
        return torch.randint(self.num_vars, (*shape, self.groups), device=self.vars.device)

    def sample_from_codebook(self, b: int, n: int) -> Tensor:
        """Draw n concatenated codewords uniformly for each of b places: b x n x (G * D).

        Raises:
            ValueError: the codebook does not have more than n entries.
        """
        if n >= self.num_vars**self.groups:
            raise ValueError(
                f"n={n} must be below the number of entries in the codebook, {self.num_vars**self.groups}."
            )
        return self.look_up(self.draw_codes(b, n))

    def get_codebook_indices(self) -> Tensor:
        """Row indices into `vars` for every combination of codes, flat: V^G * G."""
        codes = torch.tensor(list(product(range(self.num_vars), repeat=self.groups)), device=self.vars.device)
        if not self.combine_groups:
            codes = codes + torch.arange(self.groups, device=codes.device) * self.num_vars
        return codes.flatten()

    def codebook(self) -> Tensor:
        """Every concatenated codeword: V^G x (G * D)."""
        return self.vars[0].index_select(0, self.get_codebook_indices()).view(self.num_vars**self.groups, -1)

    def to_codebook_index(self, indices: Tensor) -> Tensor:
        """Combine codes to one number, ... x G -> ...: the codes are its digits in base V."""
        number = indices[..., 0]
        for group in range(1, self.groups):
            number = number * self.num_vars + indices[..., group]
        return number

    # -- quantization --------------------------------------------------------------------------------------------------

    def forward_idx(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantized vectors and their codes (B x T x G)."""
        result = self(x, produce_targets=True)
        return result["x"], result["targets"]

    def forward(self, x: Tensor, produce_targets: bool = False, weights: Tensor | None = None) -> dict[str, Any]:
        """Quantize.

        Args:
            x: B x T x C (B x C x T without `time_first`).
            produce_targets: also return the codes.
            weights: weight of each frame in the perplexities, B x T; None: all equal.
        Returns:
            x: quantized, B x T x (G * D), fp32 (transposed without `time_first`).
            targets: codes, B x T x G, with `produce_targets`.
            prob_perplexity, code_perplexity: effective number of codewords by mean probability and by largest logit,
                summed over groups; 0-dim.
            code_counts: how often each codeword had the largest logit, G x V, fp32.
            num_vars: G * V. temp: the current temperature.
        """
        if not self.time_first:
            x = x.transpose(1, 2)
        with device_layer.of(x).full_precision():
            # B x T x G x V
            logits = self.weight_proj(x.to(self.vars.dtype)).unflatten(-1, (self.groups, self.num_vars))
            result: dict[str, Any] = {"num_vars": self.num_vars * self.groups, "temp": self._temperature(logits)}
            with torch.no_grad():
                most_likely = one_hot(logits.argmax(-1), logits)
                result["code_counts"] = totals(most_likely, weights)
                result["code_perplexity"] = perplexity(most_likely, weights, result["code_counts"])
            result["prob_perplexity"] = perplexity(logits.softmax(-1), weights)

            picks, codes = self._pick(logits)
            quantized = self._join(picks, codes)
        if produce_targets:
            result["targets"] = codes
        result["x"] = quantized if self.time_first else quantized.transpose(1, 2)
        return result

    def _pick(self, logits: Tensor) -> tuple[Tensor | None, Tensor]:
        """Share of each codeword (B x T x G x V; None: one codeword each) and the codes (B x T x G)."""
        if not self.training:
            return None, logits.argmax(-1)
        waited = torch.empty_like(logits).exponential_()
        # hpu: its kernel is not documented to exclude 0, which would give infinite noise (bit-equal on CPU)
        if is_hpu_tensor(logits):
            waited = waited.clamp(min=torch.finfo(waited.dtype).tiny)
        soft = ((logits - waited.log()) / self._temperature(logits)).softmax(-1)
        codes = soft.argmax(-1)
        if not self.hard:
            return soft, codes
        # the bracket is exactly zero: codewords are bit-equal to the codebook's, gradients flow through the soft
        # probabilities
        return one_hot(codes, soft) + (soft - soft.detach()), codes

    def _temperature(self, like: Tensor) -> float | Tensor:
        # hpu: hpu_graphs and torch.compile would record a Python number as a constant; the tensor is read when the
        # graph runs (bit-equal)
        return self.temperature if is_hpu_tensor(like) else self.curr_temp

    def _join(self, picks: Tensor | None, codes: Tensor) -> Tensor:
        """Mix each group's codewords by their shares and concatenate the groups: B x T x (G * D)."""
        if picks is None:
            if not is_hpu_tensor(codes):
                return self.look_up(codes)
            # hpu: the backward pass of a table look-up is a scatter-add; with one-hot rows it is a matmul (equal on
            # CPU)
            picks = one_hot(codes, self.vars.new_empty(*codes.shape, self.num_vars))
        B, T = codes.shape[:2]
        rows = picks.flatten(0, 1).transpose(0, 1)  # G x BT x V
        return torch.bmm(rows, self.grouped_vars()).transpose(0, 1).reshape(B, T, -1)


def one_hot(codes: Tensor, like: Tensor) -> Tensor:
    """One-hot rows for codes, in the shape of `like` (torch's one_hot reads the codes on the host)."""
    if is_hpu_tensor(codes):  # hpu: a comparison is fused with the operations around it, a scatter is not (bit-equal)
        return (codes.unsqueeze(-1) == torch.arange(like.size(-1), device=codes.device, dtype=codes.dtype)).to(
            like.dtype
        )
    return torch.zeros_like(like).scatter_(-1, codes.unsqueeze(-1), 1.0)


def totals(shares: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the shares over all frames, G x V; see `perplexity`."""
    if weights is None:
        return shares.sum(dim=(0, 1))
    return torch.einsum("bt,btgv->gv", weights.to(shares.dtype), shares)


def perplexity(shares: Tensor, weights: Tensor | None = None, summed: Tensor | None = None) -> Tensor:
    """Exponential of the entropy of the mean shares over all frames, summed over groups; 0-dim.

    Args:
        shares: distribution over codewords, B x T x G x V.
        weights: weight of each frame, B x T; if all are 0, the result is finite but meaningless.
        summed: their `totals`, if the caller has them.
    """
    if weights is None:
        mean = shares.mean(dim=(0, 1))
    else:
        summed = totals(shares, weights) if summed is None else summed
        mean = summed / weights.to(shares.dtype).sum().clamp(min=1e-7)
    return torch.exp(-(mean * torch.log(mean + 1e-7)).sum(-1)).sum()
