"""Data: manifests to batches. fairseq's users import the names below from here."""

from fairseq.data.add_target_dataset import AddTargetDataset
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset, RawAudioDataset
from fairseq.data.dictionary import Dictionary
from fairseq.data.fairseq_dataset import EpochListening, FairseqDataset
from fairseq.data.iterators import EpochBatchIterator

__all__ = [
    "AddTargetDataset",
    "Dictionary",
    "EpochBatchIterator",
    "EpochListening",
    "FairseqDataset",
    "FileAudioDataset",
    "RawAudioDataset",
]
