"""What other projects read, set and call on a loaded model: padding masks, layers, masks as attributes, negatives,
predictions.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_model import masked_batch, num_frames, small_model

from fairseq.masks.settings import MASK_SETTINGS
from fairseq.models.wav2vec import Wav2Vec2Model
from tests.host_reads import HostReads

# -- padding masks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64]
)
def test_a_padding_mask_of_any_dtype_means_the_same(dtype: torch.dtype) -> None:
    model = small_model(mask_prob=0.5, mask_length=4).eval()
    net_input = masked_batch(model, [4000, 2900], [13, 9])
    source, padding = net_input["source"], net_input["padding_mask"]
    expected, got = (model.extract_features(source, mask) for mask in (padding, padding.to(dtype)))
    assert torch.equal(got["x"], expected["x"]) and torch.equal(got["padding_mask"], expected["padding_mask"])
    assert expected["padding_mask"].sum(1).tolist() == [0, num_frames(4000, model) - num_frames(2900, model)]
    assert torch.equal(model.latents(source, padding.to(dtype)), model.latents(source, padding))
    pretraining, alike = (model(**{**net_input, "padding_mask": mask})["x"] for mask in (padding, padding.to(dtype)))
    assert torch.equal(alike, pretraining)
    _, hidden = model.apply_mask(torch.zeros(2, 49, 24), (torch.arange(49) >= torch.tensor([[49], [20]])).to(dtype))
    assert hidden.any(1).all() and not hidden[1, 20:].any()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_a_padding_mask_that_marks_nothing_comes_back_as_none(dtype: torch.dtype) -> None:
    model = small_model().eval()
    source = torch.randn(2, 4000)
    nothing = torch.zeros(2, 4000, dtype=dtype)
    expected = model.extract_features(source, None)
    for output in (model.extract_features(source, nothing), model(source, nothing, mask=False, features_only=True)):
        assert output["padding_mask"] is None and torch.equal(output["x"], expected["x"])


def test_in_training_and_in_the_trainer_nobody_looks_for_padding() -> None:
    model = small_model().eval()
    source, nothing = torch.randn(2, 4000), torch.zeros(2, 4000, dtype=torch.bool)
    with HostReads() as reads:
        model.extract_features(source, nothing)
    assert reads.found, "it looks, so that it may return None"
    with HostReads() as reads:
        assert model.train().extract_features(source, nothing)["padding_mask"] is not None
        model.looks_for_padding = False  # as the trainer sets it
        assert model.eval().extract_features(source, nothing)["padding_mask"] is not None
    assert not reads.found


# -- layers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("conformer", [False, True])
def test_a_negative_layer_runs_all_blocks(norm_first: bool, conformer: bool) -> None:
    changes: dict[str, Any] = (
        {"layer_type": "conformer", "attn_type": "espnet", "pos_enc_type": "rel_pos"} if conformer else {}
    )
    model = small_model(encoder_layers=3, layer_norm_first=norm_first, depthwise_conv_kernel_size=5, **changes).eval()
    source = torch.randn(2, 4000)
    last = model.extract_features(source, None, layer=2)
    for layer in (-1, -2, 3, 24):
        output = model.extract_features(source, None, layer=layer)
        assert len(output["layer_results"]) == 3 and torch.equal(output["x"], last["x"])
    assert torch.equal(model.extract_features(source, None)["x"], last["x"]) != norm_first, (
        "the final norm, with layer None only"
    )


# -- masks -------------------------------------------------------------------------------------------------------------


def share_masked(model: Wav2Vec2Model, frames: int = 400) -> float:
    _, hidden = model.apply_mask(torch.zeros(8, frames, 24), None)
    return hidden.float().mean().item()


def test_settings_of_masks_are_attributes_that_count() -> None:
    model = small_model(mask_prob=0.65, mask_channel_prob=0.2, mask_selection="static").train()
    assert all(getattr(model, name) == getattr(model.cfg, name) for name in MASK_SETTINGS)
    many = share_masked(model)
    model.mask_prob = 0.1
    assert share_masked(model) < 0.15 < 0.3 < many
    counts = model(torch.randn(2, 4000))["masked_weights"].sum(1)
    assert 0 < counts.max() <= 20  # 49 frames: two spans of ten are the fewest
    model.mask_length = 3
    assert model(torch.randn(2, 4000))["masked_weights"].sum(1).max() <= 6
    model.mask_selection, model.mask_other, model.no_mask_overlap, model.mask_min_space = "uniform", 2, True, 5
    assert 0 < share_masked(model) < 0.3
    model.mask_dropout = 1.0
    assert share_masked(model) == 0
    model.mask_prob = 0.0
    assert model.apply_mask(torch.zeros(2, 49, 24), None, torch.ones(2, 49, dtype=torch.bool))[1] is None
    model.mask_length, model.mask_prob = 0, 0.5
    with pytest.raises(ValueError, match="mask_length is 0"):
        share_masked(model)


def test_channels_are_masked_as_the_attributes_say() -> None:
    model = small_model(mask_prob=0.0).eval()
    x = torch.ones(4, 49, 24)
    assert model.apply_mask(x, None)[0] is x
    model.mask_channel_prob, model.mask_channel_length = 0.5, 4
    masked, hidden = model.apply_mask(x, None)
    assert hidden is None and (masked == masked[:, :1]).all() and 0 < (masked == 0).float().mean() < 0.7
    model.mask_prob, given = 0.5, torch.zeros(4, 49, 24, dtype=torch.bool)
    given[..., 3:7] = True
    for before in (False, True):
        model.mask_channel_before = before
        masked, hidden = model.apply_mask(x, None, mask_channel_indices=given)
        assert not masked[~hidden][:, 3:7].any() and bool(masked[hidden][:, 3:7].any()) == before
        assert torch.equal(masked[hidden][:, 7:], model.mask_emb[7:].expand(int(hidden.sum()), -1))


def test_a_given_mask_is_used_and_returned() -> None:
    model = small_model(mask_prob=0.5).eval()
    x, given = torch.zeros(2, 49, 24), torch.rand(2, 49) < 0.3
    masked, hidden = model.apply_mask(x, None, mask_indices=given)
    assert torch.equal(hidden, given) and torch.equal(masked[given], model.mask_emb.expand(int(given.sum()), -1))
    assert not masked[~given].any() and not x.any(), "the input stays as it was"


def test_an_overridden_apply_mask_is_called() -> None:
    class Mine(Wav2Vec2Model):
        def apply_mask(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
            return x * 0, None

    model = Mine(small_model().cfg).eval()
    a, b = (model(torch.randn(1, 4000), features_only=True)["x"] for _ in range(2))
    assert torch.equal(a, b)


# -- negatives and predictions: numbers of fairseq-fixed 0.12.3.1 after torch.manual_seed(5), with these very inputs ---

Y, X = torch.arange(30.0).view(2, 5, 3).sin(), torch.arange(18.0).view(2, 3, 3).cos()
INDICES = {
    (3, 0): [[4, 3, 4, 2, 3, 3, 0, 1, 0], [6, 9, 8, 9, 5, 8, 5, 9, 5]],
    (0, 2): [[9, 4, 8, 4, 9, 8], [2, 3, 7, 2, 1, 4]],
    (2, 1): [[4, 3, 4, 2, 3, 3, 9, 9, 0], [6, 7, 5, 5, 9, 8, 7, 7, 7]],
}
INF = float("inf")
LOGITS = [
    [[0.50845385, 0.55309027, 0.55378652], [-2.39789367, -2.51005507, 0.30859500]],
    [[-2.27633095, 0.85896057, 3.29638457], [3.81128049, 1.04659617, -INF]],
    [[0.88192236, -1.93287361, -1.95479441], [-INF, 1.04659617, 1.17729115]],
    [[-2.27633095, -1.93287361, 3.29638457], [3.81128049, 1.04659617, -INF]],
]


@pytest.mark.parametrize("kinds", INDICES)
def test_sample_negatives_gives_fairseqs(kinds: tuple[int, int]) -> None:
    model = small_model()
    model.n_negatives, model.cross_sample_negatives = kinds
    torch.manual_seed(5)
    negatives, indices = model.sample_negatives(Y, 3)
    assert indices.tolist() == INDICES[kinds] and negatives.shape == (sum(kinds), 2, 3, 3)
    assert torch.equal(negatives.permute(1, 2, 0, 3).flatten(1, 2), Y.flatten(0, 1)[indices])


def test_sample_negatives_at_its_ends() -> None:
    model = small_model()
    model.n_negatives = 40
    _, indices = model.sample_negatives(Y, 2, padding_count=2)
    assert indices[0].max() == 2 and indices[1].min() == 5 and indices[1].max() == 7  # each row's own three candidates
    assert not (indices.view(2, 2, 40) == torch.tensor([[0, 1], [5, 6]]).unsqueeze(-1)).any(), (
        "a frame's own is none of its negatives"
    )
    with pytest.raises(ValueError, match="2 rows of 5, 4 of them padding"):
        model.sample_negatives(Y, 2, padding_count=4)
    model.n_negatives = 0
    assert [part.numel() for part in model.sample_negatives(Y, 2)] == [0, 0]


def test_compute_preds_gives_fairseqs() -> None:
    model = small_model()
    model.n_negatives = 3
    y = Y[:, :3].clone()
    y[1, 2] = y[1, 0]  # a negative may be equal to the positive
    torch.manual_seed(5)
    negatives, _ = model.sample_negatives(y, 3)
    torch.testing.assert_close(model.compute_preds(X, y, negatives), torch.tensor(LOGITS))
    model.logit_temp = 0.2
    torch.testing.assert_close(model.compute_preds(X, y, negatives), torch.tensor(LOGITS) / 2)
    assert model.compute_preds(X.bfloat16(), y, negatives).dtype == torch.bfloat16
