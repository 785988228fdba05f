"""Data, from manifests to batches. fairseq's users import the names below from here."""

from fairseq.data.add_target_dataset import AddTargetDataset
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset, RawAudioDataset
from fairseq.data.base_wrapper_dataset import BaseWrapperDataset
from fairseq.data.concat_dataset import ConcatDataset
from fairseq.data.dictionary import Dictionary
from fairseq.data.fairseq_dataset import EpochListening, FairseqDataset
from fairseq.data.iterators import EpochBatchIterator
from fairseq.data.subsample_dataset import SubsampleDataset

__all__ = [
    "AddTargetDataset",
    "BaseWrapperDataset",
    "ConcatDataset",
    "Dictionary",
    "EpochBatchIterator",
    "EpochListening",
    "FairseqDataset",
    "FileAudioDataset",
    "RawAudioDataset",
    "SubsampleDataset",
]
