"""Pairs of utterances that share audio: exact copies, cuts of one recording, segments of one file."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq.corpora.report.anchors import Anchors, AnchorTable, Shared
from fairseq.corpora.report.copies import equal_pairs, overlapping_segments, shared_pairs
from tests.unit.corpora.signals import RATE, speech


def anchors(wave: np.ndarray) -> Anchors:
    found = Anchors(RATE)
    found.feed(wave)
    return found


def table_of(waves: list[np.ndarray], most: int = 1 << 20) -> AnchorTable:
    table = AnchorTable(most)
    for number, wave in enumerate(waves):
        found = anchors(wave)
        count = len(found.hashes)
        table.add(np.asarray(found.hashes, dtype=np.uint64), np.full(count, number), np.asarray(found.places))
    return table


def test_parts_of_one_recording_are_found_wherever_it_was_cut() -> None:
    recording = speech(20, 1)
    waves = [recording[: 8 * RATE], speech(8, 2), recording[5 * RATE + 123 : 13 * RATE]]
    (shared,) = table_of(waves).shared()
    assert (shared.first, shared.second, shared.distance) == (0, 2, 5 * RATE + 123) and shared.places >= 2
    (pair,) = shared_pairs([shared], set(), lambda number: (8 * RATE, RATE))
    assert (pair.first, pair.second, pair.evidence) == (0, 2, "about 3.0 s in common")
    assert shared_pairs([shared], {(0, 2)}, lambda number: (8 * RATE, RATE)) == []


def test_other_speech_shares_nothing() -> None:
    assert table_of([speech(10, seed) for seed in range(6)]).shared() == []
    assert AnchorTable().shared() == []


def test_silence_has_no_anchors() -> None:
    assert anchors(np.zeros(5 * RATE, dtype=np.float32)).hashes == []
    assert anchors(np.full(100, 0.5, dtype=np.float32)).hashes == []


def test_a_full_table_keeps_a_share() -> None:
    waves = [speech(8, seed) for seed in range(8)]
    table = table_of([*waves, *waves], most=40)
    held = sum(len(hashes) for hashes, _, _ in table._parts)
    assert held <= 40 and table.share < 1
    found = {(shared.first, shared.second) for shared in table.shared()}
    assert found and all(second == first + 8 for first, second in found)


def test_one_place_in_common_is_chance() -> None:
    table = AnchorTable()
    table.add(np.asarray([5, 5, 7, 9], dtype=np.uint64), np.asarray([0, 1, 0, 1]), np.asarray([100, 300, 800, 900]))
    assert table.shared() == []
    table.add(np.asarray([7], dtype=np.uint64), np.asarray([1]), np.asarray([1000]))
    assert table.shared() == [Shared(0, 1, -200, 2)]


def test_equal_pairs() -> None:
    large = np.iinfo(np.uint64).max  # differs from its neighbours only in bits that a double would lose
    keys = np.asarray([large, 0, large - 1, large, 0, large], dtype=np.uint64)
    assert [(pair.first, pair.second) for pair in equal_pairs(keys, "")] == [(0, 3), (0, 5)]
    assert equal_pairs(np.zeros(3, dtype=np.uint64), "") == []


@pytest.mark.parametrize(("start", "shared"), [(8 * RATE, "2.0 s in common"), (10 * RATE - 1000, None)])
def test_segments_of_one_file(start: int, shared: str | None) -> None:
    places = np.asarray([7, 9, 7], dtype=np.uint64)
    starts, sizes = np.asarray([0, 0, start]), np.full(3, 10 * RATE)
    pairs = overlapping_segments(places, starts, sizes, np.full(3, RATE))
    assert [(pair.first, pair.second, pair.evidence) for pair in pairs] == ([(0, 2, shared)] if shared else [])


def test_a_segment_inside_another_and_the_next() -> None:
    places = np.full(3, 7, dtype=np.uint64)
    pairs = overlapping_segments(places, np.asarray([0, 2, 8]) * RATE, np.asarray([10, 1, 4]) * RATE, np.full(3, RATE))
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (0, 2)]
