"""Shapes of batches, and the memory that a step of each needs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairseq import utils
from fairseq.data.batch import Batch
from fairseq.preflight import tiny
from fairseq.preflight.memory import Activations, MemoryMeter
from fairseq.preflight.plan import Shape, Split
from fairseq.preflight.report import Section, gigabytes, percent

_MANY = 16  # shapes; each takes seconds to minutes to compile
_WASTE = 0.3  # share of the samples that is padding or filler
_SHOWN = 16
_MEASURED = 8
_IN_FP32 = 2  # of those, the ones that keep most: only the largest step is reported in fp32


class Measured(NamedTuple):
    """Memory that a step of one shape needs, in bytes."""

    shape: Shape
    kept: Activations  # in the run's precision
    in_fp32: Activations  # like `kept` if that is fp32, or if other shapes need more
    on_host: int  # the batch as a worker makes it
    to_device: int  # the part that is copied to the card, int64 as int32

    def held(self, recomputes: bool, in_fp32: bool = False) -> int:
        """Bytes kept for backward, with the model's blocks recomputed or not."""
        kept = self.in_fp32 if in_fp32 else self.kept
        return kept.recomputed if recomputes and kept.recomputed is not None else kept.kept


def measure(meter: MemoryMeter, split: Split, shapes: list[Shape], dtype: torch.dtype | None) -> list[Measured]:
    """Measure the training shapes, at most the 8 largest.

    Raises:
        RuntimeError: shapes in the model depend on values.
    """
    chosen = sorted(shapes, key=lambda shape: shape.rows * shape.samples)[-_MEASURED:]
    measured = [_measure(meter, tiny.batch(split, shape.plan), shape, dtype) for shape in chosen]
    if dtype is None:
        return measured
    measured.sort(key=lambda m: m.kept.kept)
    largest = [
        m._replace(in_fp32=meter.activations(tiny.batch(split, m.shape.plan), None)) for m in measured[-_IN_FP32:]
    ]
    return [*measured[:-_IN_FP32], *largest]


def _measure(meter: MemoryMeter, sample: Batch, shape: Shape, dtype: torch.dtype | None) -> Measured:
    kept = meter.activations(sample, dtype)
    return Measured(shape, kept, kept, _bytes(sample, 8), _bytes(sample["net_input"], 4))


def _bytes(sample: object, integer: int) -> int:
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * (integer if tensor.dtype == torch.int64 else tensor.element_size()))
        return tensor

    utils.apply_to_sample(note, sample)
    return sum(sizes)


def describe(
    shapes: list[Shape], needs: dict[tuple[bool, int, int], int], static: bool, epoch_padding: float
) -> Section:
    """Make the table of shapes.

    Args:
        needs: bytes that a step needs, by the shape's key; shapes that were not measured are missing.
        static: each new shape compiles a new graph.
        epoch_padding: share of padding and filler in what all ranks compute in an epoch.
    """
    section = Section("Shapes")
    rows = []
    for shape in shapes:
        need = needs.get(shape.key)
        rows.append(
            [
                shape.split,
                str(shape.rows),
                f"{shape.samples:,}",
                *("-" if n is None else f"{n:,}" for n in (shape.frames, shape.masked)),
                f"{shape.batches:,}",
                percent(shape.padding),
                "-" if need is None else gigabytes(need),
            ]
        )
    if len(rows) > _SHOWN:
        half = _SHOWN // 2
        rows = [*rows[:half], ["...", *[""] * 7], *rows[-half:]]
    section.table(["", "B", "S", "T", "M", "batches", "padding", "GB at least"], rows)
    training = [shape for shape in shapes if shape.training]
    numbers = f"{len(training):,} shapes in training, {len(shapes) - len(training):,} in validation"
    section.say("", f"{numbers}; {percent(epoch_padding)} of an epoch's computation is padding and filler")
    fields = [name for name in Shape._fields if name != "plan"]
    section.values["shapes"] = [
        {**{name: getattr(s, name) for name in fields}, "bytes": needs.get(s.key)} for s in shapes
    ]
    section.values["padding"] = epoch_padding
    late = sum(not shape.batches for shape in training)
    if static and (late or len(training) > _MANY):
        changing = f", {late} of them new in the second epoch" if late else ""
        section.problem(
            "changing-shapes",
            f"training has {len(training):,} batch shapes{changing}, and each compiles a graph.",
            "Set task.enable_padding=true and task.num_batch_buckets=7.",
        )
    if epoch_padding > _WASTE:
        section.problem(
            "padding-waste",
            f"{percent(epoch_padding)} of the computation is padding or filler rows.",
            "More buckets (task.num_batch_buckets) reduce padding; fewer buckets, or a smaller dataset.batch_size, "
            "reduce filler rows.",
        )
    return section
