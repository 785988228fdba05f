"""The feature extractor's layers: parse them from a config, and convert between samples and frames."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Count = TypeVar("Count", int, "np.ndarray", "Tensor")  # integers

_TOKEN = re.compile(r"\s*(?:(?P<number>-?\d+)|(?P<mark>[\[\](),+*]))")
_MOST_LAYERS = 1000  # wav2vec 2.0 has 7
_FORM = (
    "a sum of lists of (channels, kernel, stride), each list optionally multiplied by a number: [(512, 10, 5)] + "
    "[(512, 3, 2)] * 4"
)


class ConvSpec(NamedTuple):
    """One convolution of the feature extractor, unpadded."""

    dim: int  # output channels
    kernel: int  # in samples of the layer's own input
    stride: int


class _Reader:
    """Recursive-descent parser for a layer specification; the grammar is `_FORM`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._split(text)) + [("", len(text))]
        self.at = 0

    def _split(self, text: str) -> Iterator[tuple[str, int]]:
        end, stop = 0, len(text.rstrip())
        while end < stop:
            match = _TOKEN.match(text, end)
            if match is None:
                raise self.error("a number, a bracket, a comma, + or *", len(text) - len(text[end:].lstrip()))
            yield match.group().strip(), match.start(match.lastgroup or 0)
            end = match.end()

    def error(self, expected: str, position: int) -> ValueError:
        found = self.text[position : position + 12] or "the end"
        return ValueError(
            f"conv_feature_layers {self.text!r}: expected {expected} at character {position}, found {found!r}. It "
            f"must be {_FORM}."
        )

    def peek(self) -> str:
        return self.tokens[self.at][0]

    def accept(self, mark: str) -> bool:
        if self.peek() != mark:
            return False
        self.at += 1
        return True

    def expect(self, mark: str) -> None:
        if not self.accept(mark):
            raise self.error(repr(mark), self.tokens[self.at][1])

    def number(self) -> int:
        token, position = self.tokens[self.at]
        if not token.lstrip("-").isdigit():
            raise self.error("a whole number", position)
        self.at += 1
        return int(token)

    def triple(self) -> ConvSpec:
        close = ")" if self.accept("(") else "]"
        if close == "]":
            self.expect("[")
        dim = self.number()
        self.expect(",")
        kernel = self.number()
        self.expect(",")
        stride = self.number()
        self.accept(",")
        self.expect(close)
        return ConvSpec(dim, kernel, stride)

    def term(self) -> list[ConvSpec]:
        self.expect("[")
        layers = []
        while not self.accept("]"):
            layers.append(self.triple())
            if not self.accept(","):
                self.expect("]")
                break
        while self.accept("*"):
            position = self.tokens[self.at][1]
            times = self.number()
            if len(layers) * times > _MOST_LAYERS:
                raise self.error(f"at most {_MOST_LAYERS} layers", position)
            layers = layers * times
        return layers

    def sum(self) -> list[ConvSpec]:
        layers = self.term()
        while self.accept("+"):
            layers += self.term()
        if self.peek():
            raise self.error("+, * or the end", self.tokens[self.at][1])
        return layers


def parse_conv_layers(text: str) -> list[ConvSpec]:
    """Parse `model.conv_feature_layers` without evaluating it.

    Args:
        text: such as "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2", any spacing, with or without quotes.
    Raises:
        ValueError: the text has another form (names the position), no layers, or a number below 1.
    """
    text = str(text).strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    layers = _Reader(text).sum()
    if not layers:
        raise ValueError(f"conv_feature_layers {text!r} has no layers. It must be {_FORM}.")
    check_conv_layers(layers, text)
    return layers


def check_conv_layers(layers: Sequence[ConvSpec], text: str = "") -> None:
    """Raise ValueError for a layer whose channels, kernel or stride is below 1."""
    for number, layer in enumerate(layers):
        if min(layer) < 1:
            raise ValueError(
                f"conv_feature_layers {text or list(layers)}: layer {number} is {tuple(layer)}. Every number must "
                "be at least 1."
            )


def frames_for_samples(num_samples: Count, layers: Sequence[ConvSpec]) -> Count:
    """Return the number of frames that the feature extractor outputs for raw audio of this length.

    Args:
        num_samples: an int, or an integer numpy array or Tensor of any shape (16 kHz: 16000 = one second).
        layers: (channels, kernel, stride) per layer, first layer first.
    Returns:
        Frames, same type and shape; 0 where the audio is shorter than the receptive field (400 samples for base).
    Raises:
        ValueError: a kernel or stride below 1.
    Source: unpadded convolution, floor((n - k) / s) + 1 layer by layer; Baevski et al. 2020, section 4.2.
    """
    check_conv_layers([ConvSpec(*layer) for layer in layers])
    frames = num_samples
    for _, kernel, stride in layers:
        frames = (frames - kernel) // stride + 1
    # max(0, n) for int, array and Tensor alike; an input that is too short stays <= 0 through all layers
    return frames * (frames > 0)


def receptive_field(layers: Sequence[ConvSpec]) -> tuple[int, int]:
    """Return (receptive field, stride) in samples: (400, 320) for base, which is 25 ms every 20 ms at 16 kHz."""
    field, stride = 1, 1
    for layer in layers:
        field += (layer[1] - 1) * stride
        stride *= layer[2]
    return field, stride


def frame_centres(num_frames: int, layers: Sequence[ConvSpec], first: int = 0) -> list[float]:
    """Return the centre of each frame's receptive field in samples, from frame `first`: 320 i + 199.5 for base."""
    field, stride = receptive_field(layers)
    return [stride * number + (field - 1) / 2 for number in range(first, first + num_frames)]
