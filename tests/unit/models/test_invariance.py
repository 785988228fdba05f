"""Padding and rows of weight 0 change nothing: a padded batch against its rows one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_model import gradients, largest_difference, masked_batch, num_frames, one_row, small_model
from torch import Tensor

from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion
from fairseq.models.wav2vec import Wav2Vec2Model

LENGTHS = [4000, 2900, 4000, 1700, 3333]
COUNTS = [13, 9, 0, 6, 1]  # the third row is filler, the last one has too few masked frames
COUNTING = [0, 1, 3]


@pytest.fixture(params=[False, True], ids=["post-norm", "pre-norm"])
def model(request: pytest.FixtureRequest) -> Wav2Vec2Model:
    return small_model(extractor_mode="layer_norm", layer_norm_first=request.param, conv_bias=True).eval().double()


@pytest.fixture
def batch(model: Wav2Vec2Model) -> dict[str, Tensor]:
    net_input = masked_batch(model, LENGTHS, COUNTS)
    return {name: value.double() if name == "source" else value for name, value in net_input.items()}


def run(
    model: Wav2Vec2Model, net_input: dict[str, Tensor], **settings: Any
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Loss, log and gradients."""
    model.zero_grad()
    criterion = Wav2vecCriterion(
        infonce=True, log_keys=["prob_perplexity", "code_perplexity", "features_pen"], **settings
    )
    loss, _, log = criterion(model, {"net_input": net_input})
    loss.backward()
    return loss.detach(), log, gradients(model)


def test_features_equal_those_of_each_row_alone(model: Wav2Vec2Model, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        together = model(batch["source"], batch["padding_mask"], mask=False, features_only=True)
        for row, length in enumerate(LENGTHS):
            alone = model(batch["source"][row : row + 1, :length], mask=False, features_only=True)["x"]
            assert largest_difference(together["x"][row, : alone.size(1)], alone[0]) < 1e-10
            assert together["padding_mask"][row].tolist() == [t >= alone.size(1) for t in range(together["x"].size(1))]


def test_infonce_gradient_and_accuracy_equal_the_sum_over_rows(model: Wav2Vec2Model, batch: dict[str, Tensor]) -> None:
    loss, log, grads = run(model, batch)
    rows = [run(model, one_row(batch, row, LENGTHS[row])) for row in COUNTING]
    assert loss.item() == pytest.approx(sum(row_loss.item() for row_loss, _, _ in rows), rel=1e-6)  # the loss is fp32
    for key in ("sample_size", "correct", "count", "nsentences"):
        assert log[key].item() == sum(row_log[key].item() for _, row_log, _ in rows), key
    assert log["nsentences"].item() == len(COUNTING)
    for name, grad in grads.items():
        expected = sum(row_grads[name] for _, _, row_grads in rows)
        assert largest_difference(grad, expected) < 1e-5, name


def test_diversity_perplexities_and_penalty_are_those_of_the_union(
    model: Wav2Vec2Model, batch: dict[str, Tensor]
) -> None:
    _, log, _ = run(model, batch, loss_weights=[0.1, 10.0])
    raw = [model.feature_extractor(batch["source"][row : row + 1, : LENGTHS[row]]) for row in COUNTING]
    frames = torch.cat([features[0].t() for features in raw])
    assert log["features_pen"].item() == pytest.approx(frames.square().mean().item(), rel=1e-6)
    masked = [
        model.layer_norm(features.transpose(1, 2))[0, batch["mask_indices"][row, : features.size(2)]]
        for row, features in zip(COUNTING, raw, strict=True)
    ]
    union = model.quantizer.float()(torch.cat(masked).float().unsqueeze(0))
    assert log["prob_perplexity"].item() == pytest.approx(union["prob_perplexity"].item(), rel=1e-5)
    assert log["code_perplexity"].item() == pytest.approx(union["code_perplexity"].item(), rel=1e-5)


def test_rows_of_weight_0_may_hold_anything(model: Wav2Vec2Model, batch: dict[str, Tensor]) -> None:
    _, log, grads = run(model, batch, loss_weights=[0.1, 10.0])
    other = dict(batch, source=batch["source"].clone(), mask_indices=batch["mask_indices"].clone())
    other["source"][2] = torch.randn(max(LENGTHS))
    other["mask_indices"][2, 3:9] = True
    _, other_log, other_grads = run(model, other, loss_weights=[0.1, 10.0])
    for key in log:
        torch.testing.assert_close(other_log[key], log[key], rtol=1e-6, atol=0, msg=key)
    for name, grad in grads.items():
        assert largest_difference(other_grads[name], grad) < 1e-6, name


def test_a_batch_of_filler_has_loss_and_gradient_0(model: Wav2Vec2Model) -> None:
    net_input = masked_batch(model, [3000, 2000], [6, 6])
    net_input["masked_weights"].zero_()
    net_input["source"] = net_input["source"].double()
    model.train()
    loss, log, grads = run(model, net_input, loss_weights=[0.1, 10.0])
    assert loss.item() == 0
    assert all(torch.isfinite(value).all() for value in log.values())
    assert log["nonempty"].item() == log["sample_size"].item() == log["nsentences"].item() == 0
    assert all(not grad.any() for grad in grads.values())


def test_a_row_shorter_than_the_receptive_field_harms_no_other(model: Wav2Vec2Model) -> None:
    net_input = masked_batch(model, [3000, 40], [6, 0])
    assert num_frames(40, model) == 0
    net_input["source"] = net_input["source"].double()
    loss, _, grads = run(model, net_input, loss_weights=[0.1, 10.0])
    assert torch.isfinite(loss) and all(torch.isfinite(grad).all() for grad in grads.values())
    alone, _, _ = run(model, one_row(net_input, 0, 3000), loss_weights=[0.1, 10.0])
    assert loss.item() == pytest.approx(alone.item(), rel=1e-6)


def test_everywhere_negatives_are_drawn_from_valid_frames(model: Wav2Vec2Model, batch: dict[str, Tensor]) -> None:
    """With negatives from all frames, what lies in the padding changes nothing."""
    model.cfg.negatives_from_everywhere = True
    net_input = {name: value for name, value in batch.items() if name != "negative_indices"}
    torch.manual_seed(5)
    loss, log, _ = run(model, net_input, loss_weights=[0.1, 10.0])
    noisy = dict(
        net_input, source=torch.where(batch["padding_mask"], torch.randn_like(batch["source"]), batch["source"])
    )
    torch.manual_seed(5)
    noisy_loss, noisy_log, _ = run(model, noisy, loss_weights=[0.1, 10.0])
    assert noisy_loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert noisy_log["prob_perplexity"].item() == pytest.approx(log["prob_perplexity"].item(), rel=1e-6)
