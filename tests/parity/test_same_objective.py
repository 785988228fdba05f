"""The objective is the same on every device.

Batches of the recipe for Gaudi (buckets, padding, filler, positions and weights, HPU arms) against the plain form
(valid rows, padded to the longest at most, only a boolean mask, stock arms).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fairseq_cli.train
from fairseq import device as device_layer
from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion
from fairseq.frames import frames_for_samples
from fairseq.masks.forward import frame_mask
from fairseq.masks.positions import draw_negatives
from fairseq.models.wav2vec import Wav2Vec2Model
from fairseq.trainer import Trainer
from tests.integration.hpu_recipe import recipe, write_corpus

NEGATIVES = 10
NO_DROPOUT = dict.fromkeys(
    ["dropout", "attention_dropout", "activation_dropout", "dropout_input", "dropout_features"], 0.0
)
LARGE = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("objective"), num_train=33, num_valid=3)


@pytest.fixture(autouse=True)
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fix the Gumbel noise, which would be drawn in different shapes."""
    monkeypatch.setattr(Tensor, "exponential_", lambda x: x.fill_(0.7))


def trainer_of(data: Path, folder: Path, **model: Any) -> Trainer:
    groups = {"common": {"device": "cpu"}, "optimization": {"max_update": 9}, "dataset": {"batch_size": 4}}
    cfg = recipe(data, folder, model={**NO_DROPOUT, **model}, **groups)
    return fairseq_cli.train.prepare(cfg).trainer


def batches_of(trainer: Trainer) -> list[dict[str, Tensor]]:
    """Return an epoch's batches in the recipe's form, with negatives for both forms."""
    found = []
    for samples in trainer.get_train_iterator(1).next_epoch_itr():
        for sample in samples:
            net_input = sample["net_input"]
            counts, M = net_input["mask_indices"].sum(1).tolist(), net_input["masked_positions"].size(1)
            drawn = [
                draw_negatives(count, M, NEGATIVES, np.random.default_rng(row)) for row, count in enumerate(counts)
            ]
            found.append(
                {**net_input, "negative_indices": torch.from_numpy(np.stack(drawn)), "num_valid": sample["num_valid"]}
            )
    return found


def plain(batch: dict[str, Tensor], model: Wav2Vec2Model, keep_length: bool) -> dict[str, Tensor]:
    """Return the same audio, masks and negatives in the form that fairseq's callers pass."""
    rows = slice(0, int(batch["num_valid"]))
    padding, mask = batch["padding_mask"][rows], batch["mask_indices"][rows]
    longest = padding.size(1) if keep_length else int((~padding).sum(1).max())
    frames = frames_for_samples(longest, model.conv_layers)
    return {
        "source": batch["source"][rows, :longest],
        "padding_mask": padding[:, :longest],
        "mask_indices": mask[:, :frames],
        "negative_indices": batch["negative_indices"][rows, : int(mask.sum(1).max())],
    }


def loss_and_gradients(
    model: Wav2Vec2Model, net_input: dict[str, Tensor], hpu_arms: bool
) -> tuple[float, float, dict[str, Tensor]]:
    model.zero_grad()
    model.train()
    criterion = Wav2vecCriterion(
        infonce=True, loss_weights=[0.1, 10.0], log_keys=["prob_perplexity", "code_perplexity"]
    )
    with device_layer.forced(hpu_arms=hpu_arms):
        loss, sample_size, _ = criterion(model, {"net_input": {k: v for k, v in net_input.items() if k != "num_valid"}})
        loss.backward()
    return (
        loss.item(),
        sample_size.item(),
        {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None},
    )


