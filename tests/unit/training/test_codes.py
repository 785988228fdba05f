"""The use of codewords, from counts."""

from __future__ import annotations

import pytest

from fairseq.training.codes import by_group, changed, perplexity, use


def test_perplexity_and_dead_codewords() -> None:
    counts = by_group([4, 4, 4, 4, 0, 0, 16, 0], 2)
    assert counts == [[4, 4, 4, 4], [0, 0, 16, 0]]
    line = use(counts, None)
    assert line == {"counts": counts, "perplexity": [4.0, 1.0], "dead": [0, 3], "changed": None}
    assert perplexity([0, 0]) == 0.0 and perplexity([1, 3]) == pytest.approx(1.7548, abs=1e-4)


def test_change_is_the_share_of_frames_with_another_codeword() -> None:
    before = {"counts": [[10, 10, 0], [5, 5, 10]]}
    assert use([[20, 20, 0], [1, 1, 2]], before)["changed"] == 0.0  # the same use of more and of fewer frames
    assert use([[0, 0, 7], [1, 1, 2]], before)["changed"] == 0.5  # all of one group's, none of the other's
    assert changed([[5, 15, 0]], [[10, 10, 0]]) == 0.25


def test_what_cannot_be_compared_has_not_changed_measurably() -> None:
    assert changed([[1, 2]], [[1, 2, 3]]) is None and changed([[1, 2]], [[1, 2], [3, 4]]) is None
    assert changed([[0, 0]], [[1, 2]]) is None and changed([], []) is None
    assert use([[1, 2]], {"num_updates": 3})["changed"] is None
