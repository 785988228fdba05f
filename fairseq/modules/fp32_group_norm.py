"""Group normalisation with fp32 statistics."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.modules.length_aware import valid_frames
from fairseq.utils import is_hpu_tensor


class Fp32GroupNorm(nn.GroupNorm):
    """Group norm with fp32 statistics and output in the input's dtype; B x C x T.

    The statistics include padding, as in fairseq, unless `lengths` (B) gives the number of valid frames.
    """

    def forward(self, input: Tensor, lengths: Tensor | None = None) -> Tensor:
        x = input
        if lengths is not None:
            return self._over_valid_frames(x, lengths)
        # hpu: instance norm is equivalent and is what the recipe uses (its 2g)
        if self.num_groups == self.num_channels and is_hpu_tensor(x):
            return self._as_instance_norm(x)
        if device_layer.of(x).norms_mix_dtypes:
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        with device_layer.of(x).full_precision():
            return F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps).type_as(x)

    def _over_valid_frames(self, x: Tensor, lengths: Tensor) -> Tensor:
        with device_layer.of(x).full_precision():
            groups = x.float().unflatten(1, (self.num_groups, -1))  # B x G x C/G x T
            valid = valid_frames(lengths, x.size(2))[:, None, None, :]
            count = valid.sum(dim=-1, keepdim=True) * groups.size(2)
            mean = (groups * valid).sum(dim=(2, 3), keepdim=True) / count
            centred = groups - mean
            variance = (centred * valid).square().sum(dim=(2, 3), keepdim=True) / count
            normalised = (centred * (variance + self.eps).rsqrt()).flatten(1, 2)
            return (normalised * self.weight.unsqueeze(-1) + self.bias.unsqueeze(-1)).type_as(x)

    def _as_instance_norm(self, x: Tensor) -> Tensor:
        """Group norm with one channel per group; largest difference measured on CPU: 1e-6 for values of order 1.

        Autocast is off: instance_norm is in the recipe's list of bf16 operators, which would cast the fp32 input back.
        """
        with device_layer.of(x).full_precision():
            return F.instance_norm(
                x.float(), weight=self.weight, bias=self.bias, use_input_stats=True, eps=self.eps
            ).type_as(x)