@pytest.mark.parametrize("model", [{}, LARGE], ids=["base", "large"])
def test_loss_and_gradients_are_those_of_the_plain_way(small: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    """Base keeps the bucket's length, as its first norm includes padding in its mean, like upstream's.

    Large needs no padding at all.
    """
    trainer = trainer_of(small, tmp_path, **model)
    worst = [0.0, 0.0]
    with_padding = with_filler = unequal = 0
    for batch in batches_of(trainer):
        with_padding += bool(batch["padding_mask"].any())
        with_filler += int(batch["num_valid"]) < batch["source"].size(0)
        unequal += len(set(batch["mask_indices"].sum(1).tolist())) > 1
        ours = loss_and_gradients(trainer.unwrapped_model, batch, hpu_arms=True)
        theirs = loss_and_gradients(
            trainer.unwrapped_model, plain(batch, trainer.unwrapped_model, keep_length=not model), hpu_arms=False
        )
        assert ours[1] == theirs[1] > 0
        worst[0] = max(worst[0], abs(ours[0] / theirs[0] - 1))
        for name, grad in ours[2].items():
            if not name.endswith(("k_proj.bias", "conv_layers.0.0.bias")):  # zero except for rounding
                worst[1] = max(
                    worst[1], ((grad - theirs[2][name]).norm() / theirs[2][name].norm().clamp(min=1e-3)).item()
                )
    print(
        f"\n{with_padding} batches with padding, {with_filler} with filler, {unequal} with unequal counts of masked "
        f"frames: losses differ by {worst[0]:.1e}, gradients by {worst[1]:.1e}"
    )
    assert with_padding > 3 and with_filler > 0 and unequal > 3
    assert worst[0] < 1e-5 and worst[1] < 1e-5


# -- negatives ---------------------------------------------------------------------------------------------------------

BATCHES, B, T, M = 10_000, 4, 50, 24


class FramesAsTargets(torch.nn.Module):
    """A quantizer whose codewords are the frames themselves; a frame's code is its number."""

    def forward(self, y: Tensor, produce_targets: bool, weights: Tensor | None = None) -> dict[str, Tensor]:
        return {"x": y, "targets": frame_of(torch.atan2(y[..., 1], y[..., 0]))}

    def to_codebook_index(self, codes: Tensor) -> Tensor:
        return codes


def angle_of(frame: Tensor) -> Tensor:
    """A frame's number as an angle between 0.5 and 1.5, so that a similarity identifies the frame."""
    return 0.5 + frame.double() / (BATCHES * B * T)


def frame_of(angle: Tensor) -> Tensor:
    return ((angle - 0.5) * (BATCHES * B * T)).round().long()


def draw_masks(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw valid lengths, positions and weights: 0 to M masked frames per row, all inside its length.

    Rows with fewer than two masked frames have weights of 0.
    """
    lengths = torch.randint(M, T + 1, (rows,))
    counts = torch.randint(0, M + 1, (rows,))
    order = torch.rand(rows, T).masked_fill(torch.arange(T) >= lengths.unsqueeze(1), 2).argsort(1)[:, :M]
    counted = torch.arange(M) < counts.unsqueeze(1)
    positions = order.masked_fill(~counted, T).sort(1).values.masked_fill(~counted, 0)
    return lengths, positions, (counted & (counts >= 2).unsqueeze(1)).float()


@pytest.mark.parametrize("hpu_arms", [False, True], ids=["stock", "hpu"])
@pytest.mark.slow
def test_no_negative_is_of_another_utterance_filler_or_unmasked(hpu_arms: bool) -> None:
    """10,000 batches of four rows; a negative's frame is read from its logit, which is what the loss gets.

    A negative may be excluded only if it is impossible, and no drawn one is.
    """
    torch.manual_seed(0)
    settings = {
        "final_dim": 2,
        "num_negatives": 10,
        "logit_temp": 1.0,
        "encoder_layers": 1,
        "conv_feature_layers": "[(2,10,5)]",
    }
    model = Wav2Vec2Model(settings)
    model.quantizer, model.project_q = FramesAsTargets(), torch.nn.Identity()
    rows_at_once, checked, wrong = 4000, 0, torch.zeros(4, dtype=torch.long)
    for start in range(0, BATCHES * B, rows_at_once):
        number = (start + torch.arange(rows_at_once)).unsqueeze(1) * T + torch.arange(T)  # of every frame of every row
        frames = torch.stack([torch.cos(angle_of(number)), torch.sin(angle_of(number))], dim=-1)
        lengths, positions, weights = draw_masks(rows_at_once)
        mask = torch.zeros(rows_at_once, T).scatter_add_(1, positions, weights) > 0
        east = torch.tensor([1.0, 0.0], dtype=torch.double).expand(rows_at_once, M, 2)
        with device_layer.forced(hpu_arms=hpu_arms):
            masked = frame_mask(model.cfg, frames, torch.arange(T) >= lengths.unsqueeze(1), mask, positions, weights)
            candidates, _ = model._targets(frames, masked, None)
            logits = model._contrast(east, candidates, masked, None)
        chosen = frame_of(torch.acos(logits.clamp(-1, 1)))  # B x M x (1 + N)
        counts = (weights > 0).unsqueeze(-1).expand(-1, -1, model.n_negatives)
        row, frame = chosen[..., 1:] // T - start, chosen[..., 1:] % T
        own_row = torch.arange(rows_at_once).view(-1, 1, 1)
        assert torch.equal(chosen[..., 0][weights > 0], number.gather(1, positions)[weights > 0])
        wrong += torch.stack(
            [
                ((logits[..., 1:] < -1) & counts).sum(),  # excluded
                ((row != own_row) & counts).sum(),
                (~mask.unsqueeze(1).expand(-1, M, -1).gather(2, frame) & counts).sum(),
                ((chosen[..., 1:] == chosen[..., :1]) & counts).sum(),  # the positive itself
            ]
        )
        checked += int(counts.sum())
    print(
        f"\n{checked:,} negatives of {BATCHES:,} batches; excluded, of another row, not masked, the positive: "
        f"{wrong.tolist()}"
    )
    assert checked > 4_000_000
    assert wrong.tolist() == [0, 0, 0, 0]
