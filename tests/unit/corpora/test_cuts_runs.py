"""From probabilities to speech: thresholds, short pauses, edges by loudness, windows."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq.corpora.cuts.detector import STEP
from fairseq.corpora.cuts.edges import BLOCK, PER_STEP, outwards
from fairseq.corpora.cuts.runs import Piece, SpeechRuns
from fairseq.corpora.cuts.settings import CutSettings


def noise(frames: int, level: float = 0.001) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal(frames * STEP)).astype(np.float32)


def find(probabilities: np.ndarray, wave: np.ndarray, window: int = 64, **settings: float) -> list[Piece]:
    runs = SpeechRuns(CutSettings(**settings))
    found: list[Piece] = []
    for first in range(0, len(probabilities), window):
        part = slice(first, first + window)
        found += runs.feed(probabilities[part], wave[first * STEP : (first + window) * STEP])
    return found + runs.finish()


def in_frames(pieces: list[Piece]) -> list[tuple[float, float]]:
    return [(piece.start / STEP, piece.end / STEP) for piece in pieces]


def test_speech_begins_at_the_threshold_and_ends_below_the_release() -> None:
    probabilities = np.zeros(200, np.float32)
    probabilities[50:80] = [0.3, 0.45, *[0.9] * 20, *[0.3] * 5, 0.2, 0.3, 0.1]
    assert in_frames(find(probabilities, noise(200))) == [(51, 76)], "one frame is the model's delay"


def test_pauses_under_a_tenth_of_a_second_and_clicks_do_not_count() -> None:
    probabilities = np.zeros(300, np.float32)
    probabilities[20:40] = probabilities[42:60] = probabilities[63:80] = probabilities[200] = 0.9
    assert in_frames(find(probabilities, noise(300))) == [(20, 59), (63, 79)]


def test_speech_up_to_the_last_frame() -> None:
    probabilities = np.full(100, 0.9, np.float32)
    (piece,) = find(probabilities, noise(100))
    assert piece == Piece(0, 99 * STEP)


@pytest.mark.parametrize("window", [16, 96, 512])
def test_windows_change_nothing(window: int) -> None:
    rng = np.random.default_rng(1)
    probabilities = np.repeat(rng.uniform(0, 1, 600), rng.integers(1, 20, 600)).astype(np.float32)[:4096]
    wave = noise(4096) * np.repeat(rng.uniform(0, 10, 4096), STEP).astype(np.float32)
    assert find(probabilities, wave, window, longest=4.0) == find(probabilities, wave, 4096, longest=4.0)


@pytest.mark.parametrize("longest", [25.0, 4.0])  # with 4, it is handed on before it ends
def test_long_speech_comes_in_pieces_divided_at_the_quietest_places(longest: float) -> None:
    wave = noise(2000, 0.1)
    quiet = np.arange(8, 2000, 16) * STEP
    for place in quiet:
        wave[place : place + 640] *= 0.001
    pieces = find(np.full(2000, 0.9, np.float32), wave, 256, longest=longest)
    assert (pieces[0].start, pieces[-1].end) == (0, 1999 * STEP)
    assert all(now.start == before.end for before, now in zip(pieces, pieces[1:], strict=False))
    inside = np.array([piece.end for piece in pieces if piece.strain is not None])
    assert len(inside) > 100
    assert np.abs(inside - quiet[: len(inside)] - 320).max() <= 2 * BLOCK
    assert {piece.strain for piece in pieces[:-1]} == {1.0}
    assert max(piece.end - piece.start for piece in pieces[:-1]) < 2 * 16000
    assert pieces[-1].end - pieces[-1].start < longest * 16000


def test_an_edge_moves_out_over_a_hiss() -> None:
    speech, hiss, rest = np.full(60, 1e-2), np.full(20, 1e-4), np.full(80, 1e-7)
    assert outwards(speech, np.concatenate([hiss, rest]), late=False) in range(18, 23)
    assert outwards(speech, np.concatenate([hiss, rest]), late=True) in range(18, 23)
    assert outwards(speech, rest, late=False) == pytest.approx(1, abs=2)


def test_an_edge_stays_in_noise() -> None:
    speech, pause = np.full(60, 1e-2), np.full(100, 4e-3)
    assert (outwards(speech, pause, late=False), outwards(speech, pause, late=True)) == (0, -PER_STEP)


def test_an_edge_stops_at_a_distant_click() -> None:
    pause = np.full(100, 1e-7)
    pause[30] = 1e-2
    assert outwards(np.full(60, 1e-2), pause, late=False) < 5
