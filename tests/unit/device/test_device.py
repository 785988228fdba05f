"""What every device answers, and forms that are forced on all of them."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from fairseq import device as device_layer
from fairseq import utils
from fairseq.dataclass.configs import CommonConfig
from fairseq.device.base import Device
from fairseq.device.stand_in import StandIn

X = torch.ones(2)


def form() -> str:
    return device_layer.of(X).conv_form(512, torch.float32)


@pytest.mark.parametrize("kind", device_layer.KINDS)
def test_rules_of_the_card_are_the_cards_alone(kind: str) -> None:
    device = device_layer.of_config(OmegaConf.structured(CommonConfig(device=kind)))
    is_card = kind == "hpu"
    assert (device.compiles, device.world_size_is_strict, device.compares_with_recipe) == (is_card, is_card, is_card)
    assert device.recommended_count() == 1 or kind in ("hpu", "cuda")


def test_a_stand_in_is_no_card() -> None:
    device = StandIn()
    assert not (device.compiles or device.world_size_is_strict or device.compares_with_recipe)
    assert device.takes_hpu_arms and device.graphs_are_static


def test_forced_forms_last_as_long_as_the_block() -> None:
    usual, device = form(), device_layer.of(X)
    with device_layer.forced(conv_form="unfold", hpu_arms=True):
        assert form() == "unfold" and utils.is_hpu_tensor(X)
        with device_layer.forced(pos_conv_form="blocks"):  # an inner block replaces all that the outer one forces
            assert form() == usual and not utils.is_hpu_tensor(X)
        assert form() == "unfold" and utils.is_hpu_tensor(X)
    assert form() == usual and device_layer.of(X) is device and not utils.is_hpu_tensor(X)


def test_forced_forms_reach_a_device_that_is_selected_meanwhile(fake_habana: ModuleType) -> None:
    with device_layer.forced(conv_form="unfold"):
        device = device_layer.select(OmegaConf.structured(CommonConfig(hpu=True)))
        assert form() == "unfold" and utils.is_hpu_tensor(X) and device.conv_form(512, torch.float32) == "conv2d"
    assert form() == "conv2d" and utils.is_hpu_tensor(X)


def test_forced_forms_reach_a_stand_in() -> None:
    with device_layer.forced(conv_form="unfold"), device_layer.stood_in(StandIn()):
        assert form() == "unfold" and utils.is_hpu_tensor(X)
    with device_layer.stood_in(StandIn()), device_layer.forced():
        assert form() == "conv2d" and utils.is_hpu_tensor(X)


# -- what a device cannot do -------------------------------------------------------------------------------------------


class Whispering(Device):
    """A device with a rule of its own."""

    def problems(self, common: DictConfig) -> Iterator[str]:
        if common.log_interval > 7:
            yield f"common.log_interval is {common.log_interval}: this device forgets after 7. Set log_interval=7."


@pytest.mark.parametrize("interval, expected", [(8, 1), (7, 0)])
def test_a_devices_own_rule_is_part_of_the_configs_check(
    monkeypatch: pytest.MonkeyPatch, interval: int, expected: int
) -> None:
    monkeypatch.setitem(device_layer.KINDS, "cpu", Whispering)
    found = list(CommonConfig(device="cpu", log_interval=interval).check())
    assert [finding.stops for finding in found] == [True] * expected
    assert list(CommonConfig(log_interval=interval).check()) == []  # no device is named: it depends on the machine


def test_the_lazy_device_refuses_mixed_precision_on_every_machine() -> None:
    (found,) = CommonConfig(device="lazy", bf16=True, hmp=True).check()
    assert found.stops and "common.bf16 and common.hmp is true: set common.bf16=false common.hmp=false" in found.text
