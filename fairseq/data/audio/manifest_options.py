"""Options of data sets of manifests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fairseq.data.audio.augment import Augmentation
from fairseq.data.audio.corpora import Corpora
from fairseq.data.storage.reader import CacheOptions


@dataclass(frozen=True)
class ManifestOptions:
    """Options that fairseq's FileAudioDataset does not have."""

    seed: int = 1  # with epoch and index, the key of an utterance's crop and masks
    resample: bool = False  # convert files of another sample rate while reading, and the manifest's lengths too
    subsample: float = 1.0  # share of the utterances to keep, selected by `seed`
    weights: Sequence[float] | None = None  # shares of several manifests in an epoch; None: every utterance once
    augmentation: Augmentation | None = None  # for training with padded, uncropped recordings
    cache: CacheOptions = CacheOptions()  # for audio in object stores
    # instead of weights: the audio of manifest i in an epoch is proportional to its own audio ** alpha
    alpha: float | None = None
    corpora: Corpora | None = None  # to report in batches; None: batches do not
