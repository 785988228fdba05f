"""The codebook over a run: which codewords are used, as a heat map, and how many as a table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fairseq.doctor.records import EPOCH
from fairseq.doctor.report.plots import UPDATE
from fairseq.doctor.report.runs import Run
from fairseq.pages.charts import HeatMap, Table, shown

_TIMES = 120  # columns of all heat maps of a group together
_ROWS = 40  # of the table


class _Counts:
    """The counts of one split over a run.

    Args:
        updates: N; counts: N x G x V.
    """

    def __init__(self, rows: list[Mapping[str, object]]) -> None:
        usable = [(row, counts) for row in rows if (counts := _counts(row.get("counts"))) is not None]
        shape = usable[-1][1].shape if usable else (0, 0)
        usable = [(row, counts) for row, counts in usable if counts.shape == shape]
        self.rows = [row for row, _ in usable]
        self.updates = np.asarray([int(str(row["num_updates"])) for row in self.rows], dtype=np.int64)
        self.counts = np.stack([counts for _, counts in usable]) if usable else np.zeros((0, *shape))

    def thinned(self, times: int) -> tuple[np.ndarray, np.ndarray]:
        """Add up the counts of neighbours until at most `times` remain: updates, N; counts, N x G x V."""
        if len(self.updates) <= times:
            return self.updates, self.counts
        begins = np.linspace(0, len(self.updates), times + 1).astype(int)[:-1]
        return self.updates[np.append(begins[1:], len(self.updates)) - 1], np.add.reduceat(self.counts, begins)


def _counts(value: object) -> np.ndarray | None:
    try:
        counts = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return counts if counts.ndim == 2 and counts.size else None


def codebook_parts(run: Run, runs: int) -> list[HeatMap | Table]:
    """Return a heat map for each group of the codebook, and a table; [] without counts."""
    by_split: dict[str, list[Mapping[str, object]]] = {}
    for row in run.records.codes:
        if isinstance(row.get("num_updates"), int):
            by_split.setdefault(str(row.get("split", EPOCH)), []).append(row)
    if not by_split:
        return []
    split = EPOCH if EPOCH in by_split else max(by_split, key=lambda name: len(by_split[name]))
    counted = _Counts(by_split[split])
    if not len(counted.updates):
        return []
    updates, counts = counted.thinned(max(20, _TIMES // runs))
    where = "in training" if split == EPOCH else f"on {split}"
    title = "Use of codewords" if runs == 1 else f"Use of codewords, {run.name}"
    parts: list[HeatMap | Table] = []
    for group in range(counts.shape[1]):
        of_group = counts[:, group]
        totals = of_group.sum(axis=1, keepdims=True)
        shares = np.divide(of_group, totals, out=np.zeros_like(of_group), where=totals > 0)
        order = np.argsort(-shares.mean(axis=0), kind="stable")
        unused = int((of_group[-1] == 0).sum())
        summary = (
            f"A row is a codeword, the one used most on top; a column is a time, {where}. At the end, {unused} of "
            f"{of_group.shape[1]} are unused."
        )
        parts.append(
            HeatMap(f"{title}, group {group + 1}", summary, UPDATE, updates, "codeword", order, shares[:, order].T)
        )
    return [*parts, _table(counted, title, where)]


def _table(counted: _Counts, title: str, where: str) -> Table:
    groups, codewords = counted.counts.shape[1:]
    head = [UPDATE]
    for group in range(1, groups + 1):
        head += [f"unused, group {group}", f"perplexity, group {group}"]
    head.append("changed, %")
    picked = np.unique(np.linspace(0, len(counted.updates) - 1, min(_ROWS, len(counted.updates))).astype(int))
    rows = []
    for i in picked.tolist():
        cells = [f"{counted.updates[i]:,}"]
        for counts in counted.counts[i]:
            cells += [str(int((counts == 0).sum())), shown(round(_perplexity(counts), 1))]
        changed = counted.rows[i].get("changed")
        cells.append(f"{100 * changed:.1f}" if isinstance(changed, (int, float)) else "-")
        rows.append(cells)
    return Table(f"{title} {where}: {codewords} in each group", head, rows, folded=len(rows) > 12)


def _perplexity(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / max(1.0, float(counts.sum()))
    return float(np.exp(-(shares * np.log(shares)).sum()))
