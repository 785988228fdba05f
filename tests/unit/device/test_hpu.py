"""The device layer's answers on HPU, with the stand-in for the vendor's package."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from fairseq import device as device_layer
from fairseq import utils
from fairseq.dataclass.configs import CommonConfig
from fairseq.device.hpu import HpuDevice


def common(**settings: Any) -> DictConfig:
    return OmegaConf.structured(CommonConfig(**{"hpu": True, **settings}))


def test_without_the_package_it_says_what_to_install_and_how_to_try_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"container.*\.\[hpu\].*fairseq-preflight"):
        device_layer.select(common())


def test_the_stand_ins_tensors_are_hpu_tensors(fake_habana: ModuleType) -> None:
    x = torch.ones(2)
    assert not utils.is_hpu_tensor(x)
    device = device_layer.select(common())
    assert device.type == "hpu" and device.torch_device == torch.device("cpu", 0)
    assert utils.is_hpu_tensor(x) and device_layer.of(x) is device


def test_the_next_test_finds_no_trace_of_it() -> None:
    assert not utils.is_hpu_tensor(torch.ones(2)) and not hasattr(torch, "hpu")


def test_real_tensors_live_on_hpu() -> None:
    assert HpuDevice().torch_device == torch.device("hpu")


def test_mark_step_in_lazy_mode_only(fake_habana: ModuleType, recwarn: pytest.WarningsRecorder) -> None:
    device_layer.select(common(hpu_lazy_mode=True)).mark_step()
    assert fake_habana.count("mark_step") == 1


def test_no_mark_step_in_eager_mode(fake_habana: ModuleType) -> None:
    device = device_layer.select(common(hpu_lazy_mode=False))
    device.mark_step()
    device.seed(5)
    assert fake_habana.count("mark_step") == 0 and not device.records_graphs


def test_seeding_runs_what_was_recorded_first(fake_habana: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    device = device_layer.select(common())
    order: list[str] = []
    monkeypatch.setattr(device._core, "mark_step", lambda: order.append("mark_step"))
    monkeypatch.setattr(torch, "manual_seed", lambda seed: order.append("seed"))
    device.seed(5)
    assert order == ["mark_step", "seed"]


def test_the_generators_state_comes_back(fake_habana: ModuleType) -> None:
    device_layer.select(common())
    torch.hpu.manual_seed(3)
    state = utils.get_rng_state()
    assert set(state) >= {"torch_rng_state", "hpu_rng_state"}
    first = torch.rand(3)
    utils.set_rng_state({"torch_rng_state": torch.get_rng_state(), "hpu_rng_state": state["hpu_rng_state"]})
    assert fake_habana.count("mark_step") == 1  # before the state is put back
    assert torch.equal(torch.rand(3), first)


def test_integers_are_sent_in_32_bits(fake_habana: ModuleType) -> None:
    device = device_layer.select(common())
    assert device.send(torch.tensor([3])).dtype == torch.int32
    assert device.send(torch.tensor([True])).dtype == torch.bool


def test_autocast_runs_on_the_stand_ins_tensors(fake_habana: ModuleType) -> None:
    device = device_layer.select(common())
    with device.autocast(torch.bfloat16):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16
    with device.autocast(None):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32


def test_out_of_memory_is_known_by_its_message() -> None:
    device = HpuDevice()
    assert device.is_out_of_memory(
        RuntimeError("FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::40134656 (38)MB")
    )
    assert not device.is_out_of_memory(RuntimeError("synStatus 26 [Generic failure]"))


def test_memory_of_the_card(fake_habana: ModuleType) -> None:
    assert device_layer.select(common()).memory_statistics() == {"gb_free": 86.0, "gb_peak": 40.0}
    assert fake_habana.count("reset_peak_memory_stats") == 1


def test_cards_are_counted_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HABANA_VISIBLE_MODULES", "0, 3,5")
    assert device_layer.count(SimpleNamespace(device=None, hpu=True, cpu=False)) == 3
    monkeypatch.delenv("HABANA_VISIBLE_MODULES")
    assert device_layer.count(SimpleNamespace(device=None, hpu=True, cpu=False)) >= 1


def test_what_the_log_says_of_the_software(fake_habana: ModuleType) -> None:
    device = device_layer.select(common())
    lines = [note.text for note in device.report()]
    assert "PT_HPU_LAZY_MODE=1" in lines[-1] and "PT_HPU_ENABLE_REFINE_DYNAMIC_SHAPES=0" in lines[-1]
    assert any(
        note.is_warning and "comes with torch 2.9" in note.text for note in device.report()
    ) != torch.__version__.startswith("2.9")
    assert "GAUDI2" in device.describe() and "1.23.0" in device.describe() and "lazy" in device.describe()
