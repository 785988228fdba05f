"""Importing this registers the device: from here on the environment has been read."""

from __future__ import annotations

import torch

from habana_frameworks import mode, recorder
from habana_frameworks.torch import hpu

TENSOR_DEVICE = "cpu"  # the real package has no such name: its tensors live on "hpu"

recorder.note_import()
mode.is_lazy()
torch._register_device_module("hpu", hpu)
