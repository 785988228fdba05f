"""How much of a codebook new audio uses."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from fairseq import device
from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model, codebook_use


class Waves:
    """Noise, and one file that cannot be read."""

    max_sample_size = 16000

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 3:
            raise ValueError("cannot be decoded")
        length = 100 if index == 4 else 20000  # shorter than a frame sees, and longer than max_sample_size
        return {"source": torch.randn(length, generator=torch.Generator().manual_seed(index))}


@pytest.fixture
def model() -> Wav2Vec2Model:
    torch.manual_seed(1)
    encoder = {"encoder_layers": 1, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 16, "encoder_attention_heads": 2}
    others = {
        "conv_feature_layers": "[(16,10,5)] + [(16,3,2)]*4 + [(16,2,2)]*2",
        "conv_pos": 4,
        "conv_pos_groups": 2,
        "final_dim": 8,
    }
    return Wav2Vec2Model(Wav2Vec2Config(quantize_targets=True, latent_vars=12, **encoder, **others))


def test_counts_are_those_of_the_likeliest_codewords(model: Wav2Vec2Model) -> None:
    found = codebook_use.measure(model.train(), Waves(), device.get("cpu"), 16000, seed=1)
    assert model.training and found.seconds == 4.0 and found.frames == 4 * 49
    with torch.no_grad():
        model.eval()
        codes = torch.cat([model.quantize(Waves()[i]["source"][None, :16000])[1][0] for i in (0, 1, 2, 5)])
    assert found.used == [len(codes[:, group].unique()) for group in range(2)]
    shares = codes[:, 0].bincount(minlength=12).double() / len(codes)
    assert found.effective[0] == pytest.approx((-(shares * (shares + 1e-30).log()).sum()).exp().item())


def test_it_stops_once_there_is_enough_audio(model: Wav2Vec2Model) -> None:
    assert codebook_use.measure(model, Waves(), device.get("cpu"), 16000, seed=1, minutes=1 / 60).seconds <= 2.0


def test_few_codewords_are_warned_of(model: Wav2Vec2Model, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert not codebook_use.report(model, Waves(), device.get("cpu"), 16000, 1).is_little()
    assert "few codewords" not in caplog.text and "group 1:" in caplog.text
    with torch.no_grad():
        model.quantizer.weight_proj.bias[0] = 1e4
    assert codebook_use.report(model, Waves(), device.get("cpu"), 16000, 1).effective[0] == pytest.approx(1.0)
    assert "The new audio uses few codewords" in caplog.text
    model.remove_pretraining_modules()
    assert codebook_use.report(model, Waves(), device.get("cpu"), 16000, 1) is None
