"""The best CTC path through a given sequence of labels: exact, for recordings of any length.

L labels make 2 L + 1 states: a blank before, between and after the labels. An hour of speech has about 180,000 frames
and 50,000 labels, so 2e10 cells of a table, which fit neither memory nor disk. Kept instead are

- the scores of all states after every `BLOCK` frames (checkpoints), and
- the log-probabilities of the columns in use,

both in temporary files if they are large. Going back from the end, each block of frames is computed again from its
checkpoint, for the few states from which the path's end can be reached: a path moves by at most one label per frame.
Nothing is pruned and no place is guessed: the result is that of the whole table.

Scores are float64: in float32, sums over an hour have steps of 0.004, and would choose between paths by rounding.

Source: Graves et al. 2006, section 4 (states and transitions); checkpointed dynamic programming, Grice et al. 1997.
"""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple

import numpy as np

from fairseq.alignment.store import ArrayStore

BLOCK = 1024  # frames between checkpoints; going back takes 2 * BLOCK * BLOCK * 8 bytes (16 MB)
IN_BLANK = -1


class Path(NamedTuple):
    """The best path."""

    positions: np.ndarray  # T, int32: index of the label in each frame, or IN_BLANK
    log_probs: np.ndarray  # T, float32: of the path's symbol in each frame
    score: float  # their sum


def frames_needed(labels: np.ndarray) -> int:
    """Return the smallest number of frames: one for each label, and a blank between equal neighbours."""
    return len(labels) + int(np.count_nonzero(labels[1:] == labels[:-1]))


