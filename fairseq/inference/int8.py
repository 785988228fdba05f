"""Int8 matrix products for inference on processors with int8 instructions.

Weights are symmetric int8 with one scale per output channel, packed once. Activations are quantized to uint8 right
before each product ("dynamic" quantization: no calibration data); products accumulate in int32 and return fp32 or bf16.
Everything else stays in floating point: norms, GELU, attention, and the first and the positional convolution.

- Linear layers: one scale and zero point per tensor (Jacob et al. 2018, section 2). Their inputs are layer-normed, so
  frames have similar magnitudes.
- Convolutions: one scale per output frame, from its input frames. Base's extractor normalises over time only: during
  pauses all channels are small, and a scale that fits the neighbouring speech is too coarse. Layer-normed features of
  AN4 utterances from a random extractor differed from fp32 by 34 to 53 % of their norm with one scale per second, by
  4 % with one per frame (bf16: 1 %).

Measured on 2 cores of a Zen 4 (avx512_vnni, avx512_bf16), torch 2.13, one fc1 product for 10 s (499 x 768 x 3072): fp32
13.4 ms, bf16 5.6 ms, int8 2.9 ms plus 0.1 ms to quantize. oneDNN's kernel needs uint8 activations: signed ones run its
reference code, thousands of times slower. Fusing the query, key and value products, or GELU into fc1, saved nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq.models.wav2vec.audio_model import AudioModel
from fairseq.models.wav2vec.feature_extractor import ConvBlock, ConvFeatureExtractionModel
from fairseq.modules import ESPNETMultiHeadedAttention, MultiheadAttention
from fairseq.modules.folded_group_norm import fold_group_norm
from fairseq.modules.time_convolution import compute_dtype, window_convolution, windows

CHUNK = 100  # frames (2 s) per pass of the extractor; the intermediate tensors of 10 s take 130 MB
SMALLEST = 1e-30  # smallest scale, for all-zero input
# fp32 numbers of this magnitude are integers: adding it to a small number rounds that number into the lowest bits
ROUNDING = 1.5 * 2**23


class Quantized(NamedTuple):
    """uint8 values that represent (values - zero_point) * scale."""

    values: Tensor
    scale: float
    zero_point: int


def quantize(x: Tensor) -> Quantized:
    """Quantize an fp32 tensor of any shape by its range, extended to include 0, which stays exact.

    NaN or infinity in the input makes the scale NaN. Written out because torch's `quantize_per_tensor_dynamic` is
    deprecated.
    """
    low, high = (end.item() for end in torch.aminmax(x))
    if not math.isfinite(low + high):
        return Quantized(torch.zeros_like(x, dtype=torch.uint8), math.nan, 1)
    low, high = min(0.0, low), max(0.0, high)
    scale = max((high - low) / 254, SMALLEST)  # of 255: the zero point's rounding moves both ends by half a step
    zero_point = round(-low / scale)
    return Quantized(_lowest_byte(torch.add(ROUNDING + zero_point, x, alpha=1 / scale)), scale, zero_point)


def _lowest_byte(x: Tensor) -> Tensor:
    # a direct conversion from fp32 to uint8 is not vectorised and takes 7 times as long
    return x.view(torch.int32).to(torch.uint8)


class PackedWeight(nn.Module):
    """An N x K weight matrix, packed for int8 products with rows of K values.

    Args:
        weight: fp32.
        bias: N, fp32, or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scales = weight.abs().amax(dim=1).clamp(min=SMALLEST) / 127
        rounded = (weight / scales.unsqueeze(1)).round().to(torch.int8)
        # opaque, so not a buffer: `to` and `state_dict` cannot handle it
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.scales, self.zero_points = scales, torch.zeros(len(scales), dtype=torch.int32)
        self.bias = bias

    def forward(self, x: Quantized, dtype: torch.dtype) -> Tensor:
        """Multiply: ... x K -> ... x N, in `dtype`."""
        weight = (self.packed, self.scales, self.zero_points, self.bias)
        return torch.ops.onednn.qlinear_pointwise(
            x.values, x.scale, x.zero_point, *weight, 1.0, 0, dtype, "none", [], ""
        )


class Int8Linear(nn.Module):
    """A linear layer in int8; the output is fp32, or autocast's dtype if `mixed`."""

    def __init__(self, linear: nn.Linear, mixed: bool = False) -> None:
        super().__init__()
        self.product = PackedWeight(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())
        self.mixed = mixed

    def forward(self, x: Tensor) -> Tensor:
        return self.product(quantize(x.float()), compute_dtype(x) if self.mixed else torch.float32)


