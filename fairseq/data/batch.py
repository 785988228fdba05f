"""The contents of a batch, from a data-loading worker to the criterion.

A batch is a dict, as in fairseq, so that plug-in models, criterions and data sets can read and write it. Letters:
B rows, S samples, U units of a label, K corpora.
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

    padding_mask: Tensor  # bool, B x S: True for padding; absent if nothing is padded


class _Planned(TypedDict):
    id: Tensor  # int64, B: indices of the utterances
    net_input: NetInput
    micro: int  # global number of the micro-batch within its update
    num_valid: int  # the first num_valid rows count
    num_samples: int  # of these rows, without padding
    quarantined: list[Trouble]  # files that could not be decoded, or that need a remark
    few_masked: int  # rows that do not count because fewer than two of their frames are masked
    num_masked: int  # masked frames of the rows that count
    num_frames: int  # frames of these rows, without padding; 0 if no masks were drawn
    whole: list[bool]  # for each row, whether it holds the whole utterance


class Batch(_Planned, total=False):
    """One batch; the label fields are present if the data set has labels."""

    target: Tensor  # int64, B x U, padded with the padding symbol
    target_lengths: Tensor  # int64, B
    target_weights: Tensor  # float32, B: 1 for rows that count, 0 for filler
    input_lengths: Tensor  # int64, B: frames
    ntokens: int  # units of the rows that count
    # with several corpora (task.multi_corpus_keys), K of them:
    corpora: Tensor  # float32, B x K: 1 where a row that counts belongs to a corpus
    corpus_utterances: list[int]  # K: rows that count
    corpus_samples: list[int]  # K: of these rows, without padding
