"""Compare the largest step of a run with the memory of cards."""

from __future__ import annotations

import torch

from fairseq.preflight import scaling
from fairseq.preflight.batches import Measured
from fairseq.preflight.host import CARDS
from fairseq.preflight.memory import bytes_of_negatives
from fairseq.preflight.report import Section, gigabytes

_PRECISION = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def largest(measured: list[Measured], recomputes: bool) -> Measured:
    """The shape that needs most memory."""
    return max(measured, key=lambda m: m.held(recomputes))


def describe(
    measured: list[Measured],
    demand: scaling.Demand,
    dtype: torch.dtype | None,
    cards: tuple[int, ...],
    limit: int,
    max_tokens: int | None,
    negatives: tuple[int, int] | None,
) -> Section:
    """Report the memory of the largest step in the run's precision and in fp32, with and without recomputation.

    Args:
        cards: sizes of cards in GB, to say which of them fit.
        limit: GB of the card that the run must fit into.
        max_tokens: dataset.max_tokens.
        negatives: N and C of the candidates, for the size of the tensor that is never made; None: another criterion.
    """
    section = Section(
        "Memory: lower bound in GB of the card, of what autograd keeps, parameters, gradients and optimizer state"
    )
    recomputes, weights = demand.recomputes, demand.own
    most = largest(measured, recomputes)
    single = max(measured, key=lambda m: m.held(recomputes, in_fp32=True))
    shape, precision = most.shape, _PRECISION[dtype]
    need = most.held(recomputes) + weights.on_device
    need_fp32 = single.held(recomputes, in_fp32=True) + weights.on_device

    held = {name: size for name, size in weights._asdict().items() if name not in ("exchanged", "offloaded")}
    parts = [
        f"{name} {gigabytes(size)}"
        for name, size in held.items()
        if size or name not in ("average", "buffers", "gathered")
    ]
    section.say("weights", f"{gigabytes(weights.on_device)} with {demand.strategy}: {', '.join(parts)}")
    kept = f"{gigabytes(most.held(recomputes))} of it kept for backward by {shape.rows} x {shape.samples:,} samples"
    section.say(f"in {precision}", f"{gigabytes(need)}, {kept}; {_fits(need, cards)}")
    if dtype is not None:
        section.say("in fp32", f"{gigabytes(need_fp32)}; {_fits(need_fp32, cards)}")
    extra = None
    if negatives is not None and single.shape.masked is not None:
        extra = bytes_of_negatives(single.shape.rows, single.shape.masked, *negatives)
        section.say(
            "negatives",
            f"scored with a similarity matrix; the (N+1) x B x M x C tensor would add {gigabytes(extra)}",
        )
    other = need_fp32_other = None
    if most.kept.recomputed is not None:
        other, need_fp32_other = (
            m.held(not recomputes, fp32) + weights.on_device for m, fp32 in ((most, False), (single, True))
        )
        in_fp32 = f", {gigabytes(need_fp32_other)} in fp32" if dtype is not None else ""
        setting = f"model.checkpoint_activations={str(not recomputes).lower()}"
        section.say(
            "recomputing" if not recomputes else "otherwise",
            f"{gigabytes(other)} in {precision}{in_fp32} with {setting}",
        )
    section.values.update(
        precision=precision,
        weights=held,
        strategy=demand.strategy,
        bytes=need,
        bytes_fp32=need_fp32,
        bytes_of_negatives=extra,
        recomputes=recomputes,
        bytes_other_way=other,
        bytes_fp32_other_way=need_fp32_other,
        to_device=most.to_device,
        fits=[name for name, size in CARDS.items() if scaling.fits(need, size)],
    )
    if not scaling.fits(need, limit):
        change = scaling.changes(demand, limit, max_tokens)
        section.problem(
            "out-of-memory",
            f"a step needs at least {gigabytes(need)} GB; the card has {limit} GB.",
            change[0].upper() + change[1:] if change.startswith("lower") else change,
        )
    return section


def _fits(need: int, cards: tuple[int, ...]) -> str:
    fitting = [str(size) for size in cards if scaling.fits(need, size)]
    return f"fits cards of {', '.join(fitting)} GB" if fitting else f"fits no card of {max(cards)} GB or less"
