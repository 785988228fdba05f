"""Kinds of span lengths: what each promises to the shapes, and a kind with a parameter of its own from the config to
the spans.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from fairseq.masks.forward import masked_frames
from fairseq.masks.selections import SELECTIONS, SpanLengths, parameter_keys, register_selection
from fairseq.masks.settings import (
    FinetuningMasks,
    PretrainingMasks,
    parameters_of,
    selection_problems,
    setting_names,
)
from fairseq.masks.spans import draw_mask, max_masked_frames
from fairseq.models.wav2vec.config import MASKING_DISTRIBUTION_CHOICES, Wav2Vec2Config


@pytest.mark.parametrize("name", list(SELECTIONS))
@pytest.mark.parametrize("other", [0, 3])
def test_lengths_are_within_what_the_kind_promises(name: str, other: float) -> None:
    lengths = SELECTIONS[name](10, other)
    drawn = lengths.draw(5000, np.random.default_rng(0))
    assert drawn.shape == (5000,) and drawn.dtype == np.int64 and drawn.min() >= 0
    if lengths.are_equal:
        assert set(drawn.tolist()) == {lengths.longest()}
    elif lengths.longest() is not None:
        assert drawn.max() == lengths.longest()
    assert list(lengths.problems("mask")) == []


def test_the_configs_choices_are_the_registered_names() -> None:
    assert [str(choice) for choice in MASKING_DISTRIBUTION_CHOICES] == list(SELECTIONS)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="static"):
        register_selection("static")(SpanLengths)


# -- a parameter of its own --------------------------------------------------------------------------------------------


@pytest.fixture
def short() -> Iterator[None]:
    """A kind `short`: every span has `short` frames, whatever mask_length is."""

    @register_selection("short")
    @dataclass(frozen=True)
    class Short(SpanLengths):
        short: int = 1

        def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
            return np.full(count, self.short, dtype=np.int64)

        def longest(self) -> int:
            return self.short

        @property
        def are_equal(self) -> bool:
            return True

        def problems(self, axis: str) -> Iterator[str]:
            if self.short < 1:
                yield f"{axis}_short is {self.short}; it must be at least 1"

    yield
    del SELECTIONS["short"]


def config(**changes: object) -> SimpleNamespace:
    defaults = Wav2Vec2Config.field_defaults() | {"mask_selection": "short", "require_same_masks": False}
    return SimpleNamespace(**(defaults | changes))


def spans(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of masked frames."""
    return [len(run) for run in "".join("x" if masked else " " for masked in mask).split()]


@pytest.mark.usefixtures("short")
def test_it_reaches_the_workers_masks_in_pretraining_and_fine_tuning() -> None:
    cfg = config(mask_short=3, no_mask_overlap=True)
    found = PretrainingMasks.from_config(cfg, same_count=False).time, FinetuningMasks.from_config(cfg, True).time
    for time in found:
        assert time is not None and time.parameters == (("short", 3),)
        assert set(spans(draw_mask(200, time, np.random.default_rng(0)))) == {3}
    assert max_masked_frames(200, found[0]) == 3 * 13  # 0.65 * 200 / 10 spans


@pytest.mark.usefixtures("short")
def test_the_models_value_holds_where_the_inferred_config_has_no_such_field() -> None:
    inferred, model = config(), config(mask_short=4)
    assert parameters_of("mask", inferred) == ()
    assert PretrainingMasks.from_config(inferred).time.lengths.longest() == 1  # the class's default
    assert PretrainingMasks.from_config(inferred, model=model).time.lengths.longest() == 4
    assert PretrainingMasks.from_config(config(mask_short=2), model=model).time.lengths.longest() == 2


@pytest.mark.usefixtures("short")
def test_it_reaches_masks_that_the_model_draws() -> None:
    import torch

    model = config(mask_short=3, no_mask_overlap=True)
    assert "mask_short" in setting_names(model) and "mask_channel_short" not in setting_names(model)
    mask = masked_frames(model, torch.zeros(4, 200, 8), None, None)
    assert mask is not None and all(set(spans(row)) == {3} for row in mask.numpy())


@pytest.mark.usefixtures("short")
def test_channels_have_a_value_of_their_own() -> None:
    cfg = config(mask_channel_prob=0.3, mask_channel_selection="short", mask_short=3, mask_channel_short=2)
    channel = PretrainingMasks.from_config(cfg).channel
    assert channel is not None and channel.parameters == (("short", 2),)
    assert parameter_keys() == ("mask_short", "mask_channel_short")


@pytest.mark.usefixtures("short")
def test_its_rule_is_asked_of_the_config() -> None:
    wrong = config(mask_short=0)
    assert list(selection_problems(wrong)) == ["mask_short is 0; it must be at least 1"]
    assert list(selection_problems(config(mask_short=0, mask_prob=0.0))) == []
    with pytest.raises(ValueError, match="mask_short is 0"):
        PretrainingMasks.from_config(wrong)


@pytest.mark.parametrize("other, text", [(-1, "must not be negative"), (30, "twice mask_length")])
def test_a_models_config_refuses_lengths_that_cannot_be_drawn(other: float, text: str) -> None:
    findings = list(Wav2Vec2Config(mask_selection="uniform", mask_other=other).check())
    assert [finding.stops for finding in findings] == [True]
    assert findings[0].text.startswith("model.mask_other is ") and text in findings[0].text
