"""What computes in which precision, and the loss scale."""

from __future__ import annotations

import logging

import pytest
import torch

from fairseq.dataclass.configs import CommonConfig
from fairseq.dataclass.utils import merge_with_parent
from fairseq.device import Device
from fairseq.training.precision import LossScale, Precision


class WithFp16(Device):
    has_fp16 = True


def precision(device: Device, **common: object) -> Precision:
    return Precision(merge_with_parent(CommonConfig(), dict(common)), device, updates_per_window=4)


@pytest.mark.parametrize(
    ("common", "on_cpu", "with_fp16"),
    [
        ({}, None, None),
        ({"bf16": True}, torch.bfloat16, torch.bfloat16),
        ({"fp16": True}, torch.bfloat16, torch.float16),
        ({"amp": True}, torch.bfloat16, torch.float16),
        ({"memory_efficient_bf16": True}, torch.bfloat16, torch.bfloat16),
    ],
)
def test_keys_choose_the_dtype(
    common: dict[str, object], on_cpu: torch.dtype | None, with_fp16: torch.dtype | None
) -> None:
    assert precision(Device(), **common).dtype == on_cpu
    chosen = precision(WithFp16(), **common)
    assert chosen.dtype == with_fp16 and (chosen.scaler is not None) == (with_fp16 == torch.float16)


def test_fp16_without_fp16_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        precision(Device(), fp16=True)
    assert len(caplog.records) == 1 and "common.fp16" in caplog.text and "bf16" in caplog.text


def test_autocast_is_off_in_fp32() -> None:
    with precision(Device()).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with precision(Device(), bf16=True).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_the_scale_halves_on_overflow_and_doubles_after_a_window() -> None:
    scale = LossScale(torch.device("cpu"), 128, window=3, minimum=1e-4)
    seen = []
    for found_inf in [0, 0, 0, 1, 0, 0, 1, 0, 0, 0]:
        scale.update(torch.tensor(float(found_inf)))
        seen.append(scale.scale.item())
    assert seen == [128, 128, 256, 128, 128, 128, 64, 64, 64, 128]


def test_a_scale_below_the_minimum_ends_the_run_with_advice() -> None:
    with pytest.raises(FloatingPointError, match="min_loss_scale"):
        LossScale(torch.device("cpu"), 128, 3, minimum=1.0).check(0.5)
