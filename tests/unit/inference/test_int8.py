"""int8 inference: the arithmetic to the last step, each part against its floating-point twin, and a trained model's
words.
"""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq.data.dictionary import Dictionary
from fairseq.decoding import GreedyDecoder
from fairseq.device import base
from fairseq.device.cuda import CudaDevice
from fairseq.inference import int8
from fairseq.inference.features import extract
from fairseq.inference.int8 import Int8FeatureExtractor, Int8Linear, PackedWeight, quantize
from fairseq.inference.model import SpeechModel
from fairseq.models.wav2vec import Wav2VecCtc
from fairseq.models.wav2vec.feature_extractor import ConvFeatureExtractionModel
from tests.small_speech import CONV, speech, write_checkpoint

MISSING = device_layer.get("cpu").int8_is_missing()
needs_int8 = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


# -- the arithmetic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0, 100.0])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_quantized_numbers_are_half_a_step_off_at_most_and_zero_is_exact(shift: float, size: float) -> None:
    torch.manual_seed(0)
    x = size * (torch.randn(40, 50) + shift)
    x[0, 0] = 0
    q = quantize(x)
    back = (q.values.float() - q.zero_point) * q.scale
    assert q.values.dtype == torch.uint8 and back[0, 0] == 0
    assert (back - x).abs().max() <= 0.502 * q.scale
    assert q.scale == pytest.approx((max(0, x.max().item()) - min(0, x.min().item())) / 254)


def test_tensors_without_a_range() -> None:
    silent = quantize(torch.zeros(3, 4))
    assert (silent.values == silent.zero_point).all() and silent.scale > 0
    assert quantize(torch.ones(1, 1)).values.item() == 254


@needs_int8
def test_products_are_exact_in_integers() -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(24, 40) * torch.rand(24, 1), torch.randn(24), torch.randn(7, 40)
    weight[3] = 0  # a channel without a range
    q = quantize(x)
    scales = weight.abs().amax(dim=1).clamp(min=1e-30) / 127
    integers = (q.values.double() - q.zero_point) @ (weight / scales.unsqueeze(1)).round().double().t()
    expected = (integers * scales.double() * q.scale + bias).float()
    product = PackedWeight(weight, bias)
    assert torch.allclose(product(q, torch.float32), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(product(q, torch.bfloat16), product(q, torch.float32).bfloat16())


@needs_int8
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_stays_so(value: float) -> None:
    x = torch.randn(5, 16)
    x[2, 3] = value
    assert Int8Linear(nn.Linear(16, 8).requires_grad_(False))(x).isnan().all()


# -- the parts ---------------------------------------------------------------------------------------------------------


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@needs_int8
@pytest.mark.parametrize("mixed", [False, True])
def test_linear_layers(mixed: bool) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 48).requires_grad_(False), torch.randn(9, 2, 64)
    layer = Int8Linear(linear, mixed)
    assert 0 < relative_error(layer(x), linear(x)) < 0.02
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.bfloat16()).dtype == (torch.bfloat16 if mixed else torch.float32)
        assert layer(x).shape == (9, 2, 48)


@needs_int8
@pytest.mark.parametrize(
    ("mode", "conv_bias"), [("default", False), ("default", True), ("layer_norm", True), ("layer_norm", False)]
)
def test_feature_extractor(monkeypatch: pytest.MonkeyPatch, mode: str, conv_bias: bool) -> None:
    torch.manual_seed(0)
    spec = [(32, 10, 5), (32, 3, 2), (48, 3, 2), (32, 2, 3), (32, 2, 2)]
    extractor = ConvFeatureExtractionModel(spec, mode=mode, conv_bias=conv_bias).eval().requires_grad_(False)
    if conv_bias:
        for block in extractor.conv_layers:
            nn.init.normal_(block.conv.bias)
    source = torch.from_numpy(np.stack([speech(0.9, seed) for seed in range(2)])) * torch.tensor([[1.0], [5.0]])
    num_samples = torch.tensor([source.size(1), 9000])
    source[1, 9000:] *= 10
    expected, quantized = extractor(source, num_samples), Int8FeatureExtractor(extractor)
    whole = quantized(source, num_samples)
    assert whole.shape == expected.shape
    assert all(0 < relative_error(*pair) < 0.05 for pair in zip(whole, expected, strict=True))
    if mode == "default":
        # statistics over all samples: the lengths do count
        assert relative_error(quantized(source)[1], expected[1]) > 0.2
    monkeypatch.setattr(int8, "CHUNK", 7)
    assert whole.size(2) % 7 != 0
    assert torch.allclose(quantized(source, num_samples), whole, atol=1e-5)


