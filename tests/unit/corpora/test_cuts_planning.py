"""The plan of segments: lengths, pauses, padding, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq.corpora.cuts.detector import RATE
from fairseq.corpora.cuts.planning import Planner
from fairseq.corpora.cuts.runs import Piece
from fairseq.corpora.cuts.settings import CutSettings


def pieces(*spans: tuple[float, float]) -> list[Piece]:
    return [Piece(round(first * RATE), round(end * RATE)) for first, end in spans]


def plan(found: list[Piece], total: float, settings: CutSettings | None = None) -> tuple[list[list[float]], Planner]:
    planner = Planner(settings or CutSettings())
    for piece in found:
        planner.add(piece)
    planner.finish(round(total * RATE))
    return [[first / RATE, end / RATE] for first, end in planner.segments], planner


def in_turn(count: int, speech: float, pause: float) -> list[Piece]:
    return pieces(*((number * (speech + pause), number * (speech + pause) + speech) for number in range(count)))


def test_padding_is_cut_off_at_the_ends_of_the_recording() -> None:
    assert plan(pieces((0.04, 4.0), (7.0, 11.0)), 11.05)[0] == [[0.0, 4.1], [6.9, 11.05]]


def test_neighbours_share_a_pause() -> None:
    segments, _ = plan(pieces((1.0, 14.0), (14.1, 27.0)), 30)
    assert segments == [[pytest.approx(0.9), pytest.approx(14.05)], [pytest.approx(14.05), pytest.approx(27.1)]]


def test_short_speech_is_joined_across_short_pauses_only() -> None:
    segments, planner = plan(pieces((1, 2), (2.5, 3.5), (9, 10)), 20)
    assert segments == [[pytest.approx(0.9), pytest.approx(3.6)]]
    assert [tuple(np.array(span) / RATE) for span in planner.short] == [(pytest.approx(8.9), pytest.approx(10.1))]


def test_a_long_pause_is_always_cut() -> None:
    found = pieces((0, 3), (4.2, 7))
    assert len(plan(found, 8)[0]) == 2
    assert len(plan(found, 8, CutSettings(join=1.5))[0]) == 1


def test_lengths_are_balanced() -> None:
    """32 s of speech: filling up to --max would leave a rest of 7 s."""
    segments, _ = plan(in_turn(8, 3.8, 0.3), 33)
    lengths = [end - first for first, end in segments]
    assert len(lengths) == 2 and max(lengths) - min(lengths) < 0.5


def test_the_longer_of_two_pauses_is_cut() -> None:
    found = pieces((0, 14), (14.2, 16), (16.6, 30))
    assert [round(end) for _, end in plan(found, 30)[0]] == [16, 30]


def test_speech_is_cut_within_only_if_it_must_be_and_at_the_clearest_place() -> None:
    """30 s without a pause: candidates every second, of which the one at 13 s is the clearest."""
    strains = [1.9] * 29
    strains[12] = 1.0
    found = [Piece(second * RATE, (second + 1) * RATE, strain) for second, strain in enumerate([*strains, None])]
    assert plan(found, 31)[0] == [[0, 13], [13, pytest.approx(30.1)]]
    short = [*found[:19], found[19]._replace(strain=None)]
    assert plan(short, 22)[0] == [[0, pytest.approx(20.1)]]


def test_a_pause_that_loudness_has_closed_is_not_a_pause() -> None:
    """Segments of 10 and 15 s would be better balanced than those of 17 and 8 s, but the first cut is in a sound."""
    closed = pieces((0, 10), (10, 17), (17.1, 24.8))
    assert [round(end) for _, end in plan(closed, 30)[0]] == [17, 25]
    assert [round(end) for _, end in plan(pieces((0, 10), (10.1, 17), (17.1, 24.8)), 30)[0]] == [10, 25]
    assert len(plan(pieces((0, 14), (14, 24)), 30)[0]) == 1 and len(plan(pieces((0, 14), (14.5, 24)), 30)[0]) == 2


def test_limits_hold_and_nothing_overlaps() -> None:
    rng = np.random.default_rng(0)
    settings = CutSettings(shortest=1, longest=12, pad=0.2)
    edges = np.cumsum(rng.choice([0.11, 0.3, 0.6, 1.1, 3], 6000) + rng.uniform(0, 0.5, 6000))
    segments, planner = plan(pieces(*edges.reshape(-1, 2).tolist()), edges[-1] + 1, settings)
    begins, ends = np.array(segments).T
    assert (begins[1:] >= ends[:-1]).all()
    assert (ends - begins).min() >= 1 and (ends - begins).max() < 12
    spoken = sum(end - first for first, end in [*planner.segments, *planner.short])
    assert spoken > planner.speech, "all speech is in a segment or in what is left out"


def test_hours_without_a_long_pause_need_no_memory() -> None:
    planner = Planner(CutSettings())
    most = 0
    for piece in in_turn(5000, 1.5, 0.3):
        planner.add(piece)
        most = max(most, len(planner._pieces))
    planner.finish(9000 * RATE)
    lengths = np.array([(end - first) / RATE for first, end in planner.segments])
    assert most < 400
    assert lengths.min() > 12 and lengths.max() < 18


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shortest": 30}, "--min is 30"),
        ({"longest": 1}, "--max 1"),
        ({"longest": 1e4}, "--max 10000"),
        ({"target": 40}, "--target is 40"),
        ({"pad": 1}, "--pad is 1"),
        ({"pad": 0.6, "longest": 3, "target": 2.5}, "--pad is 0.6"),
        ({"join": -1}, "--join is -1"),
        ({"threshold": 1.5}, "--threshold is 1.5"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CutSettings(**changes)
