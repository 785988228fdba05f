"""The contrastive task: find a masked frame's target among N+1 candidates (Baevski et al. 2020, equation 3).

Letters: B utterances, M masked frames per row, K candidates per row (its M masked frames, or all T), N negatives, D
width. All logits are B x M x (1 + N); candidate 0 is the positive. Negatives equal to the positive are excluded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq.utils import is_hpu_tensor

_EPSILON = 1e-8  # same as torch.cosine_similarity


class Candidates(NamedTuple):
    """Targets that negatives are drawn from; row b's first `counts[b]` are valid."""

    targets: Tensor  # B x K x D
    codes: Tensor | None  # B x K: one number per codeword; None: not quantized, compare vectors
    counts: Tensor  # int64, B
    own: Tensor  # int64, B x M: index of each masked frame's own target


def draw_within_rows(candidates: Candidates, num_negatives: int) -> Tensor:
    """Draw negatives uniformly from the other valid candidates of each row; int64, B x M x N.

    Drawn with replacement, on the device, from its default generator. Rows with fewer than two candidates get
    meaningless indices, which are in range.
    """
    own, counts = candidates.own, candidates.counts
    drawn = _uniform_below((counts - 1).view(-1, 1, 1), (*own.shape, num_negatives))
    drawn = drawn + (drawn >= own.unsqueeze(-1)).long()  # step over the positive
    return drawn.clamp(max=candidates.targets.size(1) - 1)


def draw_across_rows(candidates: Candidates, num_negatives: int) -> Tensor:
    """Draw negatives from the valid candidates of all rows: int64, B x M x N, into the B*K candidates."""
    own, counts = candidates.own, candidates.counts
    width = candidates.targets.size(1)
    ends = counts.cumsum(0)
    begins = ends - counts
    rank = begins.unsqueeze(1) + own  # the positive's index among all valid candidates
    drawn = _uniform_below(ends[-1] - 1, (*own.shape, num_negatives))
    drawn = drawn + (drawn >= rank.unsqueeze(-1)).long()
    row = torch.searchsorted(ends, drawn, right=True).clamp(max=len(counts) - 1)
    return (row * width + drawn - begins[row]).clamp(max=counts.numel() * width - 1)


def _uniform_below(ends: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform integers in [0, ends), for ends below 2^24; 0 where an end is below 1."""
    ends = ends.clamp(min=1)
    return torch.minimum((torch.rand(shape, device=ends.device) * ends).long(), ends - 1)


def logits_within_rows(x: Tensor, candidates: Candidates, negatives: Tensor, temperature: float) -> Tensor:
    """Logits against candidates of the same utterance, gathered from the matrix of all similarities.

    Args:
        x: predictions, B x M x D.
        negatives: B x M x N, into the K candidates.
    """
    chosen = torch.cat([candidates.own.unsqueeze(-1), negatives], dim=-1)
    similarity = torch.bmm(unit(x), unit(candidates.targets).transpose(1, 2))  # B x M x K
    logits = similarity.gather(2, chosen) / temperature
    impossible = negatives >= candidates.counts.view(-1, 1, 1)
    out = impossible | _same_target(candidates, negatives)
    return _fill(logits, F.pad(out, (1, 0)))  # the positive, candidate 0, is never excluded


def logits_across_rows(x: Tensor, candidates: Candidates, negatives: Tensor, temperature: float) -> Tensor:
    """Logits of negatives from any utterance, B x M x N; `negatives` are indices into the B*K candidates."""
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
    """Logits of codewords drawn per masked frame: drawn B x M x N x D, is_positive B x M x N -> B x M x N."""
    return _fill(torch.einsum("bmd,bmnd->bmn", unit(x), unit(drawn)) / temperature, is_positive)


# -- under fairseq's names, for callers with their own losses ----------------------------------------------------------


def sample_negatives(
    y: Tensor, num: int, num_within: int, num_across: int, padding_count: int | None = None
) -> tuple[Tensor, Tensor]:
    """Draw negatives for `num` frames of each row, with the same results as fairseq for the same seed.

    They are drawn on the host, from torch's default generator.

    Args:
        y: candidates, B x K x D.
        num_within: negatives from a frame's own row, never the frame itself.
        num_across: additional negatives from all rows. fairseq: these avoid the frame itself in the first row only, and
            if both kinds are drawn, a frame can get negatives drawn for another frame.
        padding_count: padding candidates at the end of each row, excluded from negatives within a row.
    Returns:
        N x B x num x D, and their indices into the B*K candidates, int64, B x (num*N); empty tensors if N is 0.
    Raises:
        ValueError: fewer than two candidates to draw from.
    """
    if num_within + num_across == 0:
        return y.new_empty(0), torch.empty(0, dtype=torch.long, device=y.device)
    B, K, D = y.shape
    valid = K - (padding_count or 0)
    if valid < 2:
        raise ValueError(
            f"There are {valid} candidates per row ({B} rows of {K}, {padding_count or 0} of them padding). Negatives "
            "need at least 2."
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
    """Logits of the positive and its negatives: cosine similarity / temperature.

    Args:
        x: predictions, B x T x D.
        y: positives, B x T x D.
        negatives: N x B x T x D; those equal to their positive are excluded.
    Returns:
        (1+N) x B x T, in the dtype of `x`.
    """
    targets = torch.cat([y.unsqueeze(0), negatives], dim=0)
    logits = (torch.cosine_similarity(x.float(), targets.float(), dim=-1) / temperature).type_as(x)
    is_positive = (y == negatives).all(-1)
    return _fill(logits, torch.cat([torch.zeros_like(is_positive[:1]), is_positive], dim=0))


def unit(x: Tensor) -> Tensor:
    """Normalize vectors to length 1, in fp32 or wider."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1, eps=_EPSILON)


def _same_target(candidates: Candidates, negatives: Tensor) -> Tensor:
    """Which negatives equal the positive: bool, B x M x N."""
    if candidates.codes is not None:
        positive = candidates.codes.gather(1, candidates.own)
        drawn = candidates.codes.gather(1, negatives.flatten(1)).view(negatives.shape)
        return drawn == positive.unsqueeze(-1)
    return torch.stack([_same_vector(*row) for row in zip(candidates.targets, candidates.own, negatives, strict=True)])


def _same_vector(targets: Tensor, own: Tensor, negatives: Tensor) -> Tensor:
    """`_same_target` for one row of continuous targets: K x D, M, M x N -> M x N.

    All numbers are compared, one row at a time to limit memory.
    """
    targets = targets.detach()
    return (targets[own].unsqueeze(1) == targets.unsqueeze(0)).all(-1).gather(1, negatives)


def _fill(logits: Tensor, out: Tensor) -> Tensor:
    """Exclude candidates: their probability becomes 0."""
    # hpu: infinities produce NaN in the softmax kernels; exp(-2^30) is 0 too
    return logits.masked_fill(out, -(2.0**30) if is_hpu_tensor(logits) else float("-inf"))
