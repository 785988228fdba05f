"""Registries: by name, with dataclasses, and what is refused."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from typing import Any

import pytest
from omegaconf import OmegaConf

from fairseq import registry
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.groups import CONFIG_GROUPS, DEFAULT_NAMES, REGISTERED


class Base:
    def __init__(self, cfg: Any, *extra: Any) -> None:
        self.cfg, self.extra = cfg, extra


@dataclass
class SquareConfig(FairseqDataclass):
    side: int = 2


@pytest.fixture
def shapes() -> Any:
    yield registry.setup_registry("--shape-of-test", base_class=Base, default="square")
    for table in (registry.REGISTRIES, CONFIG_GROUPS, DEFAULT_NAMES, REGISTERED):
        table.pop("shape_of_test", None)


def test_build_by_config_name_and_arguments(shapes: Any) -> None:
    build, register, classes, dataclasses = shapes

    @register("square", dataclass=SquareConfig)
    class Square(Base):
        pass

    assert classes == {"square": Square} and dataclasses == {"square": SquareConfig}
    built = build(OmegaConf.create({"_name": "square", "side": 3}), "extra")
    assert isinstance(built, Square) and built.cfg.side == 3 and built.extra == ("extra",)
    assert build("square").cfg.side == 2
    assert build(None).cfg.side == 2  # the default's name
    assert build(Namespace(shape_of_test="square", side=5)).cfg.side == 5
    with pytest.raises(ValueError, match="'squar' is not known. Did you mean 'square'"):
        build("squar")


def test_a_class_may_build_itself(shapes: Any) -> None:
    build, register, _, _ = shapes

    @register("circle")
    class Circle(Base):
        @classmethod
        def build_shape_of_test(cls, cfg: Any) -> str:
            return "built"

    assert build("circle") == "built"


def test_what_is_refused(shapes: Any) -> None:
    build, register, _, _ = shapes
    register("square", dataclass=SquareConfig)(type("Square", (Base,), {}))
    with pytest.raises(ValueError, match="already registered"):
        register("square")(type("Other", (Base,), {}))
    with pytest.raises(ValueError, match="must extend Base"):
        register("other")(object)
    with pytest.raises(ValueError, match="must extend FairseqDataclass"):
        register("other", dataclass=int)(type("Other", (Base,), {}))
    with pytest.raises(ValueError, match="already exists"):
        registry.setup_registry("--shape-of-test")


def test_required_or_not() -> None:
    try:
        build, *_ = registry.setup_registry("--hue-of-test")
        assert build(None) is None
        build, *_ = registry.setup_registry("--tint-of-test", required=True)
        with pytest.raises(ValueError, match="tint_of_test is not set"):
            build(None)
    finally:
        for table in (registry.REGISTRIES, CONFIG_GROUPS, DEFAULT_NAMES, REGISTERED):
            table.pop("hue_of_test", None)
            table.pop("tint_of_test", None)
