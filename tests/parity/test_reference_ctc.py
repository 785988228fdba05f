"""Fine-tuned model and criterion against fairseq-fixed 0.12.3.1 (seed 7, fp32, eval mode): see `reference_data`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from fairseq.criterions.ctc import CtcCriterion, CtcCriterionConfig
from fairseq.data.dictionary import Dictionary
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from tests.parity import reference_data
from tests.parity.test_reference_models import GRADIENTS, VALUES, assert_close


class CtcReference(NamedTuple):
    model: Wav2VecCtc
    task: Any
    arrays: dict[str, Any]


@pytest.fixture
def ctc() -> CtcReference:
    _, weights, arrays = stored = reference_data.load("ctc")
    dictionary = Dictionary()
    for symbol in arrays["dictionary"].tolist():
        if symbol not in dictionary:
            dictionary.add_symbol(symbol)
    assert dictionary.symbols == arrays["dictionary"].tolist()
    task = SimpleNamespace(target_dictionary=dictionary)
    model = Wav2VecCtc.build_model(OmegaConf.create(stored.model_config), task).eval()
    model.load_state_dict(weights, strict=True)
    assert list(model.state_dict()) == list(weights)
    return CtcReference(model, task, arrays)


def assert_gradients(ctc: CtcReference) -> None:
    """Compare every gradient; that of a key's bias is rounding noise, compared at the scale of its weight's."""
    for name, parameter in ctc.model.named_parameters():
        expected = ctc.arrays.get(f"grad/{name}")
        if expected is None:
            assert parameter.grad is None, f"{name} has a gradient, the reference has none"
            continue
        at_least = (
            ctc.arrays[f"grad/{name.replace('bias', 'weight')}"].abs().max().item()
            if name.endswith("k_proj.bias")
            else 0.0
        )
        assert_close(parameter.grad, expected, GRADIENTS, name, at_least)


def test_log_probabilities_loss_and_gradients(ctc: CtcReference) -> None:
    model, _, arrays = ctc
    net_output = model(source=arrays["source"], padding_mask=arrays["padding_mask"])
    log_probs = model.get_normalized_probs(net_output, log_probs=True)
    assert_close(log_probs, arrays["log_probs"], VALUES, "log_probs")
    assert torch.equal(net_output["padding_mask"], arrays["out_padding_mask"])
    assert torch.equal(model.get_logits(net_output, normalize=True), log_probs)
    loss = F.ctc_loss(
        log_probs,
        arrays["targets"],
        arrays["input_lengths"],
        arrays["target_lengths"],
        reduction="sum",
        zero_infinity=True,
    )
    assert loss.item() == pytest.approx(arrays["loss"].item(), rel=VALUES)
    loss.backward()
    assert_gradients(ctc)


def padded_targets(ctc: CtcReference, width: int) -> Tensor:
    lengths = ctc.arrays["target_lengths"].tolist()
    target = torch.full((len(lengths), width), ctc.task.target_dictionary.pad())
    for row, label in zip(target, ctc.arrays["targets"].split(lengths), strict=True):
        row[: len(label)] = label
    return target


@pytest.mark.parametrize("sentence_avg", [False, True])
@pytest.mark.parametrize("worker", [True, False], ids=["lengths from the worker", "lengths from masks"])
def test_through_the_criterion(ctc: CtcReference, worker: bool, sentence_avg: bool) -> None:
    """With lengths from the data-loading worker, and in fairseq's form with padded targets only."""
    arrays = ctc.arrays
    criterion = CtcCriterion(CtcCriterionConfig(zero_infinity=True, sentence_avg=sentence_avg), ctc.task)
    sample: dict[str, Any] = {
        "id": torch.arange(2),
        "net_input": {"source": arrays["source"], "padding_mask": arrays["padding_mask"]},
        "target": padded_targets(ctc, 7),
    }
    if worker:
        sample |= {name: arrays[name] for name in ("input_lengths", "target_lengths")} | {
            "target_weights": torch.ones(2)
        }
    loss, sample_size, log = criterion(ctc.model, sample)
    assert loss.item() == pytest.approx(arrays["loss"].item(), rel=VALUES)
    assert sample_size.item() == (2 if sentence_avg else arrays["target_lengths"].sum())
    assert log["frames"] == arrays["input_lengths"].sum()
    loss.backward()
    assert_gradients(ctc)


def test_filler_rows_change_nothing(ctc: CtcReference) -> None:
    """Both rows and a filler copy of the first: loss, gradients and all logged values stay the same."""
    arrays = ctc.arrays
    criterion = CtcCriterion(CtcCriterionConfig(zero_infinity=True, sentence_avg=True), ctc.task)

    def run(rows: list[int], weights: list[float]) -> dict[str, Tensor]:
        ctc.model.zero_grad()
        net_input = {"source": arrays["source"][rows], "padding_mask": arrays["padding_mask"][rows]}
        lengths = {name: arrays[name][rows] for name in ("input_lengths", "target_lengths")}
        sample = {"id": torch.tensor(rows), "net_input": net_input, "target": padded_targets(ctc, 7)[rows], **lengths}
        loss, _, log = criterion(ctc.model, {**sample, "target_weights": torch.tensor(weights)})
        loss.backward()
        return log

    plain, filled = run([0, 1], [1.0, 1.0]), run([0, 1, 0], [1.0, 1.0, 0.0])
    for name, value in plain.items():
        assert torch.allclose(filled[name].double(), value.double(), rtol=1e-6), name
    assert_gradients(ctc)
