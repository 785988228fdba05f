"""The objective, with a stand-in for the model whose logits are given."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, FairseqCriterion, build_criterion, register_criterion
from fairseq.criterions.wav2vec_criterion import CODE_COUNTS, Wav2vecCriterion
from fairseq.logging import metrics
from fairseq.models.wav2vec import Wav2Vec2Model

B, M, N = 2, 4, 3


class GivenLogits(nn.Module):
    """Returns the net output that it was made with."""

    def __init__(self, logits: Tensor, weights: Tensor, **extra: Any) -> None:
        super().__init__()
        self.output = {"x": logits.permute(2, 0, 1), "masked_weights": weights, **extra}

    def forward(self, **net_input: Any) -> dict[str, Any]:
        return self.output

    get_logits = Wav2Vec2Model.get_logits
    get_targets = Wav2Vec2Model.get_targets
    get_extra_losses = Wav2Vec2Model.get_extra_losses


@pytest.fixture
def model() -> GivenLogits:
    torch.manual_seed(0)
    logits = torch.randn(B, M, 1 + N)
    logits[0, 1, 2] = -math.inf
    weights = torch.tensor([[1.0, 1, 1, 0], [1, 1, 0, 0]])
    return GivenLogits(
        logits.requires_grad_(),
        weights,
        prob_perplexity=torch.tensor(3.0),
        num_vars=12,
        features_pen=torch.tensor(0.5),
        temp=1.5,
    )


def counted(model: GivenLogits) -> Tensor:
    """Logits of the masked frames that count, 5 x (1 + N)."""
    return model.output["x"].permute(1, 2, 0)[model.output["masked_weights"] > 0]


def test_infonce_and_further_losses(model: GivenLogits) -> None:
    criterion = Wav2vecCriterion(
        infonce=True, loss_weights=[0.1, 10.0], log_keys=["prob_perplexity", "temp", "not there"]
    )
    loss, sample_size, log = criterion(model, {"net_input": {}})
    infonce = F.cross_entropy(counted(model), torch.zeros(5, dtype=torch.long), reduction="sum").item()
    further = [0.1 * 5 * (12 - 3) / 12, 10 * 5 * 0.5]
    assert sample_size.item() == 5
    assert loss.item() == pytest.approx(infonce + sum(further), rel=1e-6)
    expected = {
        "loss": loss.item(),
        "loss_0": infonce,
        "loss_1": further[0],
        "loss_2": further[1],
        "sample_size": 5,
        "ntokens": 5,
    }
    expected |= {"nsentences": 2, "nonempty": 1, "prob_perplexity": 3, "temp": 1.5, "count": 5}
    expected["correct"] = sum(row.argmax().item() == 0 for row in counted(model))
    assert {name: value.item() for name, value in log.items()} == pytest.approx(expected, rel=1e-6)
    assert loss.dtype == torch.float32 and not any(value.requires_grad for value in log.values())


def test_one_weight_for_all_and_weight_0(model: GivenLogits) -> None:
    loss, _, log = Wav2vecCriterion(infonce=True, loss_weights=[2.0])(model, {"net_input": {}})
    assert {"loss_1", "loss_2"} < set(log)
    _, _, log = Wav2vecCriterion(infonce=True, loss_weights=[0.1, 0.0])(model, {"net_input": {}})
    assert "loss_1" in log and "loss_2" not in log
    _, _, log = Wav2vecCriterion(infonce=True)(model, {"net_input": {}})
    assert "loss_0" not in log
    with pytest.raises(ValueError, match="2 further losses, so it must have 2 weights"):
        Wav2vecCriterion(infonce=True, loss_weights=[1.0, 1.0, 1.0])(model, {"net_input": {}})


def test_binary_cross_entropy_asks_about_each_possible_candidate(model: GivenLogits) -> None:
    criterion = Wav2vecCriterion(infonce=False, loss_weights=[0.0, 0.0], log_keys=["temp"])
    loss, sample_size, log = criterion(model, {"net_input": {}})
    expected = 0.0
    for row in counted(model):
        for k, logit in enumerate(row.tolist()):
            if logit > -math.inf:
                expected += math.log1p(math.exp(-logit)) if k == 0 else math.log1p(math.exp(logit))
    assert loss.item() == pytest.approx(expected, rel=1e-6) and sample_size.item() == 5
    assert "correct" not in log
    loss.backward()
    logits = model.output["x"].permute(1, 2, 0)
    (grad,) = torch.autograd.grad(criterion(model, {"net_input": {}})[0], logits_of(model))
    assert torch.isfinite(grad).all() and not grad[model.output["masked_weights"] == 0].any()
    assert logits.shape == grad.shape


def logits_of(model: GivenLogits) -> Tensor:
    """The leaf that the logits are a view of."""
    return model.output["x"]._base


@pytest.mark.parametrize("infonce", [True, False])
def test_losses_of_each_frame(model: GivenLogits, infonce: bool) -> None:
    """Position-major, 0 for filler; their sum is the loss without the further ones."""
    losses, _, log = Wav2vecCriterion(infonce=infonce)(model, {"net_input": {}}, reduce=False)
    assert losses.shape == (M * B,)
    assert (losses.view(M, B).t() > 0).equal(model.output["masked_weights"] > 0)
    assert losses.sum().item() == pytest.approx(log["loss"].item(), rel=1e-6)


def test_equal_logits_are_no_success() -> None:
    model = GivenLogits(torch.zeros(1, 2, 4), torch.ones(1, 2))
    assert Wav2vecCriterion(infonce=True)(model, {"net_input": {}})[2]["correct"].item() == 0


def test_a_wrapped_model_is_asked_through_its_module(model: GivenLogits) -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model

        def forward(self, **net_input: Any) -> dict[str, Any]:
            return self.module(**net_input)

    criterion = Wav2vecCriterion(infonce=True, loss_weights=[0.1, 10.0])
    assert criterion(Wrapper(), {"net_input": {}})[0].item() == criterion(model, {"net_input": {}})[0].item()


def test_metrics_of_several_passes_have_fairseqs_names_and_means(model: GivenLogits) -> None:
    """An empty pass changes no mean; losses are in bits a masked frame."""
    criterion = Wav2vecCriterion(infonce=True, loss_weights=[0.1, 10.0], log_keys=["prob_perplexity", "temp"])
    log = criterion(model, {"net_input": {}})[2]
    empty = GivenLogits(
        torch.randn(B, M, 1 + N),
        torch.zeros(B, M),
        **{k: model.output[k] for k in ("prob_perplexity", "num_vars", "features_pen", "temp")},
    )
    logs = [log, log, criterion(empty, {"net_input": {}})[2]]
    assert Wav2vecCriterion.logging_outputs_can_be_summed()
    summed = {key: sum(entry[key] for entry in logs) for key in log}
    for outputs in (logs, [summed], [{key: value.item() for key, value in summed.items()}]):
        with metrics.aggregate(new_root=True) as found:
            Wav2vecCriterion.reduce_metrics(outputs)
        values = found.get_smoothed_values()
        assert values["loss"] == pytest.approx(log["loss"].item() / 5 / math.log(2), abs=1e-3)
        assert values["loss_0"] == pytest.approx(log["loss_0"].item() / 5 / math.log(2), abs=1e-3)
        assert values["accuracy"] == pytest.approx(log["correct"].item() / 5, abs=1e-5)
        assert values["prob_perplexity"] == 3 and values["temp"] == 1.5
        assert values["ntokens"] == 10 and values["nsentences"] == 4
        assert not {"nonempty", "sample_size", "count", "correct"} & set(values)


def test_metrics_of_nothing_but_empty_passes() -> None:
    empty = GivenLogits(torch.randn(B, M, 1 + N), torch.zeros(B, M), features_pen=torch.tensor(0.5), temp=2.0)
    log = Wav2vecCriterion(infonce=True, log_keys=["temp"])(empty, {"net_input": {}})[2]
    with metrics.aggregate(new_root=True) as found:
        Wav2vecCriterion.reduce_metrics([log])
    values = found.get_smoothed_values()
    assert values["loss"] == 0 and math.isnan(values["accuracy"]) and "temp" not in values


# -- the registry ------------------------------------------------------------------------------------------------------


def test_built_by_name_with_the_configs_fields() -> None:
    cfg = OmegaConf.create({"_name": "wav2vec", "infonce": True, "loss_weights": [0.1, 10], "log_keys": ["temp"]})
    criterion = build_criterion(cfg, SimpleNamespace(target_dictionary=None))
    assert isinstance(criterion, Wav2vecCriterion)
    assert (criterion.infonce, criterion.loss_weights, criterion.log_keys, criterion.padding_idx) == (
        True,
        [0.1, 10],
        ["temp"],
        -100,
    )
    assert CRITERION_DATACLASS_REGISTRY["wav2vec"]().infonce is False
    with pytest.raises(ValueError, match="wav2vec"):
        build_criterion(OmegaConf.create({"_name": "wav2vek"}), None)


def test_arguments_of_a_criterion_are_fields_of_its_config() -> None:
    class Needs(FairseqCriterion):
        def __init__(self, task: Any, margin: float, cfg: Any = None) -> None:
            super().__init__(task)
            self.margin, self.cfg = margin, cfg

    cfg = OmegaConf.create({"margin": 0.5})
    task = SimpleNamespace(target_dictionary=SimpleNamespace(pad=lambda: 7))
    built = Needs.build_criterion(cfg, task)
    assert (built.margin, built.padding_idx, built.cfg) == (0.5, 7, cfg)
    with pytest.raises(ValueError, match="criterion.margin"):
        Needs.build_criterion(OmegaConf.create({}), task)

    class Loose(FairseqCriterion):
        def __init__(self, task: Any, **anything: Any) -> None:
            super().__init__(task)

    with pytest.raises(ValueError, match="anything"):
        Loose.build_criterion(cfg, task)
    with pytest.raises(ValueError, match="already"):
        register_criterion("wav2vec")(Wav2vecCriterion)


def test_code_counts_are_summed_exactly_and_hidden_from_rows(model: GivenLogits) -> None:
    metrics.reset()
    model.output["code_counts"] = torch.tensor([[3.0, 0.0], [1.0, 2.0]])
    _, _, log = Wav2vecCriterion(None, infonce=True, log_keys=["temp"])(model, {"net_input": {}})
    assert log["code_counts"].tolist() == [3, 0, 1, 2]
    with metrics.aggregate("epoch") as epoch:
        for large in ([2.0**40, 0.0, 1.0, 1.0], log["code_counts"]):  # from the log interval's sums, or a batch
            Wav2vecCriterion.reduce_metrics([{**log, "code_counts": large}])
    assert epoch[CODE_COUNTS].sum.tolist() == [2**40 + 3, 0, 2, 3]
    row = epoch.get_smoothed_values()
    assert "loss" in row and "temp" in row and not any("code" in name for name in row)
