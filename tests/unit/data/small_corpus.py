"""A small corpus whose samples tell which file and which place they come from."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import soundfile

from fairseq.data.audio.raw_audio_dataset import FileAudioDataset, ManifestOptions
from fairseq.frames import ConvSpec
from fairseq.masks.settings import MaskConfig, PretrainingMasks

RATE = 16000
LAYERS = (ConvSpec(8, 10, 5), ConvSpec(8, 8, 4), ConvSpec(8, 4, 4))  # a frame every 80 samples


def tell_tale(number: int, samples: int) -> np.ndarray:
    """Sample i of file n is (n * 1000 + i // 100) / 2^15, exactly, so that a crop tells its file and its start."""
    return ((number * 1000 + np.arange(samples) // 100) / 2**15).astype(np.float32)


def without_length(flac: Path) -> Path:
    """A copy whose header does not say how many samples there are: 36 bits of STREAMINFO are 0."""
    content = bytearray(flac.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    copy = flac.with_name(f"streamed_{flac.name}")
    copy.write_bytes(content)
    return copy


def without_length_tag(mp3: Path) -> Path:
    """A copy without its first block, which says how many blocks follow, as encoders that cannot go back to the
    beginning write it.
    """
    content = mp3.read_bytes()
    copy = mp3.with_name(f"untagged_{mp3.name}")
    copy.write_bytes(content[content.index(b"\xff\xf3", 4) :])
    return copy


def write_corpus(root: Path, sizes: list[int], name: str = "train", rate: int = RATE) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    lines = [str(root)]
    for number, size in enumerate(sizes):
        soundfile.write(root / f"{name}{number:02d}.flac", tell_tale(number, size), rate, subtype="PCM_16")
        lines.append(f"{name}{number:02d}.flac\t{size}")
    manifest = root / f"{name}.tsv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


SIZES = [
    2400,
    3200,
    4000,
    4800,
    5600,
    6400,
    2500,
    3300,
    4100,
    4900,
    5700,
    6500,
    2600,
    3400,
    4200,
    5000,
    5800,
    6600,
    2700,
    3500,
]


def make_masks(**changes: object) -> PretrainingMasks:
    time = MaskConfig(0.5, 4, "static", other=0, no_overlap=False, min_space=1, min_masks=2, same_count=True)
    channel = MaskConfig(prob=0.2, length=2, selection="static", other=0, no_overlap=False, min_space=1, min_masks=0)
    return PretrainingMasks(time, channel, 16, LAYERS)._replace(**changes)


OWN = {field.name for field in fields(ManifestOptions)}


def open_manifest(manifest: Path, **options: object) -> FileAudioDataset:
    """A data set of arguments of FileAudioDataset and of ManifestOptions."""
    own = ManifestOptions(**{name: value for name, value in options.items() if name in OWN})
    others = {name: value for name, value in options.items() if name not in OWN}
    return FileAudioDataset(str(manifest), RATE, **others, options=own)


def make_dataset(manifest: Path, **options: object) -> FileAudioDataset:
    """A data set with masks, of at most 5000 samples an utterance."""
    dataset = open_manifest(manifest, **{"max_sample_size": 5000, **options})
    dataset.set_masks(make_masks())
    return dataset
