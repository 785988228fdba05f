"""Layerdrop: skipped blocks, and blocks computed and multiplied by 0, are one thing."""

from __future__ import annotations

import pytest
import torch
from small_model import gradients, masked_batch, small_model
from torch import Tensor

CONFORMER = {
    "layer_type": "conformer",
    "attn_type": "espnet",
    "pos_enc_type": "rel_pos",
    "depthwise_conv_kernel_size": 5,
}


def step(static: bool, seed: int, **settings: object) -> tuple[Tensor, dict[str, Tensor], list[bool]]:
    """Encoder output, gradients, and which blocks have any."""
    model = small_model(encoder_layers=6, encoder_layerdrop=0.5, **settings).train()
    model.encoder.static_layerdrop = static
    net_input = masked_batch(model, [4000, 2900], [13, 9])
    torch.manual_seed(seed)
    x = model(net_input["source"], net_input["padding_mask"], mask=False, features_only=True)["x"]
    x.square().sum().backward()
    grads = gradients(model)
    alive = [
        any(grad.any() for name, grad in grads.items() if f"layers.{n}." in name and "conv_layers" not in name)
        for n in range(6)
    ]
    return x.detach(), grads, alive


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"layer_norm_first": True}, CONFORMER], ids=["post-norm", "pre-norm", "conformer"]
)
def test_multiplying_by_0_equals_skipping(settings: dict[str, object]) -> None:
    kept = set()
    for seed in range(4):
        x, grads, alive = step(False, seed, **settings)
        static_x, static_grads, static_alive = step(True, seed, **settings)
        assert torch.equal(x, static_x)
        assert alive == static_alive
        kept.add(sum(alive))
        for name, grad in grads.items():
            assert torch.equal(grad, static_grads[name]), name
    assert len(kept) > 1 and min(kept) < 6, "the seeds drop nothing: choose others"


@pytest.mark.parametrize("settings", [{}, CONFORMER], ids=["transformer", "conformer"])
def test_static_layerdrop_leaves_no_parameter_without_a_gradient(settings: dict[str, object]) -> None:
    model = small_model(encoder_layers=6, encoder_layerdrop=0.9, **settings).train()
    model.encoder.static_layerdrop = True
    net_input = masked_batch(model, [4000], [13])
    model(**net_input)["x"].exp().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_all_blocks_run_in_evaluation_and_results_count_them() -> None:
    model = small_model(encoder_layers=6, encoder_layerdrop=0.9).eval()
    source = masked_batch(model, [4000], [13])["source"]
    assert len(model(source, mask=False, features_only=True)["layer_results"]) == 6
    torch.manual_seed(0)
    model.train()
    assert len(model(source, mask=False, features_only=True)["layer_results"]) < 6


def test_flags_come_from_the_default_cpu_generator() -> None:
    first, second = step(False, 11)[2], step(False, 11)[2]
    assert first == second


def test_what_is_drawn_after_the_blocks_is_the_same_too() -> None:
    """The last block is dropped with half of the seeds; codewords and negatives are drawn after it."""
    for seed in range(4):
        found = []
        for static in (False, True):
            model = small_model(encoder_layers=6, encoder_layerdrop=0.5).train()
            model.encoder.static_layerdrop = static
            net_input = masked_batch(model, [4000, 2900], [13, 9])
            torch.manual_seed(seed)
            found.append(model(**net_input)["x"])
        assert torch.equal(*found), seed
