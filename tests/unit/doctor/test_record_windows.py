"""Windows of updates and stretches of a run."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.windows import Windows, mean
from tests.unit.doctor.causes.made_rows import made


def test_a_window_has_at_least_20_updates_and_the_first_row_after_a_start_is_left_out() -> None:
    records = made(10, starts=[0, 60], data_wait=[90.0, 1.0, 3.0, 5.0, 7.0, 9.0, 80.0, 2.0, None, 4.0])
    windows = Windows(records)
    assert windows.begin.tolist() == [11, 31, 51, 71, 91] and windows.end.tolist() == [30, 50, 60, 90, 100]
    assert windows.means("data_wait").tolist() == [2.0, 6.0, 9.0, 2.0, 4.0]
    assert windows.sums_of(np.ones(10)).tolist() == [2, 2, 1, 2, 1]
    assert Windows(records, since=60).begin.tolist() == [71, 91]


def test_means_are_weighted_by_updates() -> None:
    records = made(5, a=[0.0, 1.0, 2.0])
    records.training.append({"num_updates": 25, "epoch": 1, "a": 10.0})
    assert Windows(records).means("a").tolist() == [(5 * 1 + 5 * 2 + 10 * 10) / 20]


def test_a_long_run_has_a_bounded_number_of_windows() -> None:
    assert len(Windows(made(1, a=np.zeros(30_000)))) == 500


def test_the_longest_stretch_may_have_gaps() -> None:
    records = made(20, a=np.zeros(41))
    windows = Windows(records)
    shows = np.zeros(40, dtype=bool)
    shows[2:8] = True
    shows[15:30] = True
    shows[20] = False
    assert windows.longest(shows) == (15, 29)
    shows[15:30] = False
    assert windows.longest(shows) == (2, 7)
    shows[5:] = False
    assert windows.longest(shows) is None, "three windows are too few"
    assert windows.longest(np.ones(40, dtype=bool)) == (0, 39)


def test_a_stretch_of_a_long_run_must_be_long() -> None:
    windows = Windows(made(200, a=np.zeros(501)))
    shows = np.zeros(len(windows), dtype=bool)
    shows[100:120] = True
    assert windows.longest(shows) is None, "4,000 of 100,000 updates"
    shows[100:130] = True
    found = windows.longest(shows)
    assert found is not None and found == (100, 129) and mean(np.arange(500.0), found) == 114.5


def test_no_rows() -> None:
    windows = Windows(made(20, a=[]))
    assert len(windows) == 0 and len(windows.means("a")) == 0 and windows.longest(np.zeros(0, dtype=bool)) is None
