"""Where to cut: a balanced plan of segments over stretches of speech.

The rule, for stretches with pauses of at most `join` between them, minimises the sum of

- ((length - target) / target) squared, for each segment;
- 2 for each segment under the shortest length, which is left out;
- 0.1 for a cut at a very short pause, less at a longer one, 0 at half a second or longer;
- 1 to 2 for a cut within speech, less at a quieter place. Only speech too long for a segment has such places. Where
  loudness has closed a pause, it is 1.

A longer pause is always cut. So there is one best plan for each group of stretches, found by dynamic programming.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairseq.corpora.cuts.detector import RATE
from fairseq.corpora.cuts.runs import Piece
from fairseq.corpora.cuts.settings import CutSettings, samples

_LEFT_OUT = 2.0
_AT_PAUSE, _CLOSED = 0.1, 1.0
_LONG_PAUSE = RATE // 2
_HORIZON = 24  # longest segments planned together: 10 minutes by default. Later speech does not change the first half


class Group(NamedTuple):
    """Consecutive pieces that become a segment."""

    first: int
    last: int
    start: int  # samples at 16 kHz, with padding
    end: int


class Planner:
    """Plans the segments of one recording from its pieces, in order.

    `segments` are the finished ones, as (start, end) in samples at 16 kHz; `short` are those left out.
    """

    def __init__(self, settings: CutSettings) -> None:
        self._settings = settings
        self._join = samples(settings.join)
        self._horizon = _HORIZON * samples(settings.longest)
        self._pieces: list[Piece] = []
        self._before = 0  # where the speech before these pieces ends
        self.speech = 0
        self.segments: list[tuple[int, int]] = []
        self.short: list[tuple[int, int]] = []

    def add(self, piece: Piece) -> None:
        self.speech += piece.end - piece.start
        if self._pieces and piece.start - self._pieces[-1].end > self._join:
            self._accept(self._plan(piece.start))
        self._pieces.append(piece)
        if piece.end - self._pieces[0].start > self._horizon:
            middle = (piece.end + self._pieces[0].start) // 2
            planned = self._plan(piece.end)
            self._accept([group for group in planned if group.end <= middle] or planned[:1])

    def finish(self, end: int) -> None:
        """Plan the rest of a recording that is `end` samples long."""
        if self._pieces:
            self._accept(self._plan(end, is_end=True))

    def _accept(self, groups: list[Group]) -> None:
        shortest = samples(self._settings.shortest)
        for group in groups:
            (self.segments if group.end - group.start >= shortest else self.short).append((group.start, group.end))
        self._before = self._pieces[groups[-1].last].end
        del self._pieces[: groups[-1].last + 1]

    def _plan(self, after: int, is_end: bool = False) -> list[Group]:
        """Group the pieces; speech, or the end of the recording, follows at `after`."""
        pieces, longest = self._pieces, samples(self._settings.longest) - 1
        starts, ends, gaps = self._padded(after, is_end)
        costs, firsts = [0.0], [0]
        for last, piece in enumerate(pieces):
            best, choice = np.inf, last
            for first in range(last, -1, -1):
                length = ends[last] - starts[first]
                if length > longest and first < last:
                    break
                cost = costs[first] + self._cost(length)
                if cost < best:
                    best, choice = cost, first
            costs.append(best + _cut_cost(piece, gaps[last]))
            firsts.append(choice)
        groups: list[Group] = []
        last = len(pieces) - 1
        while last >= 0:
            first = firsts[last + 1]
            groups.append(Group(first, last, starts[first], ends[last]))
            last = first - 1
        return groups[::-1]

    def _padded(self, after: int, is_end: bool) -> tuple[list[int], list[int], list[int]]:
        """Return where a segment would start or end at each piece, with padding; and the pauses after the pieces.

        Two segments share a pause: each takes at most half of it.
        """
        pad, before = samples(self._settings.pad), self._before
        starts, ends, gaps = [], [], []
        for number, piece in enumerate(self._pieces):
            is_last = number == len(self._pieces) - 1
            gap = max(0, (after if is_last else self._pieces[number + 1].start) - piece.end)
            starts.append(piece.start - min(pad, (piece.start - before) // (2 if before else 1)))
            ends.append(piece.end + min(pad, gap // (1 if is_last and is_end else 2)))
            gaps.append(gap)
            before = piece.end
        return starts, ends, gaps

    def _cost(self, length: int) -> float:
        seconds, target = length / RATE, self._settings.target_seconds
        left_out = _LEFT_OUT if seconds < self._settings.shortest else 0.0
        return ((seconds - target) / target) ** 2 + left_out


def _cut_cost(piece: Piece, gap: int) -> float:
    if piece.strain is not None:
        return piece.strain
    return _AT_PAUSE * max(0.0, 1 - gap / _LONG_PAUSE) if gap > 0 else _CLOSED
