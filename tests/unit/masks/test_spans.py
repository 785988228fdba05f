"""Masks: bounds, distribution, and the positions and weights that the model takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairseq.data.data_utils import compute_mask_indices, numpy_seed
from fairseq.masks.positions import draw_negatives, positions_and_weights
from fairseq.masks.settings import MaskConfig, PretrainingMasks
from fairseq.masks.spans import common_count, draw_mask, max_masked_frames

BASE = MaskConfig(prob=0.65, length=10, selection="static", other=0, no_overlap=False, min_space=1, min_masks=2)
KINDS = {
    "static": BASE,
    "static apart": BASE._replace(no_overlap=True),
    "uniform": BASE._replace(selection="uniform", other=2),
    "uniform apart": BASE._replace(selection="uniform", other=0, no_overlap=True, min_space=3),
    "normal": BASE._replace(selection="normal", other=4),
    "poisson": BASE._replace(selection="poisson"),
    "poisson of short spans": BASE._replace(selection="poisson", length=1, prob=0.1),
    "dropout": BASE._replace(dropout=0.3),
    "all of it": BASE._replace(prob=3.0),
    "static cut": BASE._replace(same_count=True),
    "poisson cut, dropout": BASE._replace(selection="poisson", same_count=True, dropout=0.2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 3, 9, 10, 11, 12, 25, 60, 200])
def test_counts_stay_within_what_the_settings_can_draw(kind: str, size: int) -> None:
    rng = np.random.default_rng(size)
    most = max_masked_frames(size, KINDS[kind])
    assert most <= size
    counts = [int(draw_mask(size, KINDS[kind], rng).sum()) for _ in range(200)]
    assert max(counts) <= most
    # fairseq: on one or two frames spans may begin past the end, and spans that must not overlap may find no room
    if KINDS[kind].dropout == 0 and not KINDS[kind].no_overlap and size > 2:
        assert min(counts) >= 1


@pytest.mark.parametrize("size", [11, 12, 13, 23, 30])
def test_bound_of_static_spans_is_reached(size: int) -> None:
    rng = np.random.default_rng(0)
    counts = [int(draw_mask(size, BASE, rng).sum()) for _ in range(5000)]
    assert max(counts) == max_masked_frames(size, BASE)


def test_bound_depends_on_size_alone_and_never_falls() -> None:
    for cfg in KINDS.values():
        bounds = [max_masked_frames(size, cfg) for size in range(300)]
        assert bounds[0] == 0
        assert all(a <= b for a, b in zip(bounds, bounds[1:], strict=False))


# mean and standard deviation of the masked frames, of 4000 rows each of fairseq-fixed 0.12.3.1's
# compute_mask_indices_v3 (which draws as
# 0.12.2 does), one row at a time, require_same_masks=False, numpy's missing names restored
FAIRSEQ = {
    "static 781": (BASE, 781, 383.01, 17.86),
    "static 30": (BASE, 30, 16.05, 3.26),
    "uniform 200": (KINDS["uniform"], 200, 103.60, 14.56),
    "normal 200": (BASE._replace(selection="normal", other=3), 200, 97.90, 10.88),
    "poisson 200": (KINDS["poisson"], 200, 97.97, 11.15),
    "apart 200": (KINDS["static apart"], 200, 129.28, 2.68),
    "channels 768": (MaskConfig(0.1, 64, "static", 0, False, 0, 0), 768, 75.32, 23.97),
}


@pytest.mark.parametrize("case", FAIRSEQ)
def test_counts_are_distributed_as_fairseqs(case: str) -> None:
    cfg, size, mean, deviation = FAIRSEQ[case]
    rng = np.random.default_rng(1)
    counts = np.array([draw_mask(size, cfg, rng).sum() for _ in range(3000)])
    assert abs(counts.mean() - mean) < 4 * deviation * (1 / 3000 + 1 / 4000) ** 0.5
    assert counts.std() == pytest.approx(deviation, rel=0.1)


def test_spans_are_whole() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        mask = draw_mask(200, BASE, rng)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
        assert ((edges[1::2] - edges[::2]) >= 10).all()


def test_spans_apart_do_not_touch_more_than_the_space_allows() -> None:
    cfg = BASE._replace(no_overlap=True, min_space=3, prob=0.4)
    rng = np.random.default_rng(3)
    for _ in range(50):
        mask = draw_mask(300, cfg, rng)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
        assert ((edges[1::2] - edges[::2]) == 10).all()
        assert ((edges[2::2] - edges[1:-1:2]) >= 2).all()  # fairseq: one less than min_space before a span


# mean of the count that 2000 batches of eight rows of fairseq-fixed 0.12.3.1's compute_mask_indices_v3 have with
# require_same_masks=True
FAIRSEQ_CUT = {
    "static 49": (BASE, 49, 18.56),
    "static 499": (BASE, 499, 223.65),
    "poisson 200": (KINDS["poisson"], 200, 82.70),
}


@pytest.mark.parametrize("case", FAIRSEQ_CUT)
def test_cut_rows_have_the_count_of_fairseqs_batches(case: str) -> None:
    cfg, size, count = FAIRSEQ_CUT[case]
    cut = cfg._replace(same_count=True)
    assert common_count(size, cut) == pytest.approx(count, rel=0.03, abs=2)
    rng = np.random.default_rng(6)
    counts = np.array([draw_mask(size, cut, rng).sum() for _ in range(400)])
    assert counts.max() == common_count(size, cut) == max_masked_frames(size, cut)
    assert (counts == counts.max()).mean() > 0.85  # a few rows draw fewer


def test_cut_rows_are_the_drawn_ones_with_single_frames_unmasked() -> None:
    whole = draw_mask(500, BASE, np.random.default_rng(4))
    cut = draw_mask(500, BASE._replace(same_count=True), np.random.default_rng(4))
    assert not (cut & ~whole).any()
    assert 0 < whole.sum() - cut.sum() == whole.sum() - common_count(500, BASE)


def test_dropout_unmasks_its_share() -> None:
    full = draw_mask(500, BASE, np.random.default_rng(4))
    holed = draw_mask(500, BASE._replace(dropout=0.25), np.random.default_rng(4))
    assert not (holed & ~full).any()
    assert full.sum() - holed.sum() == round(0.25 * full.sum())


def test_positions_and_weights() -> None:
    mask = np.zeros((3, 8), dtype=bool)
    mask[0, [1, 2, 7]] = True
    mask[1, [4]] = True
    positions, weights = positions_and_weights(mask, 5)
    assert positions.tolist() == [[1, 2, 7, 0, 0], [4, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert weights.tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]  # one masked frame has no negative
    assert (positions.dtype, weights.dtype) == (np.int64, np.float32)


def test_negatives_are_the_other_masked_frames() -> None:
    negatives = draw_negatives(4, 6, 200, np.random.default_rng(5))
    assert negatives.shape == (6, 200)
    for frame in range(4):
        assert set(negatives[frame].tolist()) == {0, 1, 2, 3} - {frame}
    assert (negatives[4:] == 0).all()
    assert (draw_negatives(1, 6, 3, np.random.default_rng(5)) == 0).all()


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"selection": "stattic"}, "mask_selection"),
        ({"prob": -0.1}, "mask_prob"),
        ({"length": 0}, "mask_length"),
        ({"selection": "uniform", "other": 30}, "mask_other"),
        ({"dropout": 2.0}, "mask_dropout"),
    ],
)
def test_settings_that_nothing_can_be_drawn_from(changes: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BASE._replace(**changes).check("mask")


def test_settings_without_a_mask_are_refused_for_pretraining() -> None:
    from types import SimpleNamespace

    with pytest.raises(ValueError, match="mask_prob"):
        PretrainingMasks.from_config(SimpleNamespace(mask_prob=0.0))


# -- fairseq's public function -----------------------------------------------------------------------------------------


def test_compute_mask_indices_gives_all_rows_the_same_count_if_asked_to() -> None:
    mask = compute_mask_indices((8, 200), None, 0.65, 10, min_masks=2, rng=np.random.default_rng(0))
    assert mask.shape == (8, 200)
    assert len(set(mask.sum(axis=1).tolist())) == 1
    loose = compute_mask_indices(
        (8, 200), None, 0.65, 10, min_masks=2, require_same_masks=False, rng=np.random.default_rng(0)
    )
    assert len(set(loose.sum(axis=1).tolist())) > 1
    holed = compute_mask_indices((8, 200), None, 0.65, 10, min_masks=2, mask_dropout=0.5, rng=np.random.default_rng(0))
    assert set(holed.sum(axis=1).tolist()) == {mask[0].sum() - round(mask[0].sum() * 0.5)}


def test_compute_mask_indices_leaves_padding_alone() -> None:
    padding = torch.arange(100) >= torch.tensor([100, 40, 7])[:, None]
    mask = compute_mask_indices(
        (3, 100), padding, 0.65, 10, min_masks=2, require_same_masks=False, rng=np.random.default_rng(0)
    )
    assert not mask[padding.numpy()].any()
    assert (mask.sum(axis=1) > 0).all()


def test_compute_mask_indices_follows_numpys_seed_or_its_own() -> None:
    def draw(**key: object) -> np.ndarray:
        return compute_mask_indices((2, 100), None, 0.5, 5, **key)

    with numpy_seed(3):
        first = draw()
    with numpy_seed(3):
        assert (draw() == first).all()
    with numpy_seed(4):
        assert (draw() != first).any()
    keyed = draw(seed=1, epoch=2, indices=torch.tensor([5, 6]), require_same_masks=False)
    swapped = draw(seed=1, epoch=2, indices=torch.tensor([6, 5]), require_same_masks=False)
    assert (keyed[0] == swapped[1]).all() and (keyed[1] == swapped[0]).all()
