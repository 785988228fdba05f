"""What a batch holds on its way from a data-loading worker to the criterion.

A batch is a dict, as in fairseq, so that plug-in models, criterions and data sets read and write it as there. Letters:
B rows, S samples, U units of a label.
"""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

from fairseq.data.audio.quarantine import Trouble
from fairseq.masks.batch import MaskInputs


class _Audio(TypedDict):
    source: Tensor  # float32, B x S


class NetInput(_Audio, MaskInputs, total=False):
    """The model's arguments: audio, and the masks that the worker drew."""

    padding_mask: Tensor  # bool, B x S: True for padding; absent where nothing is padded


class _Planned(TypedDict):
    id: Tensor  # int64, B: indices of the utterances
    net_input: NetInput
    micro: int  # global number of the micro-batch within its update
    num_valid: int  # rows that count, the first ones
    num_samples: int  # of these rows, padding not counted
    quarantined: list[Trouble]  # files that could not be decoded, or that are odd
    few_masked: int  # rows that do not count because fewer than two of their frames were masked
    whole: list[bool]  # for each row, whether it holds all of its utterance


class Batch(_Planned, total=False):
    """One batch; what concerns labels is there where the data set has them."""

    target: Tensor  # int64, B x U, filled up with the padding symbol
    target_lengths: Tensor  # int64, B
    target_weights: Tensor  # float32, B: 1 for rows that count, 0 for filler
    input_lengths: Tensor  # int64, B: frames
    ntokens: int  # units of the rows that count
