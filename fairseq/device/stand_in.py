"""A device whose tensors live on the CPU and that answers as an HPU does: for looking at the HPU's branches where there is no card."""

from __future__ import annotations

import torch

from fairseq.device.base import Device


class StandIn(Device):
    """Takes the branches marked `# hpu:` and the HPU's forms, on CPU tensors."""

    takes_hpu_arms = True
    graphs_are_static = True
    records_graphs = True
    statistics_dtype = torch.float32
    index_dtype = torch.int32
    dropout_form = "native"

    def _conv_form(self, in_channels: int, dtype: torch.dtype) -> str:
        return "conv2d"

    def _pos_conv_form(self, dtype: torch.dtype) -> str:
        return "conv1d"

    def _attention_form(self, dtype: torch.dtype) -> str:
        return "matmul"
