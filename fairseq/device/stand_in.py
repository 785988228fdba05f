"""A device whose tensors live on the CPU and that answers as an HPU does: for looking at the HPU's branches where there is no card."""

from __future__ import annotations

from fairseq.device.base import Note
from fairseq.device.hpu import HpuDevice


class StandIn(HpuDevice):
    """Takes the branches marked `# hpu:` and the HPU's forms, on CPU tensors; nothing of the vendor's is imported."""

    type = "cpu"
    records_graphs = True  # gradients are zeroed in place, as in lazy mode

    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self._tensors_live_on = "cpu"

    def claim(self) -> None:
        """The CPU is nobody's."""

    def missing(self) -> str | None:
        return None

    def mark_step(self) -> None:
        """Nothing is recorded."""

    def memory_statistics(self) -> dict[str, float]:
        return {}

    def report(self) -> list[Note]:
        return []

    def describe(self) -> str:
        return "the CPU in an HPU's place"
