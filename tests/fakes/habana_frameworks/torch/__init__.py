"""Importing this registers the device: from here on the environment has been read."""

from __future__ import annotations

import torch

from habana_frameworks import mode, overwrites, recorder, recording
from habana_frameworks.torch import hpu

# the real package has no such name: its tensors live on "hpu". With a number, copies to it can be seen
TENSOR_DEVICE = "cpu:0"

recorder.note_import()
mode.is_lazy()
overwrites.install()
recording.install()
torch._register_device_module("hpu", hpu)
