"""The registry of audio models, and their published sizes on the meta device."""

from __future__ import annotations

import pytest
import torch

from fairseq.models import kinds
from fairseq.models.data2vec import Data2VecAudioModel
from fairseq.models.hubert import HubertModel
from fairseq.models.wav2vec import Wav2Vec2Model
from fairseq.models.wav2vec.audio_model import AudioModel

_DEEP = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}
_QUANTIZED = {"quantize_targets": True, "final_dim": 768, "latent_vars": 320, "latent_groups": 2}


def size(layers: int, width: int, heads: int = 16) -> dict[str, int]:
    return {
        "encoder_layers": layers,
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": 4 * width,
        "encoder_attention_heads": heads,
    }


XLS_R = {
    "300M": {**_DEEP, **_QUANTIZED, **size(24, 1024)},
    "1B": {**_DEEP, **_QUANTIZED, "final_dim": 1024, **size(48, 1280)},
    "2B": {**_DEEP, **_QUANTIZED, "final_dim": 1024, **size(48, 1920)},
}


@pytest.mark.parametrize(
    ("name", "settings", "millions"),
    [
        ("wav2vec2", XLS_R["300M"], 317),
        ("wav2vec2", XLS_R["1B"], 965),
        ("wav2vec2", XLS_R["2B"], 2162),
        ("wav2vec2", {**XLS_R["1B"], "layer_type": "trf_adp", "adp_num": 1, "adp_dim": 16}, 967),
        ("hubert", size(12, 768, 12), 95),
        ("hubert", {"extractor_mode": "layer_norm", "layer_norm_first": True, **size(24, 1024)}, 316),
        ("hubert", {"extractor_mode": "layer_norm", "layer_norm_first": True, **size(48, 1280)}, 964),
        ("data2vec_audio", {"pos_conv_depth": 5, "conv_pos": 95, **size(12, 768, 12)}, 93),
        ("data2vec_audio", {**_DEEP, "pos_conv_depth": 5, "conv_pos": 95, **size(24, 1024)}, 314),
    ],
)
def test_published_sizes_open_on_the_meta_device(name: str, settings: dict[str, object], millions: int) -> None:
    cls = kinds.encoder(name)
    assert cls is not None
    with torch.device("meta"):
        model = cls.build_model(dict(settings))
    assert all(parameter.is_meta for parameter in model.parameters())
    found = sum(parameter.numel() for parameter in model.parameters())
    assert abs(found / 1e6 - millions) < 3, f"{found / 1e6:.1f}"


def test_the_registry_says_what_a_name_is() -> None:
    assert kinds.encoder(None) is kinds.encoder("wav2vec2") is Wav2Vec2Model
    assert kinds.encoder("hubert") is HubertModel and kinds.encoder("data2vec_audio") is Data2VecAudioModel
    assert kinds.encoder("wav2vec_ctc") is None and kinds.encoder("unknown") is None
    assert kinds.fine_tuned("wav2vec_ctc") and kinds.fine_tuned("hubert_ctc")
    assert not any(kinds.fine_tuned(name) for name in ("wav2vec2", "hubert", "unknown", None))
    with pytest.raises(ValueError, match=r"kind 'data2vec_multi'. It must be one of: data2vec_audio, hubert, "):
        kinds.encoder_of({"model": {"_name": "data2vec_multi"}})


@pytest.mark.parametrize("name", sorted(kinds.encoders()))
def test_parameters_of_pre_training_can_be_removed(name: str) -> None:
    """The names in `pretraining_only` are those of the model; what is left encodes."""
    cls: type[AudioModel] = kinds.encoders()[name]
    small = {**size(1, 24, 2), "conv_pos": 8, "conv_pos_groups": 2, "conv_feature_layers": "[(8, 10, 5)]"}
    model = cls.build_model(dict(small)).eval()
    assert any(cls.is_pretraining_only(key) for key in model.state_dict())
    encoder = cls.for_encoding({"model": {"_name": name, **small, "of_another_version": 1}}).eval()
    assert not any(cls.is_pretraining_only(key) for key in encoder.state_dict())
    with torch.no_grad():
        encoded = encoder.encode(torch.randn(1, 100), features_only=True)
    assert encoded.context.shape == (1, 19, 24)
