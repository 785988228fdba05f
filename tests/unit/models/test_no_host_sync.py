"""A training step reads nothing back from the device: the operators of forward, loss and backward, traced."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_model import masked_batch, small_model

from fairseq import device
from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion
from tests.host_reads import HostReads

SETTINGS = {
    "base": {},
    "large": {"extractor_mode": "layer_norm", "layer_norm_first": True},
    "conformer": {
        "layer_type": "conformer",
        "attn_type": "espnet",
        "pos_enc_type": "rel_pos",
        "depthwise_conv_kernel_size": 5,
    },
    "all negatives": {"negatives_from_everywhere": True, "cross_sample_negatives": 4, "codebook_negatives": 3},
    "vectors": {"quantize_targets": False, "quantize_input": True},
    "dropouts": {
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "dropout_input": 0.1,
        "dropout_features": 0.1,
        "encoder_layerdrop": 0.5,
    },
    "checkpointing": {"checkpoint_activations": True, "dropout": 0.1},
    "channel masks": {"mask_channel_prob": 0.3, "mask_channel_before": True},
}


@pytest.mark.parametrize("hpu_arms", [False, True], ids=["stock", "hpu"])
@pytest.mark.parametrize("static_layerdrop", [False, True], ids=["", "static"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_training_step_never_waits_for_the_device(
    settings: dict[str, Any], static_layerdrop: bool, hpu_arms: bool
) -> None:
    model = small_model(**settings).train()
    model.encoder.static_layerdrop = static_layerdrop
    net_input = masked_batch(model, [4000, 2900, 3000], [13, 9, 0])
    del net_input["negative_indices"]
    net_input["mask_channel_indices"] = torch.zeros(3, 24, dtype=torch.bool)
    criterion = Wav2vecCriterion(
        infonce=True, loss_weights=[0.1, 10.0], log_keys=["prob_perplexity", "code_perplexity", "temp"]
    )
    if model.quantizer is None and model.input_quantizer is None:
        criterion.loss_weights = [10.0]
    with HostReads() as reads, device.forced(hpu_arms=hpu_arms), torch.autocast("cpu", torch.bfloat16):
        loss, _, log = criterion(model, {"net_input": net_input})
        loss.backward()
    assert reads.operators > 200
    assert not reads.found
    assert all(isinstance(value, torch.Tensor) and value.dim() <= 1 for value in log.values())


def test_the_trace_sees_reads() -> None:
    """The guard itself: each kind of read is found."""
    x = torch.arange(4.0)
    with HostReads() as reads:
        x.sum().item()
        x[x > 1]
        x.clone()[x > 1] = 0
        torch.nonzero(x)
        bool((x > 1).any())
    assert len(reads.found) >= 5
