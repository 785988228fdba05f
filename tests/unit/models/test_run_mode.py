"""How a model runs is chosen by one call, and reaches every module that has a choice."""

from __future__ import annotations

import torch
from small_model import small_model

from fairseq.models.wav2vec.stages import GivenMasks
from fairseq.modules.run_mode import RunMode


def test_choices_reach_the_modules_and_none_leaves_them() -> None:
    model = small_model(layer_type="conformer", depthwise_conv_kernel_size=5, required_seq_len_multiple=4)
    model.configure(RunMode(static_graph=True, looks_for_padding=False, length_aware=True, pads_to_multiple=False))
    model.configure(RunMode())
    convolution = model.encoder.layers[0].conv_module
    assert model.length_aware and model.encoder.length_aware and convolution.length_aware
    assert model.encoder.static_layerdrop and not model.looks_for_padding
    assert model.encoder.required_seq_len_multiple == 1
    model.configure(RunMode(pads_to_multiple=True, length_aware=False))
    assert model.encoder.required_seq_len_multiple == 4 and not convolution.length_aware
    assert model.encoder.static_layerdrop, "not asked"


def test_forward_is_encode_then_predict() -> None:
    model = small_model().train()
    source, masked = torch.randn(2, 4000), torch.zeros(2, 49, dtype=torch.bool)
    masked[:, 2:8] = True
    torch.manual_seed(1)
    expected = model(source, mask_indices=masked)
    torch.manual_seed(1)
    encoded = model.encode(source, given=GivenMasks(indices=masked))
    got = model.predict(encoded)
    assert list(got) == list(expected)
    assert all(
        torch.equal(torch.as_tensor(got[key]), torch.as_tensor(expected[key])) for key in got if got[key] is not None
    )
