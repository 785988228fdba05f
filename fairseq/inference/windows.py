"""Long audio as overlapping windows whose frames lie on the grid of the whole.

    samples   |--------- window 0 ---------|
                               |--------- window 1 ---------|
                                                      |------ window 2 -----|
    frames     kept by 0         ^ kept by 1           ^ kept by 2

A window starts at a multiple of the stride, so that its frame i is frame `first + i` of the whole file. Each is
normalised by itself. Where two overlap, each gives the half that lies nearer to its middle.
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
    first: int  # frame of the whole that its frame 0 is
    keep: slice  # of its own frames


@dataclass
class WindowSettings:
    """How long audio is cut.

    Raises:
        ValueError: the overlap is not shorter than a window.
    """

    seconds: float = 30.0  # of a window
    overlap: float = 5.0  # seconds that neighbours have in common; half of them are context at each edge

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.seconds:
            raise ValueError(
                f"the overlap of windows is {self.overlap} s; it must be shorter than a window, which is "
                f"{self.seconds} s"
            )


def plan_windows(
    num_samples: int,
    conv_layers: Sequence[ConvSpec],
    sample_rate: int,
    settings: WindowSettings,
    multiple: int = 1,
) -> list[Window]:
    """Windows that keep every frame of the whole exactly once.

    Args:
        num_samples: of the whole file.
        conv_layers: the feature extractor's spec.
        multiple: model.crop_seq_to_multiple; windows other than the last have so many frames, or a multiple.
    Returns:
        none if the audio is shorter than the receptive field; one where it fits into a window.
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