@needs_int8
def test_quiet_frames_beside_loud_ones() -> None:
    """Every frame has the error of its own size; a scale for all of them would leave nothing of the quiet ones."""
    torch.manual_seed(0)
    extractor = ConvFeatureExtractionModel([(32, 10, 5), (32, 3, 2), (32, 2, 2)]).eval().requires_grad_(False)
    source = torch.randn(1, 8000)
    source[:, 4000:] *= 1e-3
    found, expected = Int8FeatureExtractor(extractor)(source)[0].t(), extractor(source)[0].t()
    errors = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert expected[-20:].norm() < 0.01 * expected[:20].norm() and errors.max() < 0.06


# -- whole models ------------------------------------------------------------------------------------------------------


@needs_int8
@pytest.mark.parametrize(
    "model",
    [
        {},
        {"layer_norm_first": True, "extractor_mode": "layer_norm", "conv_bias": True},
        {"layer_type": "conformer", "attn_type": "espnet", "pos_enc_type": "rel_pos", "depthwise_conv_kernel_size": 7},
    ],
    ids=["base", "large", "conformer"],
)
def test_all_kinds_of_models_run(tmp_path: Path, model: dict[str, object]) -> None:
    path = write_checkpoint(tmp_path / "model.pt", normalize=True, **model)
    fp32, quantized = (SpeechModel.load(path, precision=precision) for precision in ("fp32", "int8"))
    waves = [speech(1.3), speech(0.5, 1), speech(0.01), np.zeros(4000, dtype=np.float32)]
    found, expected = quantized.log_probs(waves), fp32.log_probs(waves)
    assert [len(scores) for scores in found] == [len(scores) for scores in expected]
    assert all(np.abs(ours - theirs).mean() < 0.3 for ours, theirs in zip(found, expected, strict=True) if len(ours))
    assert "int8" in quantized.describe() and "int8" not in fp32.describe()
    layers = [m for m in quantized.encoder.modules() if isinstance(m, nn.Linear | Int8Linear)]
    assert len(layers) > 10 and all(isinstance(m, Int8Linear) for m in layers)
    assert isinstance(quantized.encoder.feature_extractor, Int8FeatureExtractor)
    alone = quantized.log_probs(waves[1:2])[0]
    assert np.array_equal(alone, found[1])  # whatever it was read with