class Viterbi:
    """Finds the best path from log-probabilities that arrive in pieces; use it in a `with` block.

    Args:
        labels: column of each label, L, int; the blank is column `blank`.
        num_frames: T, the frames that will be fed, or a few more.
        block: frames between checkpoints.
    Raises:
        ValueError: there are fewer frames than the labels need.
    """

    def __init__(self, labels: np.ndarray, num_frames: int, blank: int = 0, block: int = BLOCK) -> None:
        self._labels = np.asarray(labels, dtype=np.intp)
        assert not np.any(self._labels == blank), "a label is the blank"
        needed = frames_needed(self._labels)
        if num_frames < needed:
            raise ValueError(
                f"the text needs at least {needed:,} frames, one for each of its {len(labels):,} units and one between "
                f"equal units, but the audio has {num_frames:,}. The text is longer than what is said, or the "
                "recording is incomplete."
            )
        self._num_frames, self._blank, self._block = num_frames, blank, block
        self._repeats = 1 + np.flatnonzero(self._labels[1:] == self._labels[:-1])  # labels equal to the one before
        self._scores = _Scores.before_the_first_frame(len(self._labels))
        self._frame = 0
        self._checkpoints, self._pieces = ArrayStore(), ArrayStore()
        self._waiting: list[np.ndarray] = []

    def __enter__(self) -> Viterbi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._checkpoints.__exit__(kind, error, trace)
        self._pieces.__exit__(kind, error, trace)

    def feed(self, log_probs: np.ndarray) -> None:
        """Take the next frames, T' x columns, float32.

        Raises:
            ValueError: a value is NaN.
        """
        if np.isnan(log_probs).any():
            raise ValueError("the model's outputs have NaN: the checkpoint is damaged, or the precision is too low.")
        for begin in range(0, len(log_probs), self._block):
            self._waiting.append(log_probs[begin : begin + self._block])
            while sum(map(len, self._waiting)) >= self._block:
                rows = np.concatenate(self._waiting)
                self._waiting = [rows[self._block :]]
                self._forward(rows[: self._block])

    def _forward(self, rows: np.ndarray) -> None:
        """Compute the scores after a block of frames, and keep what is needed to do it again."""
        self._checkpoints.append(self._scores.of_labels)
        self._checkpoints.append(self._scores.of_blanks)
        self._pieces.append(rows)
        for row in rows.astype(np.float64):
            self._step(self._scores, row, self._frame, 0, len(self._labels))
            self._frame += 1

    def _step(self, scores: _Scores, row: np.ndarray, frame: int, low: int, high: int) -> None:
        """Replace scores after `frame` - 1 by those after `frame`, for labels `low` to `high` and the blanks around.

        Labels that cannot be reached yet are left out, and those from which the end cannot be reached any more.
        `scores` begins with label `low`; what lies before it is taken as unreachable.
        """
        first = max(low, len(self._labels) - (self._num_frames - frame) - 1)
        end = min(high, frame + 1)
        labels, blanks = scores.of_labels[first - low : end - low], scores.of_blanks[first - low : end - low + 1]
        begin, stop = np.searchsorted(self._repeats, (first, end))
        equal = self._repeats[begin:stop] - first
        without_skip = np.maximum(labels[equal], blanks[equal])
        np.maximum(blanks[1:], labels, out=blanks[1:])
        np.maximum(labels[1:], blanks[1:-1], out=labels[1:])  # the blank has the label before it by now: the skip
        if len(labels):
            labels[0] = max(labels[0], blanks[0])
        labels[equal] = without_skip
        labels += row.take(self._labels[first:end])
        blanks += row[self._blank]

    def finish(self) -> Path:
        """Return the best path, once all frames are fed.

        Raises:
            ValueError: every path has probability 0.
        """
        rows = np.concatenate(self._waiting) if self._waiting else np.zeros((0, 0), np.float32)
        self._waiting = []
        if len(rows):
            self._forward(rows)
        assert self._frame <= self._num_frames, f"{self._frame} frames were fed, more than {self._num_frames}"
        count = len(self._labels)
        positions = np.full(self._frame, IN_BLANK, dtype=np.int32)
        log_probs = np.zeros(self._frame, dtype=np.float32)
        last_label = self._scores.of_labels[-1] if count else -np.inf
        in_blank = bool(self._scores.of_blanks[-1] >= last_label)
        if max(self._scores.of_blanks[-1], last_label) == -np.inf:
            raise ValueError("every path through the text has probability 0.")
        state = 2 * count if in_blank else 2 * count - 1  # even: blank; odd: label (state - 1) / 2
        end = self._frame
        for number in range(len(self._pieces) - 1, -1, -1):
            rows = self._pieces[number]
            begin = end - len(rows)
            states = self._back(number, rows, begin, state)
            inner = states[1:]
            positions[begin:end] = np.where(inner % 2 == 1, inner // 2, IN_BLANK)
            columns = np.full(len(inner), self._blank, dtype=np.intp)
            spoken = inner % 2 == 1
            columns[spoken] = self._labels[inner[spoken] // 2]
            log_probs[begin:end] = rows[np.arange(len(rows)), columns]
            state, end = int(states[0]), begin
        return Path(positions, log_probs, float(log_probs.sum(dtype=np.float64)))

    def _back(self, number: int, rows: np.ndarray, begin: int, state: int) -> np.ndarray:
        """Return the best path's states before and in a block, given the one in its last frame.

        Returns:
            States, 1 + T': first that of the frame before the block, or 0 or 1 at the beginning.
        """
        high = (state + 1) // 2  # labels up to the state's
        low = max(0, high - len(rows) - 1)
        checkpoint = [self._checkpoints[2 * number][low:high], self._checkpoints[2 * number + 1][low : high + 1]]
        scores = _Scores(checkpoint[0].copy(), checkpoint[1].copy())
        labels = np.empty((len(rows), high - low))
        blanks = np.empty((len(rows), high - low + 1))
        for offset, row in enumerate(rows.astype(np.float64)):
            labels[offset], blanks[offset] = scores.of_labels, scores.of_blanks  # before this frame
            self._step(scores, row, begin + offset, low, high)
        states = np.zeros(len(rows) + 1, dtype=np.int64)
        states[-1] = state
        for offset in range(len(rows) - 1, -1, -1):
            label = state // 2 - low
            if state % 2 == 0:
                state -= int(label > 0 and labels[offset, label - 1] > blanks[offset, label])
            else:
                stay, from_blank = labels[offset, label], blanks[offset, label]
                skip = -np.inf
                if label > 0 and self._labels[low + label] != self._labels[low + label - 1]:
                    skip = labels[offset, label - 1]
                if skip > max(stay, from_blank):
                    state -= 2
                elif from_blank > stay:
                    state -= 1
            states[offset] = state
        return states


class _Scores(NamedTuple):
    """Log-probability of the best path to each state; -inf: unreachable."""

    of_labels: np.ndarray  # L, float64
    of_blanks: np.ndarray  # L + 1, float64: before each label, and after the last

    @classmethod
    def before_the_first_frame(cls, count: int) -> _Scores:
        """A path begins in the first blank, or through it in the first label."""
        blanks = np.full(count + 1, -np.inf)
        blanks[0] = 0.0
        return cls(np.full(count, -np.inf), blanks)


def best_path(log_probs: np.ndarray, labels: np.ndarray, blank: int = 0, block: int = BLOCK) -> Path:
    """Return the best CTC path through `labels`.

    Args:
        log_probs: T x columns, float32.
        labels: column of each label, L.
    Raises:
        ValueError: there are too few frames, a value is NaN, or every path has probability 0.
    """
    with Viterbi(labels, len(log_probs), blank, block) as viterbi:
        viterbi.feed(log_probs)
        return viterbi.finish()
