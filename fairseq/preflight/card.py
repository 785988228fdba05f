"""Compare the largest step of a run with the memory of cards."""

from __future__ import annotations

import torch

from fairseq.preflight.batches import Measured
from fairseq.preflight.host import CARDS
from fairseq.preflight.memory import Weights, bytes_of_negatives
from fairseq.preflight.report import Section, gigabytes

_PRECISION = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def describe(
    measured: list[Measured],
    weights: Weights,
    dtype: torch.dtype | None,
    recomputes: bool,
    card: str | None,
    negatives: tuple[int, int] | None,
) -> Section:
    """Report the memory of the largest step in the run's precision and in fp32, with and without recomputation.

    Args:
        recomputes: model.checkpoint_activations.
        card: a key of CARDS; None: any card.
        negatives: N and C of the candidates, for the size of the tensor that is never made; None: another criterion.
    """
    section = Section(
        "Memory: lower bound in GB of the card, of what autograd keeps, parameters, gradients and optimizer state"
    )
    largest = max(measured, key=lambda m: m.held(recomputes))
    single = max(measured, key=lambda m: m.held(recomputes, in_fp32=True))
    shape, precision = largest.shape, _PRECISION[dtype]
    need = largest.held(recomputes) + weights.total
    need_fp32 = single.held(recomputes, in_fp32=True) + weights.total

    parts = [f"{name} {gigabytes(size)}" for name, size in weights._asdict().items()]
    section.say("weights", f"{gigabytes(weights.total)}: {', '.join(parts)}")
    kept = f"{gigabytes(largest.held(recomputes))} of it kept for backward by {shape.rows} x {shape.samples:,} samples"
    section.say(f"in {precision}", f"{gigabytes(need)}, {kept}; {_fits(need)}")
    if dtype is not None:
        section.say("in fp32", f"{gigabytes(need_fp32)}; {_fits(need_fp32)}")
    extra = None
    if negatives is not None and single.shape.masked is not None:
        extra = bytes_of_negatives(single.shape.rows, single.shape.masked, *negatives)
        section.say(
            "negatives",
            f"scored with a similarity matrix; the (N+1) x B x M x C tensor would add {gigabytes(extra)}",
        )
    other = need_fp32_other = None
    if largest.kept.recomputed is not None:
        other, need_fp32_other = (
            m.held(not recomputes, fp32) + weights.total for m, fp32 in ((largest, False), (single, True))
        )
        in_fp32 = f", {gigabytes(need_fp32_other)} in fp32" if dtype is not None else ""
        setting = f"model.checkpoint_activations={str(not recomputes).lower()}"
        section.say(
            "recomputing" if not recomputes else "otherwise",
            f"{gigabytes(other)} in {precision}{in_fp32} with {setting}",
        )
    section.values.update(
        precision=precision,
        weights=weights._asdict(),
        bytes=need,
        bytes_fp32=need_fp32,
        bytes_of_negatives=extra,
        recomputes=recomputes,
        bytes_other_way=other,
        bytes_fp32_other_way=need_fp32_other,
        to_device=largest.to_device,
        fits=[name for name, size in CARDS.items() if need <= size * 2**30],
    )
    _against(section, need, other if not recomputes else None, CARDS[card] if card else max(CARDS.values()))
    return section


def _against(section: Section, need: int, recomputed: int | None, limit: int) -> None:
    """Add a problem if the bound exceeds the card's `limit` in GB; suggest recomputation if that helps."""
    if need <= limit * 2**30:
        return
    smaller = "lower dataset.max_tokens or dataset.batch_size, and raise optimization.update_freq by the same factor."
    change = smaller.capitalize()
    if recomputed is not None and recomputed <= limit * 2**30:
        change = f"model.checkpoint_activations=true needs {gigabytes(recomputed)} GB; or {smaller}"
    section.problem("out-of-memory", f"a step needs at least {gigabytes(need)} GB; the card has {limit} GB.", change)


def _fits(need: int) -> str:
    fitting = [f"{size}" for size in CARDS.values() if need <= size * 2**30]
    return f"fits cards of {', '.join(fitting)} GB" if fitting else f"fits no card of {max(CARDS.values())} GB or less"
