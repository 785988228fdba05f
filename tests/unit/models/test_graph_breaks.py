"""torch.compile sees model and criterion as one graph, on the arms of HPU."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from small_model import masked_batch, small_config
from torch import Tensor

from fairseq import device as device_layer
from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion
from fairseq.dataclass.configs import CommonConfig
from fairseq.models.wav2vec import Wav2Vec2Model


@pytest.mark.slow
@pytest.mark.needs("traced functions")
@pytest.mark.parametrize(
    "settings",
    [
        {"encoder_layerdrop": 0.3, "dropout": 0.1, "attention_dropout": 0.1, "feature_grad_mult": 0.1},
        {"extractor_mode": "layer_norm"},
    ],
    ids=["base", "large"],
)
def test_forward_and_criterion_are_one_graph(fake_habana: ModuleType, settings: dict[str, Any]) -> None:
    device = device_layer.select(OmegaConf.structured(CommonConfig(hpu=True, hmp=True, hpu_lazy_mode=False)))
    torch.manual_seed(0)
    # from omegaconf, as a command makes it
    model = Wav2Vec2Model(OmegaConf.structured(small_config(**settings))).train()
    model.encoder.static_layerdrop = True
    criterion = Wav2vecCriterion(None, True, [0.1, 10], ["prob_perplexity", "code_perplexity", "temp"])
    batch = masked_batch(model, [4000, 2900], [13, 9])
    del batch["negative_indices"]  # drawn on the device
    batch["masked_positions"] = batch["masked_positions"].int()

    def loss_of(net_input: dict[str, Tensor]) -> Tensor:
        with device.autocast(torch.bfloat16):
            return criterion(model, {"net_input": net_input})[0]

    torch._dynamo.reset()
    # fullgraph: a graph break is an error
    compiled = torch.compile(loss_of, backend="eager", fullgraph=True, dynamic=False)
    torch.manual_seed(5)
    got = compiled(batch)
    torch.manual_seed(5)
    assert torch.equal(got, loss_of(batch))
    with torch._dynamo.config.patch(error_on_recompile=True):
        model.set_num_updates(1000)  # another temperature
        compiled(batch).backward()
    assert all(p.grad is not None for p in model.parameters())
    torch._dynamo.reset()