class Int8Convolution(nn.Module):
    """A convolution of the extractor after the first, its norm if any, and GELU; time first, fp32."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        conv = block.conv
        self.kernel, self.stride = conv.kernel_size[0], conv.stride[0]
        self.product = PackedWeight(conv.weight.detach().transpose(1, 2).flatten(1), None)
        self.bias = conv.bias
        self.norms = nn.ModuleList(_own_norms(block))  # between two transpositions

    def forward(self, x: Tensor) -> Tensor:
        """Convolve one utterance: P x C -> T x C', without padding."""
        frames, channels = (len(x) - self.kernel) // self.stride + 1, x.size(1)
        largest = torch.maximum(x.amax(dim=1), -x.amin(dim=1))
        # T x 1
        scales = largest.unfold(0, self.kernel, self.stride).amax(dim=1, keepdim=True).clamp_(min=SMALLEST) / 127
        seen = x.as_strided((frames, self.kernel * channels), (self.stride * channels, 1))
        values = _lowest_byte((seen * scales.reciprocal()).add_(ROUNDING + 128))
        x = self.product(Quantized(values, 1.0, 128), torch.float32).mul_(scales)
        if self.bias is not None:
            x += self.bias
        for norm in self.norms:
            x = norm(x)
        return F.gelu(x)


class Int8FeatureExtractor(nn.Module):
    """`ConvFeatureExtractionModel` with all layers but the first in int8, in chunks of a few seconds.

    Chunking saves memory and does not change the result. Only the group norm needs all the audio at once: its
    statistics are folded into the first convolution beforehand.
    """

    def __init__(self, extractor: ConvFeatureExtractionModel) -> None:
        super().__init__()
        first, *others = (cast(ConvBlock, block) for block in extractor.conv_layers)
        self.first: ConvBlock = first
        self.others = nn.ModuleList(Int8Convolution(block) for block in others)
        self.grid = [(block.conv.kernel_size[0], block.conv.stride[0]) for block in others]

    def forward(self, x: Tensor, num_samples: Tensor | None = None) -> Tensor:
        """Extract features: B x S -> B x C x T; `num_samples` as in `ConvFeatureExtractionModel`."""
        kernel, stride = self.first.conv.kernel_size[0], self.first.conv.stride[0]
        columns = windows(x, kernel, stride, (x.size(1) - kernel) // stride + 1)
        weight, bias = self.first.conv.weight.squeeze(1).expand(len(x), -1, -1), self.first.conv.bias
        norms = list(self.first)[2:-1]
        if norms and isinstance(norms[0], nn.GroupNorm):
            lengths = None if num_samples is None else (num_samples - kernel) // stride + 1
            weight, bias = fold_group_norm(columns, self.first.conv, norms[0], lengths)
            norms = []
        else:
            norms = _own_norms(self.first)
            bias = None if bias is None else bias.expand(len(x), -1)
        rows = []
        for number, own in enumerate(columns):
            chunks = [own[begin:end] for begin, end in self._spans(len(own))]
            rows.append(
                torch.cat(
                    [
                        self._chunk(chunk, weight[number], None if bias is None else bias[number], norms)
                        for chunk in chunks
                    ]
                )
            )
        return torch.stack(rows).transpose(1, 2)

    def _chunk(self, columns: Tensor, weight: Tensor, bias: Tensor | None, norms: list[nn.Module]) -> Tensor:
        """Compute frames, T x C, from windows of one utterance's audio."""
        x = window_convolution(columns, weight, bias)
        for norm in norms:
            x = norm(x)
        x = F.gelu(x).float()
        for layer in self.others:
            x = layer(x)
        return x

    def _spans(self, num_windows: int) -> list[tuple[int, int]]:
        """Return (begin, end) of the first layer's windows for each chunk."""
        num_frames, field, step = num_windows, 1, 1
        for kernel, stride in self.grid:
            num_frames = (num_frames - kernel) // stride + 1
            field, step = field + (kernel - 1) * step, step * stride
        begins = range(0, num_frames, CHUNK)
        return [(begin * step, (min(begin + CHUNK, num_frames) - 1) * step + field) for begin in begins]


def _own_norms(block: ConvBlock) -> list[nn.Module]:
    """Return the channel norms of a block, without the transpositions around them."""
    return [cast(nn.Sequential, norm)[1] for norm in list(block)[2:-1]]


def to_int8(encoder: AudioModel) -> None:
    """Convert a model's convolutions and linear layers to int8, in place.

    The output layer stays in floating point. The model can then run, but not be saved.
    """
    encoder.add_module("feature_extractor", Int8FeatureExtractor(encoder.feature_extractor))
    if encoder.post_extract_proj is not None:
        encoder.add_module("post_extract_proj", Int8Linear(encoder.post_extract_proj))
    for module in list(encoder.encoder.layers.modules()):
        attention = isinstance(module, MultiheadAttention | ESPNETMultiHeadedAttention)
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                # queries, keys and values are in half precision if that is fast; everything else is fp32
                setattr(module, name, Int8Linear(child, mixed=attention and not name.endswith("out")))
