"""The convolutional feature extractor: raw audio to latent frames, one per 20 ms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.modules import FairseqDropout, Fp32GroupNorm, Fp32LayerNorm, TransposeLast
from fairseq.modules.folded_group_norm import fold_group_norm
from fairseq.modules.time_convolution import (
    compute_dtype,
    convolve_over_time,
    frames_with_spare,
    matmul_convolution,
    window_convolution,
    windows,
)
from fairseq.utils import is_hpu_tensor


class ConvFeatureExtractionModel(nn.Module):
    """Strided convolutions with GELU over raw audio (Baevski et al. 2020, section 2, "Feature encoder").

    Args:
        conv_layers: (channels, kernel, stride) per layer, first layer first.
        dropout: after each convolution.
        mode: "default", a group norm with one channel per group after the first convolution only, or "layer_norm", a
            layer norm after each.
        conv_bias: biases in the convolutions.
    Raises:
        ValueError: unknown mode.
    """

    def __init__(
        self,
        conv_layers: Sequence[tuple[int, int, int]],
        dropout: float = 0.0,
        mode: str = "default",
        conv_bias: bool = False,
    ) -> None:
        super().__init__()
        if mode not in ("default", "layer_norm"):
            raise ValueError(f"model.extractor_mode is {mode!r}. It must be one of: default, layer_norm.")
        self.conv_layers = nn.ModuleList()
        channels = 1
        for number, (dim, kernel, stride) in enumerate(conv_layers):
            conv = nn.Conv1d(channels, dim, kernel, stride=stride, bias=conv_bias)
            nn.init.kaiming_normal_(conv.weight)
            norms: list[nn.Module] = []
            if mode == "layer_norm":
                norms = [nn.Sequential(TransposeLast(), Fp32LayerNorm(dim, elementwise_affine=True), TransposeLast())]
            elif number == 0:
                norms = [Fp32GroupNorm(dim, dim, affine=True)]
            self.conv_layers.append(ConvBlock(conv, FairseqDropout(dropout), *norms, nn.GELU()))
            channels = dim

    def _blocks(self) -> list[ConvBlock]:
        return [cast(ConvBlock, block) for block in self.conv_layers]

    def forward(self, x: Tensor, num_samples: Tensor | None = None) -> Tensor:
        """Raw audio to features.

        Args:
            x: B x S.
            num_samples: valid samples per utterance, B, to keep padding out of the group norm's statistics; None: all.
        Returns:
            B x C x T.
        Raises:
            ValueError: `x` is not 2-D.
        """
        if x.dim() != 2:
            raise ValueError(
                f"The audio has shape {tuple(x.shape)}. It must be B x S (utterances, samples). For one waveform, "
                "pass wave.reshape(1, -1)."
            )
        first, *others = self._blocks()
        form = device_layer.of(x).conv_form(first.conv.out_channels, compute_dtype(x))
        if form == "matmul" and not is_hpu_tensor(x):
            return self._time_first(x, num_samples)
        x = first(x.unsqueeze(1), form, num_samples)
        for block in others:
            x = block(x, form)
        return x

    def _time_first(self, source: Tensor, num_samples: Tensor | None) -> Tensor:
        """All layers as matrix products, B x P x C with P - T spare rows (see modules/time_convolution.py)."""
        first, *others = self._blocks()
        strides = [block.conv.stride[0] for block in (first, *others)]
        num_frames = (source.size(1) - first.conv.kernel_size[0]) // strides[0] + 1
        x = first.time_first_on_audio(source, num_frames, frames_with_spare(num_frames, strides[1:]), num_samples)
        for block in others:
            x = block.time_first(x)
            num_frames = (num_frames - block.conv.kernel_size[0]) // block.conv.stride[0] + 1
        return x[:, :num_frames].transpose(1, 2)


class ConvBlock(nn.Sequential):
    """Convolution, dropout, an optional norm, GELU."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.register_load_state_dict_pre_hook(_accept_2d_weight)

    @property
    def conv(self) -> nn.Conv1d:
        return cast(nn.Conv1d, self[0])

    def forward(self, input: Tensor, form: str = "conv1d", num_samples: Tensor | None = None) -> Tensor:
        """Run the block, B x C x T -> B x C' x T', with the convolution in this form.

        Only the first `num_samples` (B) of the input enter a group norm's statistics; None: all.
        """
        x = convolve_over_time(input, self.conv, form)
        for module in list(self)[1:]:  # a slice would be another ConvBlock
            x = module(x, self._lengths(num_samples)) if isinstance(module, Fp32GroupNorm) else module(x)
        return x

    def _lengths(self, num_samples: Tensor | None) -> Tensor | None:
        return None if num_samples is None else (num_samples - self.conv.kernel_size[0]) // self.conv.stride[0] + 1

    def time_first_on_audio(
        self, source: Tensor, num_frames: int, num_rows: int, num_samples: Tensor | None = None
    ) -> Tensor:
        """The first layer: B x S -> B x num_rows x C, of which `num_frames` rows are valid."""
        columns = windows(source, self.conv.kernel_size[0], self.conv.stride[0], num_rows)
        norm = self[2]
        if isinstance(norm, nn.GroupNorm):
            weight, bias = fold_group_norm(columns[:, :num_frames], self.conv, norm, self._lengths(num_samples))
            return self[-1](window_convolution(columns, weight, bias))
        x = window_convolution(columns, self.conv.weight.squeeze(1), self.conv.bias)
        return self._after_conv(x)

    def time_first(self, x: Tensor) -> Tensor:
        """A later layer: B x P x C -> B x P/stride x C'."""
        return self._after_conv(matmul_convolution(x, self.conv))

    def _after_conv(self, x: Tensor) -> Tensor:
        x = self[1](x)
        for norm in list(self)[2:-1]:
            # [1]: without the transpositions around it, which this order of dimensions does not need
            x = cast(nn.Sequential, norm)[1](x)
        return self[-1](x)


def _accept_2d_weight(block: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Iterable[Any]) -> None:
    """Reshape the C' x C x 1 x K weights in the Gaudi fork's checkpoints to C' x C x K."""
    key = prefix + "0.weight"
    if key in state_dict and state_dict[key].dim() == 4:
        state_dict[key] = state_dict[key].squeeze(2)
