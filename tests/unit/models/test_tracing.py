"""A graph that torch.jit.trace recorded at one length gives the model's results at others."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_model import num_frames, small_config, small_model
from torch import Tensor, nn

from fairseq.models.wav2vec import encoder as encoder_module
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc

CONFORMER = {"layer_type": "conformer", "depthwise_conv_kernel_size": 5}
SETTINGS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True},
    "multiple of 4": {"required_seq_len_multiple": 4},
    "no multiple": {"required_seq_len_multiple": 1},
    "cropped": {"crop_seq_to_multiple": 4},
    "stacked positions": {"pos_conv_depth": 3, "conv_pos": 12},
    "odd positions": {"conv_pos": 7},
    "conformer": CONFORMER,  # its convolution sees the frames that fill up to the multiple
    "rel_pos": {**CONFORMER, "attn_type": "espnet", "pos_enc_type": "rel_pos"},
    "rope": {**CONFORMER, "attn_type": "espnet", "pos_enc_type": "rope"},
}
LENGTHS = (4000, 4040, 900, 1234, 8080)  # of small_model: 49, 50, 10, 14 and 100 frames


class Features(nn.Module):
    """What a caller traces: features, and the output of each block."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        result = self.model(source, padding_mask, mask=False, features_only=True)
        return result["x"], *(block[0].transpose(0, 1) for block in result["layer_results"])


def traced(module: nn.Module, *inputs: Tensor) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module.eval(), inputs, check_trace=False)


@pytest.mark.slow
@pytest.mark.parametrize("traced_at", [4000, 4040])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_features_of_other_lengths(settings: dict[str, Any], traced_at: int) -> None:
    model = small_model(**settings).eval()
    whole, padded = Features(model), Features(model)
    row = torch.zeros(2, traced_at, dtype=torch.bool)
    row[1, traced_at // 2 :] = True
    with torch.no_grad():
        plain, masked = traced(whole, torch.randn(1, traced_at)), traced(padded, torch.randn(2, traced_at), row)
        for length in LENGTHS:
            source = torch.randn(3, length)
            padding = torch.arange(length) >= torch.tensor([[length], [length * 2 // 3], [length // 2]])
            valid = ~model.extract_features(source, padding)["padding_mask"]
            for got, expected in zip(plain(source), whole(source), strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-5)
            for got, expected in zip(masked(source, padding), padded(source, padding), strict=True):
                torch.testing.assert_close(got[valid], expected[valid], rtol=1e-4, atol=2e-5)
            assert torch.allclose(masked(source, torch.zeros_like(padding))[0], whole(source)[0], rtol=1e-4, atol=2e-5)


def test_frame_counts_of_the_lengths() -> None:
    assert [num_frames(length, small_model()) for length in LENGTHS] == [49, 50, 10, 14, 100]


def test_logits_of_other_lengths() -> None:
    symbols = SimpleNamespace(target_dictionary=list("0123456"))
    model = Wav2VecCtc.build_model(
        Wav2Vec2CtcConfig(w2v_args={"model": dict(vars(small_config()), _name="wav2vec2")}), symbols
    ).eval()

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, source: Tensor) -> Tensor:
            return self.model(source=source, padding_mask=None)["encoder_out"]

    graph = traced(Logits(), torch.randn(1, 4000))
    for length in LENGTHS:
        source = torch.randn(2, length)
        torch.testing.assert_close(graph(source), Logits()(source), rtol=1e-4, atol=2e-5)


def test_a_pad_to_multiple_of_the_callers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporters replace it by one that computes with tensors, and returns the count as one."""

    def dynamic(x: Tensor | None, multiple: int, dim: int = -1, value: float = 0) -> tuple[Tensor | None, Tensor | int]:
        if x is None:
            return None, 0
        size = torch.tensor(float(x.size(dim)))
        added = (torch.ceil(size / multiple) * multiple - size).long()
        return nn.functional.pad(x, (0,) * (-1 - dim) * 2 + (0, added), value=value), added

    model = Features(small_model().eval())
    sources = [torch.randn(1, length) for length in LENGTHS]
    expected = [model(source)[0] for source in sources]
    monkeypatch.setattr(encoder_module, "pad_to_multiple", dynamic)
    for source, x in zip(sources, expected, strict=True):
        torch.testing.assert_close(model(source)[0], x, rtol=1e-4, atol=2e-5)
    graph = traced(model, sources[1])
    for source, x in zip(sources, expected, strict=True):
        torch.testing.assert_close(graph(source)[0], x, rtol=1e-4, atol=2e-5)
