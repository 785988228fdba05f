"""Reading the extractor's specification, and counting its frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fairseq.frames import ConvSpec, frames_for_samples, parse_conv_layers, receptive_field

BASE = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
BASE_LAYERS = [ConvSpec(512, 10, 5)] + [ConvSpec(512, 3, 2)] * 4 + [ConvSpec(512, 2, 2)] * 2


@pytest.mark.parametrize(
    "text",
    [
        BASE,
        "[(512,10,5)]+[(512,3,2)]*4+[(512,2,2)]*2",
        " [ ( 512 , 10 , 5 ) ]+[(512,3,2)] *2 * 2 + [(512,2,2),(512,2,2),] ",
        "'[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2'",
        '"[[512, 10, 5]] + [(512, 3, 2,)] * 4\n + [(512,2,2)] * 2"',
    ],
)
def test_spellings(text: str) -> None:
    assert parse_conv_layers(text) == BASE_LAYERS


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[(512, 10)]", "expected ',' at character 9"),
        ("[(512, 10, 5)] - [(1,1,1)]", "character 15"),
        ("[(512, 10, 5)", "found 'the end'"),
        ("[(512, 10, 5)] [(1, 1, 1)]", "expected +, * or the end at character 15"),
        ("__import__('os').getcwd()", "character 0"),
        ("[(512, 10, x)]", "character 11"),
        ("[(512, 10, 0)]", "layer 0 is (512, 10, 0)"),
        ("[(512, -3, 1)]", "at least 1"),
        ("[(512, 10, 5)] * 0", "has no layer"),
        ("[]", "has no layer"),
        ("", "character 0"),
    ],
)
def test_errors_name_the_place(text: str, where: str) -> None:
    with pytest.raises(ValueError, match="conv_feature_layers") as error:
        parse_conv_layers(text)
    assert where in str(error.value)


def test_frames_are_those_of_the_convolutions() -> None:
    layers = [ConvSpec(2, 10, 5), ConvSpec(2, 3, 2), ConvSpec(2, 2, 2)]
    field, stride = receptive_field(layers)
    convolutions = nn.Sequential(
        *[nn.Conv1d(1 if i == 0 else 2, 2, layer.kernel, layer.stride) for i, layer in enumerate(layers)]
    )
    for samples in range(field, field + 3 * stride):
        assert frames_for_samples(samples, layers) == convolutions(torch.zeros(1, 1, samples)).shape[-1]


def test_frames_of_ints_arrays_and_tensors() -> None:
    lengths, frames = [0, 1, 399, 400, 719, 720, 16000], [0, 0, 0, 1, 1, 2, 49]
    assert [frames_for_samples(n, BASE_LAYERS) for n in lengths] == frames
    array = frames_for_samples(np.array(lengths, dtype=np.int32), BASE_LAYERS)
    assert array.tolist() == frames and array.dtype == np.int32
    tensor = frames_for_samples(torch.tensor(lengths), BASE_LAYERS)
    assert tensor.tolist() == frames and tensor.dtype == torch.int64
    with pytest.raises(ValueError, match="at least 1"):
        frames_for_samples(100, [(512, 0, 1)])


def test_receptive_field_of_base() -> None:
    assert receptive_field(BASE_LAYERS) == (400, 320)