@needs_int8
def test_features_of_a_pretrained_model(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model.pt", fine_tuned=False)
    names = ["extractor", "projected", "0", "context", "codes"]
    expected, found = (extract(SpeechModel.load(path, precision=p), [speech(1.0)], names)[0] for p in ("fp32", "int8"))
    assert {name: values.shape for name, values in found.items()} == {
        name: values.shape for name, values in expected.items()
    }
    for name in names[:-1]:
        assert 0 < relative_error(torch.from_numpy(found[name]), torch.from_numpy(expected[name])) < 0.05, name


TONES = {"A": 300.0, "B": 500.0, "C": 800.0, "E": 1300.0, "T": 2100.0}  # Hz
SLOT = 3200  # samples of a letter, and of the pause after it


def spoken(letters: str, seed: int) -> np.ndarray:
    """A tone and a pause for each letter, in noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(SLOT) / 16000
    slots = [part for letter in letters for part in (0.2 * np.sin(2 * np.pi * TONES[letter] * time), np.zeros(SLOT))]
    return (np.concatenate(slots) + 0.02 * rng.standard_normal(len(slots) * SLOT)).astype(np.float32)


@pytest.fixture(scope="module")
def trained() -> tuple[Wav2VecCtc, SimpleNamespace]:
    """A model that has learned to spell tones, frame by frame, and its task."""
    torch.manual_seed(0)
    dictionary = Dictionary()
    for letter in TONES:
        dictionary.add_symbol(letter)
    task = SimpleNamespace(target_dictionary=dictionary, cfg=SimpleNamespace(sample_rate=16000, normalize=True))
    encoder = {
        "_name": "wav2vec2",
        "conv_feature_layers": CONV.replace("(16", "(32"),
        "encoder_layers": 2,
        "encoder_embed_dim": 48,
    }
    encoder |= {
        "encoder_ffn_embed_dim": 96,
        "encoder_attention_heads": 4,
        "conv_pos": 8,
        "conv_pos_groups": 4,
        "encoder_layerdrop": 0,
    }
    encoder |= {
        "dropout": 0,
        "attention_dropout": 0,
        "activation_dropout": 0,
        "dropout_input": 0,
        "feature_grad_mult": 1,
    }
    w2v_args = {"model": encoder, "task": {"_name": "audio_pretraining", "normalize": True}}
    model = Wav2VecCtc.build_model(
        {"_name": "wav2vec_ctc", "w2v_path": "", "w2v_args": w2v_args, "apply_mask": False}, task
    ).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    rng = np.random.default_rng(0)
    for step in range(60):
        texts = ["".join(rng.choice(list(TONES), 3)) for _ in range(6)]
        waves = torch.from_numpy(np.stack([spoken(text, 100 * step + row) for row, text in enumerate(texts)]))
        logits = model(source=F.layer_norm(waves, waves.shape[1:]))["encoder_out"]
        slots = (torch.arange(len(logits)) * 320 + 200) // SLOT
        labels = torch.tensor(
            [[dictionary.index(text[slot // 2]) if slot % 2 == 0 else 0 for slot in slots] for text in texts]
        )
        loss = F.cross_entropy(logits.flatten(0, 1), labels.t().flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, task


@pytest.mark.slow
@needs_int8
def test_a_trained_model_says_the_same(trained: tuple[Wav2VecCtc, SimpleNamespace]) -> None:
    model, task = trained
    fp32, quantized = (
        SpeechModel(copy.deepcopy(model), task, None, precision=precision) for precision in ("fp32", "int8")
    )
    rng = np.random.default_rng(5)
    texts = ["".join(rng.choice(list(TONES), 6)) for _ in range(8)]
    waves = [spoken(text, seed) for seed, text in enumerate(texts)]
    expected, found = np.stack(fp32.log_probs(waves)), np.stack(quantized.log_probs(waves))
    same = (found.argmax(-1) == expected.argmax(-1)).mean()
    difference = np.abs(np.exp(found) - np.exp(expected)).mean()
    decoder = GreedyDecoder(quantized.dictionary())
    assert same > 0.99, same
    assert 0 < difference < 2e-3, difference
    assert [decoder.decode(scores)[0].text.replace(" ", "") for scores in expected] == texts  # it has learned
    assert [decoder.decode(scores)[0].text.replace(" ", "") for scores in found] == texts


# -- where it cannot be had --------------------------------------------------------------------------------------------


def test_refused_by_name(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(
        ValueError,
        match=r"int8 is not available: the processor has no products of 8-bit integers .* use one of: auto, fp32, bf16$",
    ):
        SpeechModel.load(checkpoint, precision="int8")
    monkeypatch.setattr(base, "cpu_flags", lambda: frozenset({"avx512_vnni"}))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ValueError, match="this build of torch has no oneDNN"):
        SpeechModel.load(checkpoint, precision="int8")
    assert "only the CPU" in str(CudaDevice().int8_is_missing())
