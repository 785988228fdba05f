"""Shapes of batches, and the memory that a step of each needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq import utils
from fairseq.preflight import tiny
from fairseq.preflight.host import CARDS
from fairseq.preflight.memory import Activations, Meter, Weights, bytes_of_negatives
from fairseq.preflight.plan import Shape, Split
from fairseq.preflight.report import Section, gigabytes, percent

_MANY = 16  # shapes; each is compiled, in seconds to minutes
_WASTE = 0.3  # share of the samples that is padding or filler
_SHOWN = 16
_MEASURED = 8
_PRECISION = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class Measured(NamedTuple):
    """What a step of one shape needs, in bytes."""

    shape: Shape
    kept: Activations
    in_fp32: Activations
    on_host: int  # the batch as a worker makes it
    to_device: int  # what of it is copied to the card, 64-bit integers as 32-bit ones


def measure(meter: Meter, split: Split, shapes: list[Shape], dtype: torch.dtype | None) -> list[Measured]:
    """Measure the training shapes, the largest of them where there are many.

    Raises:
        RuntimeError: the model does something whose shapes depend on its numbers.
    """
    chosen = sorted(shapes, key=lambda shape: shape.rows * shape.samples)[-_MEASURED:]
    return [_measure(meter, tiny.batch(split, shape.plan), shape, dtype) for shape in chosen]


def _measure(meter: Meter, sample: dict[str, Any], shape: Shape, dtype: torch.dtype | None) -> Measured:
    kept = meter.activations(sample, dtype)
    in_fp32 = kept if dtype is None else meter.activations(sample, None)
    return Measured(shape, kept, in_fp32, _bytes(sample, 8), _bytes(sample["net_input"], 4))


def _bytes(sample: Any, integer: int) -> int:
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * (integer if tensor.dtype == torch.int64 else tensor.element_size()))
        return tensor

    utils.apply_to_sample(note, sample)
    return sum(sizes)


def describe_shapes(shapes: list[Shape], measured: list[Measured], weights: Weights | None, static: bool, epoch_padding: float) -> Section:
    """The table of shapes.

    Args:
        static: a new shape is a new graph to compile.
        epoch_padding: share of padding and filler in all that the ranks compute in an epoch.
    """
    section = Section("Shapes")
    needs = {m.shape.key: m.kept.kept + (weights.total if weights else 0) for m in measured}
    rows = []
    for shape in shapes:
        need = needs.get(shape.key)
        rows.append([
            shape.split, str(shape.rows), f"{shape.samples:,}", *("-" if n is None else f"{n:,}" for n in (shape.frames, shape.masked)),
            f"{shape.batches:,}", percent(shape.padding), "-" if need is None else gigabytes(need),
        ])  # fmt: skip
    if len(rows) > _SHOWN:
        half = _SHOWN // 2
        rows = [*rows[:half], ["...", *[""] * 7], *rows[-half:]]
    section.table(["", "B", "S", "T", "M", "batches", "padding", "GB at least"], rows)
    training = [shape for shape in shapes if shape.training]
    section.say(
        "", f"{len(training)} shapes in training, {len(shapes) - len(training)} in validation; {percent(epoch_padding)} padding and filler"
    )
    section.values["shapes"] = [{**shape._asdict(), "plan": None, "bytes": needs.get(shape.key)} for shape in shapes]
    for values in section.values["shapes"]:
        del values["plan"]
    section.values["padding"] = epoch_padding
    late = sum(not shape.batches for shape in training)
    if static and (late or len(training) > _MANY):
        changing = f", {late} of them first met in the second epoch" if late else ""
        section.problem(
            "changing-shapes", f"training has {len(training)} batch shapes{changing}: each is a graph to compile, and new ones keep coming.",
            "Set task.enable_padding=true and task.num_batch_buckets=7.",
        )  # fmt: skip
    if epoch_padding > _WASTE:
        section.problem(
            "padding-waste", f"{percent(epoch_padding)} of what is computed is padding or rows that fill a batch up.",
            "More buckets (task.num_batch_buckets) pad less; fewer, or a smaller dataset.batch_size, need fewer filling rows.",
        )  # fmt: skip
    return section


def describe_memory(
    measured: list[Measured], weights: Weights, dtype: torch.dtype | None, card: str | None, negatives: tuple[int, int] | None
) -> Section:
    """The largest step against the cards' memory.

    Args:
        negatives: N and the width C of the candidates, for the tensor that is not made here; None: another criterion.
    """
    section = Section("Memory: GB of the card, a lower bound: what autograd keeps, parameters, gradients, optimizer state")
    largest = max(measured, key=lambda m: m.kept.kept)
    shape, precision = largest.shape, _PRECISION[dtype]
    parts = [f"{name} {gigabytes(size)}" for name, size in weights._asdict().items()]
    section.say("weights", f"{gigabytes(weights.total)}: {', '.join(parts)}")
    need = largest.kept.kept + weights.total
    kept = f"{gigabytes(largest.kept.kept)} of them kept by autograd for {shape.rows} x {shape.samples:,} samples"
    section.say(f"in {precision}", f"{gigabytes(need)}, {kept}; {_fits(need)}")
    single = max(measured, key=lambda m: m.in_fp32.kept)
    if dtype is not None:
        section.say("in fp32", f"{gigabytes(single.in_fp32.kept + weights.total)}; {_fits(single.in_fp32.kept + weights.total)}")
    extra = None
    if negatives is not None and shape.masked is not None:
        extra = bytes_of_negatives(single.shape.rows, single.shape.masked, *negatives)
        section.say("negatives", f"a similarity matrix stands for them; the (N+1) x B x M x C tensor would have added {gigabytes(extra)}")
    checkpointed = largest.kept.recomputed
    if checkpointed is not None:
        fp32 = f", {gigabytes(single.in_fp32.recomputed + weights.total)} in fp32" if dtype is not None else ""
        section.say("recomputing", f"{gigabytes(checkpointed + weights.total)} in {precision}{fp32} with model.checkpoint_activations=true")
    section.values.update(
        precision=precision, weights=weights._asdict(), bytes=need, bytes_fp32=single.in_fp32.kept + weights.total, bytes_of_negatives=extra,
        bytes_checkpointed=None if checkpointed is None else checkpointed + weights.total,
        bytes_checkpointed_fp32=None if checkpointed is None else single.in_fp32.recomputed + weights.total,
        saved=largest.kept.kept, to_device=largest.to_device, fits=[name for name, size in CARDS.items() if need <= size * 2**30],
    )  # fmt: skip
    limit = CARDS[card] if card else max(CARDS.values())
    if need > limit * 2**30:
        way_out = "ower dataset.max_tokens or dataset.batch_size, and raise optimization.update_freq as much."
        saves = checkpointed is not None and checkpointed + weights.total <= limit * 2**30
        first = f"model.checkpoint_activations=true needs {gigabytes(checkpointed + weights.total)} GB; or l" if saves else "L"
        way_out = first + way_out
        section.problem("out-of-memory", f"a step needs {gigabytes(need)} GB at least, and the card has {limit}.", way_out)
    return section


def _fits(need: int) -> str:
    fitting = [f"{size}" for size in CARDS.values() if need <= size * 2**30]
    return f"fits cards of {', '.join(fitting)} GB" if fitting else f"fits no card of {max(CARDS.values())} GB or less"
