"""How the lengths of spans are drawn: the values of `mask_selection` and `mask_channel_selection`, a class for each.

To add one, write its class here and register it. A field of the class that `SpanLengths` does not have is a parameter
of its own: for a field `low`, give the model's config the field `mask_low` (time), and `mask_channel_low` for channels.
Where the config has no such field, the class's default holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np


@dataclass(frozen=True)
class SpanLengths:
    """The lengths of an axis's spans.

    Args:
        length: `mask_length`, at least 1.
        other: `mask_other`.
    """

    length: int
    other: float

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """The lengths of so many spans, int64, 0 or more."""
        raise NotImplementedError(f"{type(self).__name__} has no draw")

    def longest(self) -> int | None:
        """The largest length that can be drawn; None: there is no limit. Shapes are made for it (decision 1)."""
        return None

    @property
    def are_equal(self) -> bool:
        """Whether all spans have the length `longest()`."""
        return False

    def problems(self, axis: str) -> Iterator[str]:
        """What is wrong with these settings, each text beginning with its key.

        Args:
            axis: "mask" or "mask_channel", as in the config's keys.
        """
        if self.other < 0:
            yield f"{axis}_other is {self.other}; it must not be negative"

    @classmethod
    def own_parameters(cls) -> tuple[str, ...]:
        """Names of the parameters that this type alone has."""
        return tuple(field.name for field in fields(cls)[len(fields(SpanLengths)) :])


Selection = TypeVar("Selection", bound=type[SpanLengths])
SELECTIONS: dict[str, type[SpanLengths]] = {}


def register_selection(name: str) -> Callable[[Selection], Selection]:
    """Decorate a class of span lengths: `mask_selection` then takes this name.

    Raises:
        ValueError: the name is taken.
    """

    def register(cls: Selection) -> Selection:
        if name in SELECTIONS:
            raise ValueError(f"the mask selection {name!r} is already registered")
        SELECTIONS[name] = cls
        return cls

    return register


def parameter_keys() -> tuple[str, ...]:
    """The config keys of all types' own parameters; a config need not have them all."""
    names = {name: None for cls in SELECTIONS.values() for name in cls.own_parameters()}  # a set that keeps its order
    return tuple(f"{axis}_{name}" for axis in ("mask", "mask_channel") for name in names)


@register_selection("static")
@dataclass(frozen=True)
class Static(SpanLengths):
    """All spans have `length`."""

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return np.full(count, self.length, dtype=np.int64)

    def longest(self) -> int:
        return self.length

    @property
    def are_equal(self) -> bool:
        return True


@register_selection("uniform")
@dataclass(frozen=True)
class Uniform(SpanLengths):
    """From `other` to twice `length`."""

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(int(self.other), self.longest() + 1, size=count)

    def longest(self) -> int:
        return 2 * self.length

    def problems(self, axis: str) -> Iterator[str]:
        yield from super().problems(axis)
        if self.other > 2 * self.length:
            yield f"{axis}_other is {self.other}; for uniform it must not be above twice {axis}_length ({self.length})"


@register_selection("normal")
@dataclass(frozen=True)
class Normal(SpanLengths):
    """Mean `length`, standard deviation `other`, at least 1."""

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return np.maximum(1, np.rint(rng.normal(self.length, self.other, size=count))).astype(np.int64)

    def longest(self) -> int | None:
        return self.length if self.are_equal else None

    @property
    def are_equal(self) -> bool:
        return self.other == 0


@register_selection("poisson")
@dataclass(frozen=True)
class Poisson(SpanLengths):
    """Mean `length`."""

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return rng.poisson(self.length, size=count)
