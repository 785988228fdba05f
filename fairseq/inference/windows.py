"""Split long audio into overlapping windows, aligned to the frames of the whole file.

    samples   |--------- window 0 ---------|
                               |--------- window 1 ---------|
                                                      |------ window 2 -----|
    frames     kept by 0         ^ kept by 1           ^ kept by 2

A window starts at a multiple of the stride, so its frame i is frame `first + i` of the whole file. Each is normalised
separately. Where two overlap, each keeps the half that is closer to its middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fairseq.frames import ConvSpec, frames_for_samples, receptive_field


class Window(NamedTuple):
    """A piece of a file."""

    start: int  # sample
    num_samples: int
    first: int  # index of its frame 0 in the whole file
    keep: slice  # of its own frames


@dataclass
class WindowSettings:
    """Length and overlap of the windows.

    Raises:
        ValueError: the overlap is not shorter than a window.
    """

    seconds: float = 30.0  # of a window
    overlap: float = 5.0  # seconds shared by neighbouring windows; half of it is context at each edge

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.seconds:
            raise ValueError(
                f"the window overlap is {self.overlap} s; it must be at least 0 and shorter than a window "
                f"({self.seconds} s)"
            )


def plan_windows(
    num_samples: int,
    conv_layers: Sequence[ConvSpec],
    sample_rate: int,
    settings: WindowSettings,
    multiple: int = 1,
) -> list[Window]:
    """Plan windows that together keep every frame of the file exactly once.

    Args:
        num_samples: samples in the whole file.
        conv_layers: the feature extractor's spec.
        multiple: model.crop_seq_to_multiple; all windows but the last have a multiple of it as frames.
    Returns:
        The windows: none if the audio is shorter than the receptive field, one if it fits into a window.
    """
    field, stride = receptive_field(conv_layers)
    total = frames_for_samples(num_samples, conv_layers)
    length = max(1, int(settings.seconds * sample_rate / stride) // multiple * multiple)
    overlap = min(int(settings.overlap * sample_rate / stride), length - 1)
    if total == 0:
        return []
    firsts = [0]
    while firsts[-1] + length < total:
        firsts.append(min(firsts[-1] + length - overlap, total - length))
    windows = []
    begin = 0
    for number, first in enumerate(firsts):
        last = number == len(firsts) - 1
        end = total if last else (first + length + firsts[number + 1] + 1) // 2
        samples = num_samples - first * stride if last else (length - 1) * stride + field
        windows.append(Window(first * stride, samples, first, slice(begin - first, end - first)))
        begin = end
    return windows
