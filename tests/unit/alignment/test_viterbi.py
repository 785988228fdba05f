"""The best path through a text, against a table of all states and against all paths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fairseq.alignment.store import ArrayStore
from fairseq.alignment.viterbi import IN_BLANK, Path, Viterbi, best_path, frames_needed


def emissions(frames: int, columns: int, seed: int) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(frames, columns)) * 3
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def by_trying_all(log_probs: np.ndarray, labels: list[int]) -> float:
    """The best score of all sequences of columns that collapse to the labels."""
    frames, columns = log_probs.shape
    best = -np.inf
    for path in itertools.product(range(columns), repeat=frames):
        collapsed = [column for column, _ in itertools.groupby(path) if column != 0]
        if collapsed == labels:
            best = max(best, float(log_probs[np.arange(frames), path].sum(dtype=np.float64)))
    return best


def by_whole_table(log_probs: np.ndarray, labels: np.ndarray) -> float:
    """The textbook's table over all states, without any of the shortcuts."""
    symbols = np.zeros(2 * len(labels) + 1, dtype=int)
    symbols[1::2] = labels
    scores = np.full(len(symbols), -np.inf)
    scores[0] = 0.0
    for row in log_probs.astype(np.float64):
        moved = scores.copy()
        moved[1:] = np.maximum(moved[1:], scores[:-1])
        skips = np.flatnonzero((symbols[2:] != 0) & (symbols[2:] != symbols[:-2])) + 2
        moved[skips] = np.maximum(moved[skips], scores[skips - 2])
        scores = moved + row[symbols]
    return float(scores[-2:].max())


def check(path: Path, log_probs: np.ndarray, labels: np.ndarray) -> None:
    """The path must say the labels, and its log-probabilities and score must be those of its symbols."""
    columns = np.array([0 if position == IN_BLANK else labels[position] for position in path.positions])
    assert [column for column, _ in itertools.groupby(columns) if column != 0] == labels.tolist()
    np.testing.assert_array_equal(path.log_probs, log_probs[np.arange(len(log_probs)), columns])
    assert path.score == pytest.approx(float(path.log_probs.sum(dtype=np.float64)), abs=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_best_of_all_paths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 3, int(rng.integers(0, 4)))
    log_probs = emissions(7, 3, seed)
    path = best_path(log_probs, labels)
    check(path, log_probs, labels)
    assert path.score == pytest.approx(by_trying_all(log_probs, labels.tolist()), abs=1e-9)


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1024])
@pytest.mark.parametrize("seed", range(6))
def test_score_of_the_whole_table_for_any_block(seed: int, block: int) -> None:
    rng = np.random.default_rng(100 + seed)
    frames = int(rng.integers(60, 200))
    labels = rng.integers(1, 5, int(frames * rng.uniform(0.05, 0.7)))
    log_probs = emissions(frames, 5, seed)
    path = best_path(log_probs, labels, block=block)
    check(path, log_probs, labels)
    assert path.score == pytest.approx(by_whole_table(log_probs, labels), abs=1e-6)
    assert path.positions.tolist() == best_path(log_probs, labels, block=1 << 20).positions.tolist()


def test_no_frame_to_spare() -> None:
    labels = np.array([1, 1, 2, 2, 2, 1])
    log_probs = emissions(frames_needed(labels), 3, 1)
    assert frames_needed(labels) == 9
    path = best_path(log_probs, labels, block=4)
    assert path.positions.tolist() == [0, IN_BLANK, 1, 2, IN_BLANK, 3, IN_BLANK, 4, 5]
    with pytest.raises(ValueError, match=r"at least 9 frames.*the audio has 8"):
        best_path(log_probs[:8], labels)


def test_pieces_of_any_size_give_the_same_path() -> None:
    log_probs, labels = emissions(300, 6, 3), np.random.default_rng(3).integers(1, 6, 90)
    expected = best_path(log_probs, labels)
    with Viterbi(labels, 300, block=50) as viterbi:
        for piece in np.split(log_probs, [1, 3, 120, 121]):
            viterbi.feed(piece)
        assert viterbi.finish().positions.tolist() == expected.positions.tolist()


def test_no_labels_and_impossible_ones() -> None:
    log_probs = emissions(4, 3, 1)
    assert best_path(log_probs, np.zeros(0, int)).positions.tolist() == [IN_BLANK] * 4
    with pytest.raises(ValueError, match="NaN"):
        best_path(np.full((4, 3), np.nan, np.float32), np.array([1]))
    log_probs[:, 1] = -np.inf
    with pytest.raises(ValueError, match="probability 0"):
        best_path(log_probs, np.array([1]))


def test_store_returns_what_was_appended_from_disk_too() -> None:
    arrays = [np.random.default_rng(n).normal(size=(n + 1, 100_000)) for n in range(4)]  # 8 MB in all
    with ArrayStore() as store:
        for array in arrays:
            store.append(array)
        for number in (3, 0, 2, 1):
            np.testing.assert_array_equal(store[number], arrays[number])
        store.append(np.arange(3, dtype=np.int32))
        assert store[4].tolist() == [0, 1, 2] and len(store) == 5
