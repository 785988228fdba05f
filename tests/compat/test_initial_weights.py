"""A seed's initial weights are those that fairseq gives it: first and last number of every drawn tensor, from fairseq-fixed 0.12.3.1."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from fairseq import utils
from fairseq.models.wav2vec import Wav2Vec2Model
from fairseq.models.wav2vec.config import Wav2Vec2Config

MODEL = {
    "quantize_targets": True, "final_dim": 16, "encoder_embed_dim": 24, "encoder_layers": 2, "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4, "latent_vars": 8, "latent_groups": 2, "conv_feature_layers": "[(16,10,5)] + [(16,3,2)]*2",
    "conv_pos": 8, "conv_pos_groups": 4, "target_glu": True,
}  # fmt: skip
SEED_1 = {
    "mask_emb": (0.668302, 0.922758),
    "feature_extractor.conv_layers.0.0.weight": (0.186727, -0.397077),
    "feature_extractor.conv_layers.1.0.weight": (0.151815, -0.136818),
    "feature_extractor.conv_layers.2.0.weight": (-0.185764, -0.0248728),
    "post_extract_proj.weight": (0.0105253, 0.164586),
    "post_extract_proj.bias": (-0.154956, -0.0253938),
    "quantizer.vars": (0.275866, 0.347522),
    "quantizer.weight_proj.weight": (-0.783638, -0.679879),
    "project_q.weight": (-0.126378, -0.0600757),
    "project_q.bias": (-0.150198, 0.019669),
    "encoder.pos_conv.0.weight_g": (1.70398, 1.84955),
    "encoder.pos_conv.0.weight_v": (-0.230298, 0.0399844),
    "encoder.layers.0.self_attn.k_proj.weight": (0.0184223, -0.0184334),
    "encoder.layers.0.self_attn.v_proj.weight": (0.00715848, -0.00711341),
    "encoder.layers.0.self_attn.q_proj.weight": (0.016278, 0.0184562),
    "encoder.layers.0.self_attn.out_proj.weight": (0.0338945, -0.0198686),
    "encoder.layers.0.fc1.weight": (-0.00160972, 0.01234),
    "encoder.layers.0.fc2.weight": (-0.0167602, 0.00186652),
    "encoder.layers.1.self_attn.k_proj.weight": (0.00383778, 0.00332897),
    "encoder.layers.1.self_attn.v_proj.weight": (0.0381448, -0.0256166),
    "encoder.layers.1.self_attn.q_proj.weight": (-0.00343988, 0.0024219),
    "encoder.layers.1.self_attn.out_proj.weight": (-0.0210155, -0.00927663),
    "encoder.layers.1.fc1.weight": (0.0138297, -0.000378491),
    "encoder.layers.1.fc2.weight": (-0.0158115, -0.0067639),
    "target_glu.0.weight": (-0.115027, 0.182509),
    "target_glu.0.bias": (0.169733, -0.177754),
    "final_proj.weight": (-0.0253362, 0.0484292),
    "final_proj.bias": (0.191707, -0.0203205),
}


def test_seed_1_gives_fairseqs_initial_weights() -> None:
    utils.set_torch_seed(1)
    model = Wav2Vec2Model(OmegaConf.merge(OmegaConf.structured(Wav2Vec2Config), MODEL))
    drawn = {name: p.detach().flatten() for name, p in model.named_parameters() if p.detach().std() > 0}
    assert set(drawn) == set(SEED_1)
    for name, ends in SEED_1.items():
        assert (drawn[name][0].item(), drawn[name][-1].item()) == pytest.approx(ends, rel=1e-4), name
