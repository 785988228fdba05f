"""Register the device at import, and read the environment."""

from __future__ import annotations

import torch

from habana_frameworks import mode, overwrites, recorder, recording
from habana_frameworks.torch import hpu

# not in the real package, whose tensors are on "hpu". The index makes copies to the device visible
TENSOR_DEVICE = "cpu:0"

recorder.note_import()
mode.is_lazy()
overwrites.install()
recording.install()
torch._register_device_module("hpu", hpu)
