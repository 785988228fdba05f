"""A value in the form of its field, and what a field takes in words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Optional

import pytest

from fairseq.dataclass import ChoiceEnum, FairseqDataclass, utils
from fairseq.dataclass.values import allowed, coerce, misfit


@dataclass
class Inner(FairseqDataclass):
    steps: int = 1


@dataclass
class Fields(FairseqDataclass):
    whole: int = 3
    maybe: Optional[int] = None
    many: list[int] = field(default_factory=lambda: [64])
    pair: tuple[float, float] = (0.9, 0.98)
    text: str = "x"
    name: Optional[str] = None
    colour: ChoiceEnum(["red", "blue"]) = "red"
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("value", "declared", "form"),
    [
        (1e6, int, 1_000_000),
        (1.28e5, Optional[int], 128_000),
        ("1e6", int, 1_000_000),
        (" 1.0 ", int, 1),
        (2.5, int, 2.5),
        ("2.5", int, "2.5"),
        (math.inf, int, math.inf),
        (True, int, True),
        ("9007199254740993", int, "9007199254740993"),  # 2**53 + 1: a float would lose its last digit
        ("${optimization.lr}", int, "${optimization.lr}"),
        (1e6, float, 1e6),
        ([1e2, 2.0], list[int], [100, 2]),
        (3.0, list[int], [3]),
        ("[1, 2.0]", list[int], [1, 2]),
        ("[2", list[int], "[2"),
        ("[" * 5000, list[int], "[" * 5000),
        ((1, 2), tuple[float, float], [1, 2]),
        (False, ChoiceEnum(["off", "warn"]), "off"),  # YAML's off
        (False, ChoiceEnum(["none", "warn"]), False),
        ({"steps": 1e3, "other": 1e3}, Inner, {"steps": 1000, "other": 1e3}),
    ],
)
def test_forms_that_mean_the_same(value: Any, declared: Any, form: Any) -> None:
    got = coerce(value, declared)
    assert got == form and type(got) is type(form)


def test_what_a_field_takes() -> None:
    assert allowed(int) == "a whole number" and allowed(Optional[float]) == "a number, or null"
    assert allowed(list[int], [64]) == "a list of whole numbers, such as [64]"
    assert allowed(Optional[tuple[float, float]]) == "a list of 2 numbers, or null"
    assert allowed(bool) == "true or false" and allowed(Inner) == "a group of keys"
    assert allowed(ChoiceEnum(["red", "blue"])) == "one of red, blue"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"whole": 2.5}, "g.whole is 2.5: it must be a whole number."),
        ({"whole": None}, "g.whole is null: it must be a whole number."),
        ({"whole": [1]}, "g.whole is [1]: it must be a whole number."),
        ({"whole": {"a": 1}}, "g.whole is {'a': 1}: it must be a whole number."),
        ({"maybe": "None"}, "g.maybe is 'None': it must be a whole number, or null. Write g.maybe=null for no value."),
        ({"name": "None"}, "g.name is 'None': it must be text, or null. Write g.name=null for no value."),
        ({"many": "[2"}, "g.many is '[2': it must be a list of whole numbers, such as [64]. A bracket is not closed."),
        ({"many": [[64]]}, "g.many is [[64]]: it must be a list of whole numbers, such as [64]."),
        ({"text": [1, 2]}, "g.text is [1, 2]: it must be text. Put it in quotes."),
        ({"colour": "green"}, "g.colour is 'green': it must be one of red, blue."),
        ({"inner": {"steps": "x"}}, "g.inner.steps is 'x': it must be a whole number."),
        ({"inner": {"stepps": 1}}, "g.inner.stepps is not a known key."),
    ],
)
def test_misfits_are_put_into_words(values: dict[str, Any], problem: str) -> None:
    problems: list[str] = []
    merged = utils.merge_values(Fields(), {**values, "pair": [0.5, 0.25]}, "g.", problems)
    assert problems == [problem]
    assert (merged.whole, merged.many, list(merged.pair), merged.text, merged.inner.steps) == (
        3,
        [64],
        [0.5, 0.25],
        "x",
        1,
    )


def test_long_values_are_cut() -> None:
    assert len(misfit("g.whole", "x" * 10_000, int)) < 300
