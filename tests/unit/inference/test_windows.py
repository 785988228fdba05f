"""Windows lie on the grid of the whole and keep every frame once."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq.frames import frame_centres, frames_for_samples, parse_conv_layers
from fairseq.inference.windows import WindowSettings, plan_windows

BASE = parse_conv_layers("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]")
SHORT = WindowSettings(seconds=2.0, overlap=0.5)


@pytest.mark.parametrize("num_samples", [399, 400, 719, 720, 31999, 32080, 32400, 33000, 64000, 100001, 480000])
@pytest.mark.parametrize("multiple", [1, 4])
def test_every_frame_is_kept_once_in_order(num_samples: int, multiple: int) -> None:
    windows = plan_windows(num_samples, BASE, 16000, SHORT, multiple)
    kept = [window.first + frame for window in windows for frame in range(window.keep.start, window.keep.stop)]
    assert kept == list(range(frames_for_samples(num_samples, BASE)))
    for window in windows:
        assert window.start == window.first * 320 and window.start + window.num_samples <= num_samples
        assert 0 <= window.keep.start < window.keep.stop <= frames_for_samples(window.num_samples, BASE)
        assert window.num_samples <= 32000 + 400
    assert all(frames_for_samples(window.num_samples, BASE) % multiple == 0 for window in windows[:-1])


def test_an_hour_has_the_frames_of_the_formula() -> None:
    hour = 3600 * 16000
    windows = plan_windows(hour, BASE, 16000, WindowSettings())
    assert sum(window.keep.stop - window.keep.start for window in windows) == 179999 == (hour - 400) // 320 + 1
    assert max(window.num_samples for window in windows) <= 30 * 16000 + 400


def test_edges_have_half_of_the_overlap_for_context() -> None:
    windows = plan_windows(480000, BASE, 16000, SHORT)
    frames = [frames_for_samples(window.num_samples, BASE) for window in windows]
    for window, count in zip(windows[:-1], frames, strict=False):
        assert count - window.keep.stop >= 12  # half of 0.5 s
    assert all(window.keep.start >= 12 for window in windows[1:])


def test_an_overlap_as_long_as_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="and shorter than a window"):
        WindowSettings(seconds=5, overlap=5)


def test_centres_of_frames() -> None:
    assert frame_centres(3, BASE) == [199.5, 519.5, 839.5]
    assert frame_centres(1, BASE, first=10) == [3399.5]
    # each layer's frame is centred on the middle of its kernel's inputs, layer by layer
    positions = np.arange(4000, dtype=float)
    for _, kernel, stride in BASE:
        positions = np.array([positions[i : i + kernel].mean() for i in range(0, len(positions) - kernel + 1, stride)])
    assert np.allclose(positions, frame_centres(len(positions), BASE))
