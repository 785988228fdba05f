"""The contrastive task: which of N+1 candidates is a masked frame's own target (Baevski et al. 2020, equation 3)?

Letters: B utterances, M masked frames a row, K candidates a row (its M masked frames, or all T), N negatives, D width.
All logits are B x M x (1 + N), candidate 0 being the positive. Negatives that are the positive itself count as
impossible.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq.utils import is_hpu_tensor

_EPSILON = 1e-8  # as torch.cosine_similarity's


class Candidates(NamedTuple):
    """Targets that negatives are drawn from; row b's first `counts[b]` are valid."""

    targets: Tensor  # B x K x D
    codes: Tensor | None  # B x K: one number a codeword; None: targets are not quantized, equality is that of vectors
    counts: Tensor  # int64, B
    own: Tensor  # int64, B x M: where each masked frame's own target stands


def draw_within_rows(candidates: Candidates, num_negatives: int) -> Tensor:
    """Negatives of each masked frame, uniform over its utterance's other valid candidates, with replacement; int64, B x
    M x N.

    Drawn on the device from its default generator. Rows with fewer than two candidates get indices that are in range
    and mean nothing.
    """
    own, counts = candidates.own, candidates.counts
    drawn = _uniform_below((counts - 1).view(-1, 1, 1), (*own.shape, num_negatives))
    drawn = drawn + (drawn >= own.unsqueeze(-1)).long()  # step over the positive
    return drawn.clamp(max=candidates.targets.size(1) - 1)


def draw_across_rows(candidates: Candidates, num_negatives: int) -> Tensor:
    """The same over the valid candidates of all rows: int64, B x M x N, into the B*K flattened candidates."""
    own, counts = candidates.own, candidates.counts
    width = candidates.targets.size(1)
    ends = counts.cumsum(0)
    begins = ends - counts
    rank = begins.unsqueeze(1) + own  # the positive's number among all valid candidates
    drawn = _uniform_below(ends[-1] - 1, (*own.shape, num_negatives))
    drawn = drawn + (drawn >= rank.unsqueeze(-1)).long()
    row = torch.searchsorted(ends, drawn, right=True).clamp(max=len(counts) - 1)
    return (row * width + drawn - begins[row]).clamp(max=counts.numel() * width - 1)


