"""Values and gradients against fairseq-fixed 0.12.3.1 (seed 7, fp32, eval mode): see `reference_data`."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion
from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model
from tests.parity import reference_data

VALUES = 1e-5
GRADIENTS = 1e-4
NAMES = ["base", "large", "conformer"]


class Reference(NamedTuple):
    model: Wav2Vec2Model
    arrays: dict[str, Tensor]


@pytest.fixture(params=NAMES)
def reference(request: pytest.FixtureRequest) -> Reference:
    stored = reference_data.load(request.param)
    model = Wav2Vec2Model(stored.model_config).eval()
    model.load_state_dict(stored.weights)
    return Reference(model, stored.arrays)


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float, what: str, at_least: float = 0.0) -> None:
    """Compare the largest difference, relative to the larger of the reference's largest value and `at_least`."""
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} against {tuple(theirs.shape)}"
    finite = torch.isfinite(theirs)
    assert torch.equal(torch.isfinite(ours), finite), f"{what}: infinities in other places"
    scale = max(theirs[finite].abs().max().item(), at_least)
    difference = (ours - theirs)[finite].abs().max().item()
    assert difference <= tolerance * scale, f"{what}: {difference / scale:.2e}"


def objective(reference: Reference, **extra: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Net output and the criterion's log for the reference's masks and negatives; gradients stay in the model."""
    arrays = reference.arrays
    M = int(arrays["n_masked"])
    B = arrays["source"].size(0)
    net_input = {
        "source": arrays["source"],
        "mask_indices": arrays["mask_indices"],
        "negative_indices": arrays["neg_idxs"].view(B, M, -1),
        **extra,
    }
    outputs: list[dict[str, Any]] = []
    handle = reference.model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    criterion = Wav2vecCriterion(
        infonce=True, loss_weights=[0.1, 10.0], log_keys=["prob_perplexity", "code_perplexity", "temp"]
    )
    loss, sample_size, log = criterion(reference.model, {"id": torch.arange(B), "net_input": net_input})
    handle.remove()
    loss.backward()
    assert sample_size.item() == M * B
    return outputs[0], log


def assert_gradients_close(reference: Reference) -> None:
    """Compare every parameter's gradient.

    A key's bias shifts all scores of a query by the same amount, so its gradient is rounding noise (1e-9) around 0: it
    is compared at the scale of its weight's gradient.
    """
    model, arrays = reference
    for name, parameter in model.named_parameters():
        expected = arrays.get(f"grad/{name}")
        if expected is None:
            assert parameter.grad is None or not parameter.grad.any(), f"{name} has a gradient, the reference has none"
            continue
        shifts_scores = name.endswith(("k_proj.bias", "linear_k.bias"))
        at_least = arrays[f"grad/{name.replace('bias', 'weight')}"].abs().max().item() if shifts_scores else 0.0
        assert_close(parameter.grad, expected, GRADIENTS, name, at_least)


def test_features(reference: Reference) -> None:
    model, arrays = reference
    with torch.no_grad():
        assert_close(model.feature_extractor(arrays["source"]), arrays["conv_features"], VALUES, "conv features")
        padded = model(arrays["source"], arrays["padding_mask"], mask=False, features_only=True)
        assert_close(padded["x"], arrays["features_only_x"], VALUES, "x")
        assert torch.equal(padded["padding_mask"], arrays["features_only_padding_mask"])
        plain = model(arrays["source"], None, mask=False, features_only=True)
        assert_close(plain["x"], arrays["features_only_nopad_x"], VALUES, "x without padding")
        assert plain["padding_mask"] is None
        first = model.extract_features(arrays["source"], padding_mask=None, mask=False, layer=0)
        assert_close(first["x"], arrays["layer0_x"], VALUES, "layer 0")


def test_quantize(reference: Reference) -> None:
    model, arrays = reference
    with torch.no_grad():
        quantized, codes = model.quantize(arrays["source"])
    assert torch.equal(codes, arrays["codes"])
    assert_close(quantized, arrays["quantized"], VALUES, "quantized")


def test_objective_and_gradients(reference: Reference) -> None:
    net_output, log = objective(reference)
    model, arrays = reference
    assert_close(model.get_logits(net_output), arrays["logits"], VALUES, "logits")
    for name in ("loss", "loss_0", "prob_perplexity", "code_perplexity"):
        assert log[name].item() == pytest.approx(arrays[name].item(), rel=VALUES), name
    assert log["temp"].item() == pytest.approx(arrays["temp"].item(), rel=1e-7)
    assert_close(torch.stack(model.get_extra_losses(net_output)), arrays["extra_losses"], VALUES, "extra losses")
    assert_gradients_close(reference)


def test_positions_and_weights_with_filler_give_the_same(reference: Reference) -> None:
    """The worker's form of the mask, with three filler positions per row, against the boolean mask alone."""
    arrays = reference.arrays
    B, M = arrays["source"].size(0), int(arrays["n_masked"])
    masked = arrays["mask_indices"].nonzero()[:, 1].view(B, M)
    positions = torch.cat([masked, torch.zeros(B, 3, dtype=torch.long)], dim=1)
    weights = torch.cat([torch.ones(B, M), torch.zeros(B, 3)], dim=1)
    negatives = arrays["neg_idxs"].view(B, M, -1)
    negatives = torch.cat([negatives, torch.zeros(B, 3, negatives.size(2), dtype=torch.long)], dim=1)
    _, log = objective(reference, masked_positions=positions, masked_weights=weights, negative_indices=negatives)
    assert log["loss"].item() == pytest.approx(arrays["loss"].item(), rel=VALUES)
    assert_gradients_close(reference)


@pytest.mark.parametrize(
    "entry",
    ["wav2vec2_base_librispeech", "wav2vec2_large_librivox", "wav2vec2_conformer_base_librispeech", "pos_conv_depth_5"],
)
def test_state_dict_names_shapes_and_order(entry: str) -> None:
    expected = reference_data.load_json("state_dicts")[entry]
    with torch.device("meta"):
        model = Wav2Vec2Model(expected["model"])
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert list(ours.items()) == list(expected["state_dict"].items())


def test_config_defaults() -> None:
    expected = reference_data.load_json("wav2vec2_config_defaults")
    ours = Wav2Vec2Config.field_defaults()
    assert (
        ours.pop("logit_temp_start") is None
        and ours.pop("logit_temp_updates") == 0
        and ours.pop("mask_emb_init") is None
    )
    expected.pop("_name")
    expected["latent_temp"] = tuple(expected["latent_temp"])
    assert ours == expected
