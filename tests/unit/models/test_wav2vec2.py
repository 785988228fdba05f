"""The model's edges: how it is built, how masks reach it, what tools call, schedules, checkpoints of other origin."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from small_model import CONV, gradients, largest_difference, masked_batch, num_frames, small_config, small_model

from fairseq.masks.forward import frame_mask
from fairseq.masks.positions import positions_of
from fairseq.models import (
    ARCH_MODEL_REGISTRY,
    MODEL_DATACLASS_REGISTRY,
    MODEL_REGISTRY,
    BaseFairseqModel,
    build_model,
    register_model,
)
from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2 import logit_temperature
from fairseq.modules import unwrap_checkpoint

SMALL = {
    "encoder_layers": 1,
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 40,
    "encoder_attention_heads": 3,
    "conv_feature_layers": CONV,
}
SMALL |= {"conv_pos": 8, "conv_pos_groups": 4}


# -- building ----------------------------------------------------------------------------------------------------------


def test_built_from_dataclass_dict_and_dictconfig_alike() -> None:
    models = []
    for cfg in (
        Wav2Vec2Config(**SMALL),
        dict(SMALL),
        OmegaConf.create(SMALL),
        OmegaConf.structured(Wav2Vec2Config(**SMALL)),
    ):
        torch.manual_seed(0)
        models.append(Wav2Vec2Model(cfg))
    for model in models[1:]:
        for ours, first in zip(model.parameters(), models[0].parameters(), strict=True):
            assert torch.equal(ours, first)
        assert model.cfg.latent_temp == (2, 0.5, 0.999995) or list(model.cfg.latent_temp) == [2, 0.5, 0.999995]


def test_a_free_standing_config_with_interpolations_into_others_builds() -> None:
    cfg = OmegaConf.create({**SMALL, "fp16": "${common.fp16}", "max_positions": "${task.max_positions}"})
    assert Wav2Vec2Model(cfg).cfg.fp16 is False


def test_build_model_finds_the_class_and_names_unknown_ones() -> None:
    assert isinstance(build_model(OmegaConf.create({"_name": "wav2vec2", **SMALL})), Wav2Vec2Model)
    with pytest.raises(ValueError, match="wav2vec2"):
        build_model({"_name": "wav2vec", **SMALL})
    with pytest.raises(ValueError, match="encoder_layers"):
        build_model({"_name": "wav2vec2", "encoder_layer": 3})
    old = {"_name": "wav2vec2", "encoder_layer_of_another_version": 3, **SMALL}
    assert isinstance(build_model(old, from_checkpoint=True), Wav2Vec2Model)


def test_registering() -> None:
    assert MODEL_REGISTRY["wav2vec2"] is ARCH_MODEL_REGISTRY["wav2vec2"] is Wav2Vec2Model
    assert MODEL_DATACLASS_REGISTRY["wav2vec2"] is Wav2Vec2Config
    with pytest.raises(ValueError, match="already"):
        register_model("wav2vec2")(Wav2Vec2Model)
    with pytest.raises(ValueError, match="BaseFairseqModel"):
        register_model("no_model")(torch.nn.Linear)
    assert "no_model" not in MODEL_REGISTRY


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"adp_num": 2}, "adp_num is 2 but model.layer_type is transformer"),
        ({"layer_type": "trf_adp", "adp_num": 1, "adp_act_fn": "tanh", "adp_dim": 0}, "(?s)adp_dim.*adp_act_fn"),
        ({"layer_type": "trf_adp", "adp_num": 1, "adp_trf_idx": "last"}, "adp_trf_idx is 'last'"),
        ({"logit_temp": 0.0}, "logit_temp"),
        ({"logit_temp_start": 1.0}, "logit_temp_updates"),
        ({"logit_temp_start": -1.0, "logit_temp_updates": 3}, "logit_temp_start"),
        ({"mask_emb_init": -0.1}, "mask_emb_init"),
        ({"codebook_negatives": 3, "quantize_targets": False}, "codebook_negatives"),
        ({"required_seq_len_multiple": 0}, "required_seq_len_multiple"),
        ({"encoder_attention_heads": 5}, "encoder_attention_heads"),
        ({"conv_pos_groups": 5}, "conv_pos_groups"),
        ({"latent_groups": 5}, "latent_groups"),
        ({"extractor_mode": "batch_norm"}, "extractor_mode"),
        ({"layer_type": "trf_adp"}, "layer_type is trf_adp but model.adp_num is -1"),
        ({"layer_type": "performer"}, "layer_type"),
        ({"layer_type": "conformer", "pos_enc_type": "rel_pos"}, "attn_type=espnet"),
        ({"layer_type": "conformer", "pos_enc_type": "abs", "attn_type": "fast"}, "attn_type is 'fast'"),
        ({"layer_type": "conformer", "attn_type": "espnet", "pos_enc_type": "alibi"}, "alibi"),
        ({"layer_type": "conformer", "depthwise_conv_kernel_size": 4}, "depthwise_conv_kernel_size"),
        ({"conv_feature_layers": "[(16,10)]"}, "conv_feature_layers"),
        ({"latent_temp": (2, 0.5)}, "latent_temp"),
        ({"activation_fn": "sine"}, "activation_fn"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Wav2Vec2Model(small_config(**changes))


def test_attributes_that_other_tools_read() -> None:
    model = small_model(encoder_layerdrop=0.05, dropout=0.3, attention_dropout=0.2, dropout_input=0.1)
    encoder = model.encoder
    assert (encoder.layerdrop, encoder.layer_norm_first, len(encoder.layers)) == (0.05, False, 2)
    assert (model.dropout_input.p, encoder.layers[0].self_attn.dropout_module.p, encoder.layers[0].dropout1.p) == (
        0.1,
        0.2,
        0.3,
    )
    assert (encoder.layers[0].self_attn.num_heads, encoder.layers[0].fc1.out_features) == (3, 40)
    assert (encoder.pos_conv[0].kernel_size, encoder.pos_conv[0].groups) == ((8,), 4)
    convs = [
        (block[0].out_channels, block[0].kernel_size[0], block[0].stride[0])
        for block in model.feature_extractor.conv_layers
    ]
    assert convs == [(16, 10, 5)] + [(16, 3, 2)] * 3 + [(16, 2, 2)]
    assert type(model.feature_extractor.conv_layers[0][2]).__name__ == "Fp32GroupNorm"


# -- masks -------------------------------------------------------------------------------------------------------------


def test_a_boolean_mask_alone_equals_positions_and_weights() -> None:
    model = small_model().eval()
    net_input = masked_batch(model, [4000, 2900], [13, 9])
    given = model(**net_input)["x"]
    only_mask = {name: value for name, value in net_input.items() if not name.startswith("masked_")}
    only_mask["negative_indices"] = net_input["negative_indices"][:, :13]
    derived = model(**only_mask)
    assert torch.equal(derived["masked_weights"].sum(1), torch.tensor([13.0, 9.0]))
    counted = derived["masked_weights"] > 0
    assert torch.equal(derived["x"][:, counted], given[:, :, :13][:, counted])


def test_positions_alone_give_the_mask() -> None:
    model = small_model().eval()
    net_input = masked_batch(model, [4000, 2900, 4000], [13, 9, 0])
    given = model(**net_input)["x"]
    without = model(**{name: value for name, value in net_input.items() if name != "mask_indices"})["x"]
    assert torch.equal(without[:, :2], given[:, :2])


def test_positions_of_a_mask() -> None:
    mask = torch.tensor([[0, 1, 1, 0, 1], [0, 0, 0, 0, 1], [1, 0, 0, 1, 0]]).bool()
    positions, weights = positions_of(mask)
    assert weights.tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 0]]
    assert positions[0].tolist() == [1, 2, 4] and positions[2, :2].tolist() == [0, 3]


def test_without_a_mask_one_is_drawn_as_the_config_says() -> None:
    model = small_model(mask_prob=0.5, mask_length=4).train()
    source = torch.randn(3, 4000)
    output = model(source)
    T = num_frames(4000, model)
    counts = output["masked_weights"].sum(1)
    assert counts.unique().numel() == 1, "require_same_masks is on by default"
    assert 0.15 * T < counts[0] < 0.6 * T
    assert torch.isfinite(model.get_logits(output)[:, 0]).all()


@pytest.mark.parametrize("settings", [{"mask_prob": 0.0}, {}])
def test_nothing_to_predict_is_an_error(settings: dict[str, Any]) -> None:
    model = small_model(**settings)
    with pytest.raises(ValueError, match="No frames are masked"):
        model(torch.randn(2, 4000), mask=settings != {})


def test_positions_without_weights_are_an_error() -> None:
    model = small_model()
    net_input = masked_batch(model, [4000], [5])
    del net_input["masked_weights"]
    with pytest.raises(ValueError, match="masked_positions and masked_weights"):
        model(**net_input)


@pytest.mark.parametrize("before", [False, True])
def test_channel_masks(before: bool) -> None:
    """Masked channels are 0 in what the encoder gets, but for mask_emb where channels come first; a mask is drawn
    where none is given.
    """
    model = small_model(mask_channel_prob=0.5, mask_channel_length=3, mask_channel_before=before).eval()
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net_input = masked_batch(model, [4000], [13])
    channels = torch.zeros(1, 24, dtype=torch.bool)
    channels[0, 5:9] = True
    model(**net_input, mask_channel_indices=channels)
    model(**net_input, mask_channel_indices=channels.unsqueeze(1).expand(1, seen[0].size(1), 24))
    masked = net_input["mask_indices"][0]
    assert not seen[0][0, ~masked][:, 5:9].any() and seen[0][0, ~masked][:, 9:].all()
    assert bool(seen[0][0, masked][:, 5:9].any()) == before
    assert torch.equal(seen[0], seen[1])
    model(**net_input)
    assert (seen[2][0, ~masked] == 0).all(0).any(), "no channel was masked"


def test_cropping_to_a_multiple_drops_masked_frames_past_the_end() -> None:
    model = small_model(crop_seq_to_multiple=8).eval()
    T = num_frames(4000, model)
    kept = T - T % 8
    net_input = masked_batch(model, [4000, 4000], [T, kept])
    net_input["mask_indices"][1] = torch.arange(T) < kept
    net_input["masked_positions"][1, :kept] = torch.arange(kept)
    del net_input["negative_indices"]
    output = model(**net_input)
    assert output["masked_weights"].sum(1).tolist() == [kept, kept]
    assert torch.isfinite(output["x"][0]).all()
    assert model(net_input["source"], mask=False, features_only=True)["x"].size(1) == kept


# -- what tools call ---------------------------------------------------------------------------------------------------


def test_extract_features_stops_at_a_layer() -> None:
    model = small_model(encoder_layers=3, layer_norm_first=True).eval()
    source = torch.randn(2, 4000)
    whole = model.extract_features(source, None)
    first = model.extract_features(source, None, layer=1)
    assert len(whole["layer_results"]) == 3 and len(first["layer_results"]) == 2
    assert torch.equal(first["x"], whole["layer_results"][1][0].transpose(0, 1))
    assert whole["features"].shape == (2, num_frames(4000, model), 16)


def test_remove_pretraining_modules_leaves_a_feature_extractor() -> None:
    model = small_model(encoder_layers=3, target_glu=True).eval()
    source = torch.randn(2, 4000)
    expected = model.extract_features(source, None, layer=1)["x"]
    model.remove_pretraining_modules(last_layer=1)
    assert len(model.encoder.layers) == 2
    assert torch.equal(model.extract_features(source, None)["x"], expected)
    assert not any(
        name.startswith(("quantizer", "project_q", "target_glu", "final_proj")) for name, _ in model.named_parameters()
    )
    with pytest.raises(ValueError, match="no quantizer"):
        model.quantize(source)


def test_quantize_returns_codewords_and_their_codes() -> None:
    model = small_model().eval()
    quantized, codes = model.quantize(torch.randn(2, 4000))
    T = num_frames(4000, model)
    assert quantized.shape == (2, T, 12) and codes.shape == (2, T, 2)
    assert torch.equal(quantized, model.quantizer.look_up(codes))


def test_feature_grad_mult_scales_or_freezes_the_extractor() -> None:
    def extractor_gradient(mult: float) -> torch.Tensor:
        model = small_model(feature_grad_mult=mult).eval()
        model(torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)), mask=False, features_only=True)[
            "x"
        ].square().sum().backward()
        return gradients(model)["feature_extractor.conv_layers.1.0.weight"]

    assert largest_difference(extractor_gradient(0.1), 0.1 * extractor_gradient(1.0)) < 1e-5
    assert not extractor_gradient(0.0).any()


def test_get_logits_is_position_major() -> None:
    model = small_model()
    x = torch.arange(2 * 3 * 4.0).view(4, 2, 3)  # (1+N) x B x M
    assert torch.equal(model.get_logits({"x": x}), torch.stack([x[:, b, m] for m in range(3) for b in range(2)]))


# -- schedules, precision, checkpoints ---------------------------------------------------------------------------------


def test_temperatures_follow_the_updates() -> None:
    model = small_model(latent_temp=(2.0, 0.5, 0.99), logit_temp_start=1.0, logit_temp_updates=250)
    for updates, gumbel, logit in ((0, 2.0, 1.0), (125, 2 * 0.99**125, 0.1**0.5), (250, 0.5, 0.1), (10**6, 0.5, 0.1)):
        model.set_num_updates(updates)
        assert model.quantizer.curr_temp == pytest.approx(gumbel)
        assert model.logit_temp == pytest.approx(logit)
    assert logit_temperature(small_config(), 0) == 0.1


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({}, 1.0),
        ({"logit_temp_start": 1.0, "logit_temp_updates": 9}, 0.1),
        ({"mask_emb_init": 0.5}, 0.5),
        ({"mask_emb_init": 0.0}, 0.0),
    ],
)
def test_mask_emb_starts_small_where_the_plateau_is_to_be_left(changes: dict[str, Any], bound: float) -> None:
    model, stock = small_model(encoder_embed_dim=72, **changes), small_model(encoder_embed_dim=72)
    assert bound * 0.9 <= model.mask_emb.max() <= bound and model.mask_emb.min() >= 0
    ours, stocks = model.state_dict(), stock.state_dict()
    assert all(torch.equal(ours[name], stocks[name]) for name in ours if name != "mask_emb"), (
        "the other weights are drawn as without it"
    )


def test_logits_are_divided_by_the_current_temperature() -> None:
    model = small_model(logit_temp_start=1.0, logit_temp_updates=250).eval()
    net_input = masked_batch(model, [4000], [13])
    model.set_num_updates(0)
    start = model(**net_input)["x"]
    model.set_num_updates(250)
    assert torch.allclose(model(**net_input)["x"], start * 10, rtol=1e-5)


def test_bf16_autocast_stays_close_to_fp32() -> None:
    """Loss within 2 %, and gradients in the same direction for every parameter with a gradient of size."""
    results = []
    for enabled in (False, True):
        model = small_model().eval()
        net_input = masked_batch(model, [4000, 2900], [13, 9])
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = model(**net_input)
        assert output["x"].dtype == torch.float32
        loss = torch.nn.functional.cross_entropy(
            model.get_logits(output), model.get_targets(None, output), reduction="sum"
        )
        loss.backward()
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())
        results.append((loss.item(), gradients(model)))
    (exact, exact_grads), (rounded, rounded_grads) = results
    assert rounded == pytest.approx(exact, rel=0.02)
    size = max(grad.norm() for grad in exact_grads.values())
    for name, grad in exact_grads.items():
        if grad.norm() > 0.01 * size:
            assert torch.cosine_similarity(grad.flatten(), rounded_grads[name].flatten(), dim=0) > 0.97, name


@pytest.mark.parametrize("layer_type", ["transformer", "conformer"])
def test_activation_checkpointing_changes_no_gradient(layer_type: str) -> None:
    """Dropout falls on the same places when a block is recomputed."""
    settings = {
        "dropout": 0.3,
        "attention_dropout": 0.3,
        "encoder_layerdrop": 0.3,
        "layer_type": layer_type,
        "depthwise_conv_kernel_size": 5,
    }
    results = []
    for recompute in (False, True):
        model = small_model(encoder_layers=4, checkpoint_activations=recompute, **settings).train()
        net_input = masked_batch(model, [4000, 2900], [13, 9])
        torch.manual_seed(2)
        loss = model(**net_input)["x"].exp().mean()
        loss.backward()
        results.append((loss.detach(), gradients(model), torch.rand(3)))
    (loss, grads, after), (again, other, also_after) = results
    assert torch.equal(loss, again) and torch.equal(after, also_after)
    for name, grad in grads.items():
        assert torch.equal(grad, other[name]), name


def test_a_deep_copy_of_a_checkpointed_model_runs_its_own_weights() -> None:
    model = small_model(checkpoint_activations=True).train()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.encoder.layers.parameters():
            parameter.zero_()
    source = torch.randn(1, 4000)
    assert model(source, mask=False, features_only=True)["x"].any()
    assert not twin(source, mask=False, features_only=True)["x"].any()
    names = set(model.state_dict())
    assert names == set(small_model().state_dict())
    unwrap_checkpoint(model)
    assert not hasattr(model.encoder.layers[0], "precheckpoint_forward")
    assert model(source, mask=False, features_only=True)["x"].any()


def test_weights_of_the_gaudi_fork_load() -> None:
    model, other = small_model(), small_model(seed=1)
    state = model.state_dict()
    for name in list(state):
        if name.startswith("feature_extractor") and state[name].dim() == 3:
            state[name] = state[name].unsqueeze(2)
    other.load_state_dict(state)
    for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_upgrades_reach_nested_modules() -> None:
    """A submodule that brings its old names up to date is asked wherever it sits, with its own prefix."""

    class Inner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))

        def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
            state_dict[f"{name}.weight"] = state_dict.pop(f"{name}.old")

    class Outer(BaseFairseqModel):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList([torch.nn.Sequential(Inner())])

    model = Outer()
    model.load_state_dict({"parts.0.0.old": torch.ones(2)})
    assert torch.equal(model.parts[0][0].weight, torch.ones(2))


def test_masks_that_cannot_be_used_are_named() -> None:
    cfg, features = Wav2Vec2Config(), torch.zeros(3, 49, 8)
    for shape, message in (((3, 40), "3 x 40, but this audio has 3 x 49"), ((3, 49), "masks no frame")):
        with pytest.raises(ValueError, match=message):
            frame_mask(cfg, features, None, torch.zeros(*shape, dtype=torch.bool), None, None)