def _uniform_below(ends: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Integers in [0, ends), uniform, for ends below 2^24; 0 where an end is below 1."""
    ends = ends.clamp(min=1)
    return torch.minimum((torch.rand(shape, device=ends.device) * ends).long(), ends - 1)


def logits_within_rows(x: Tensor, candidates: Candidates, negatives: Tensor, temperature: float) -> Tensor:
    """Logits against candidates of the same utterance: a gather from the matrix of all similarities.

    Args:
        x: predictions, B x M x D.
        negatives: B x M x N, into the K candidates.
    """
    chosen = torch.cat([candidates.own.unsqueeze(-1), negatives], dim=-1)
    similarity = torch.bmm(unit(x), unit(candidates.targets).transpose(1, 2))  # B x M x K
    logits = similarity.gather(2, chosen) / temperature
    impossible = negatives >= candidates.counts.view(-1, 1, 1)
    out = impossible | _same_target(candidates, negatives)
    return _fill(logits, F.pad(out, (1, 0)))  # the positive, candidate 0, always stays


def logits_across_rows(x: Tensor, candidates: Candidates, negatives: Tensor, temperature: float) -> Tensor:
    """Logits of negatives from any utterance, without the positive: B x M x N, `negatives` pointing into the B*K
    candidates.
    """
    B, M = negatives.shape[:2]
    similarity = unit(x).flatten(0, 1) @ unit(candidates.targets).flatten(0, 1).t()  # BM x BK
    logits = similarity.gather(1, negatives.flatten(0, 1)).view(negatives.shape) / temperature
    flat = Candidates(
        candidates.targets.reshape(1, -1, x.size(-1)),
        None if candidates.codes is None else candidates.codes.reshape(1, -1),
        candidates.counts.sum(0, keepdim=True),
        (candidates.own + torch.arange(B, device=x.device).unsqueeze(1) * candidates.targets.size(1)).view(1, -1),
    )
    same = _same_target(flat, negatives.view(1, B * M, -1)).view(negatives.shape)
    return _fill(logits, same)


def logits_against_codebook(x: Tensor, drawn: Tensor, is_positive: Tensor, temperature: float) -> Tensor:
    """Logits of codewords drawn for each masked frame: drawn B x M x N x D, is_positive B x M x N -> B x M x N."""
    return _fill(torch.einsum("bmd,bmnd->bmn", unit(x), unit(drawn)) / temperature, is_positive)


# -- by fairseq's names, for callers with losses of their own ----------------------------------------------------------


def sample_negatives(
    y: Tensor, num: int, num_within: int, num_across: int, padding_count: int | None = None
) -> tuple[Tensor, Tensor]:
    """Negatives for `num` frames of each row, drawn on the host from torch's default generator: fairseq's numbers after
    the same seed.

    Args:
        y: candidates, B x K x D.
        num_within: negatives from a frame's own row, never the frame itself.
        num_across: further negatives from all rows. fairseq: these avoid the frame itself in the first row only, and
            where both kinds are drawn, a frame may get those that were drawn for another.
        padding_count: candidates at the end of a row that are padding, and not drawn from its own row.
    Returns:
        N x B x num x D, and their indices into the B*K candidates, int64, B x (num*N); empty tensors where N is 0.
    Raises:
        ValueError: fewer than two candidates to draw from.
    """
    if num_within + num_across == 0:
        return y.new_empty(0), torch.empty(0, dtype=torch.long, device=y.device)
    B, K, D = y.shape
    valid = K - (padding_count or 0)
    if valid < 2:
        raise ValueError(
            f"negatives need two candidates in a row; these are {B} rows of {K}, {padding_count or 0} of them padding"
        )

    def draw(count: int, high: int) -> Tensor:
        own = torch.arange(num).repeat_interleave(count)
        drawn = torch.randint(high - 1, (B, count * num))
        return drawn + (drawn >= own).long()

    parts = []
    if num_within > 0:
        parts.append(draw(num_within, valid) + torch.arange(B).unsqueeze(1) * K)
    if num_across > 0:
        parts.append(draw(num_across, K * B))
    indices = torch.cat(parts, dim=1).to(y.device)
    negatives = y.reshape(-1, D)[indices.view(-1)]
    return negatives.view(B, num, num_within + num_across, D).permute(2, 0, 1, 3), indices


def compute_preds(x: Tensor, y: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Logits of the positive and its negatives: cosine similarities over the temperature, (1+N) x B x T, in the dtype
    of `x`.

    Args:
        x: predictions, B x T x D.
        y: positives, B x T x D.
        negatives: N x B x T x D; one that equals its positive has the logit of an impossible candidate.
    """
    targets = torch.cat([y.unsqueeze(0), negatives], dim=0)
    logits = (torch.cosine_similarity(x.float(), targets.float(), dim=-1) / temperature).type_as(x)
    is_positive = (y == negatives).all(-1)
    return _fill(logits, torch.cat([torch.zeros_like(is_positive[:1]), is_positive], dim=0))


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1, in fp32 at least."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1, eps=_EPSILON)


def _same_target(candidates: Candidates, negatives: Tensor) -> Tensor:
    """Which negatives equal the positive: bool, B x M x N."""
    if candidates.codes is not None:
        positive = candidates.codes.gather(1, candidates.own)
        drawn = candidates.codes.gather(1, negatives.flatten(1)).view(negatives.shape)
        return drawn == positive.unsqueeze(-1)
    return torch.stack([_same_vector(*row) for row in zip(candidates.targets, candidates.own, negatives, strict=True)])


def _same_vector(targets: Tensor, own: Tensor, negatives: Tensor) -> Tensor:
    """The same for one row of continuous targets, K x D, M, M x N -> M x N, by comparing every number; one row
    bounds the memory.
    """
    targets = targets.detach()
    return (targets[own].unsqueeze(1) == targets.unsqueeze(0)).all(-1).gather(1, negatives)


def _fill(logits: Tensor, out: Tensor) -> Tensor:
    """Make these candidates impossible."""
    # hpu: infinities make NaN in its softmax kernels; -2^30 has the same exponential, 0
    return logits.masked_fill(out, -(2.0**30) if is_hpu_tensor(logits) else float("-inf"))
