"""Damaged audio files: read correctly, rejected by name, or quarantined; no other exception, hang, or use of > 1 GB.

python -m tests.drills.audio_files --tries 2000 [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from fairseq.data.audio import quarantine
from fairseq.data.audio.audio_utils import UnreadableAudio, audio_format, get_waveform, read_frames
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.options import BatchLimits
from fairseq.inference.audio import FileSource
from tests.drills.forked import Tally, attempt

RATE = 16000
FORMATS = {  # suffix, container, subtype, options of SoundFile
    "wav": ("wav", "WAV", "PCM_16", {}),
    "wav float": ("wav", "WAV", "FLOAT", {}),
    "wav 24": ("wav", "WAVEX", "PCM_24", {}),
    "wav ulaw": ("wav", "WAV", "ULAW", {}),
    "wav adpcm": ("wav", "WAV", "IMA_ADPCM", {}),
    "wav gsm": ("wav", "WAV", "GSM610", {}),
    "rf64": ("wav", "RF64", "PCM_16", {}),
    "w64": ("w64", "W64", "PCM_16", {}),
    "flac": ("flac", "FLAC", "PCM_16", {}),
    "flac 24": ("flac", "FLAC", "PCM_24", {}),
    "ogg": ("ogg", "OGG", "VORBIS", {}),
    "opus": ("opus", "OGG", "OPUS", {}),
    "mp3": ("mp3", "MP3", "MPEG_LAYER_III", {}),
    "mp3 vbr": ("mp3", "MP3", "MPEG_LAYER_III", {"bitrate_mode": "VARIABLE", "compression_level": 0.5}),
    "aiff": ("aiff", "AIFF", "PCM_16", {}),
    "aiff float": ("aiff", "AIFF", "DOUBLE", {}),
    "au": ("au", "AU", "PCM_16", {}),
    "au g721": ("au", "AU", "G721_32", {}),
    "caf": ("caf", "CAF", "PCM_16", {}),
    "caf alac": ("caf", "CAF", "ALAC_16", {}),
    "nist": ("sph", "NIST", "PCM_16", {}),
    "voc": ("voc", "VOC", "PCM_16", {}),
}


def waves(samples: int, channels: int) -> np.ndarray:
    t = np.arange(samples)[:, None]
    noise = np.random.default_rng(channels).standard_normal((samples, channels)) * 0.02
    return (0.3 * np.sin(0.05 * t * (1 + np.arange(channels))) + noise).astype(np.float32)


def write_originals(folder: Path) -> dict[str, Path]:
    """Write one second of audio in each format, for some formats also with two channels."""
    made = {}
    for name, (suffix, container, subtype, options) in FORMATS.items():
        for channels in (1, 2) if name in ("wav", "flac", "mp3", "wav float") else (1,):
            path = folder / f"{name.replace(' ', '_')}_{channels}.{suffix}"
            with soundfile.SoundFile(path, "w", RATE, channels, subtype, format=container, **options) as file:
                file.write(waves(RATE, channels))
            made[path.stem] = path
    tagged = made["mp3_vbr_1"].read_bytes()
    made["mp3_untagged"] = folder / "mp3_untagged.mp3"
    made["mp3_untagged"].write_bytes(tagged[tagged.index(b"\xff\xf3", 4) :])
    return made


# -- damage ------------------------------------------------------------------------------------------------------------


def flip_bits(data: bytearray, draw: random.Random, within: int | None = None) -> None:
    for _ in range(draw.choice((1, 1, 3, 20))):
        data[draw.randrange(min(len(data), within or len(data)))] ^= 1 << draw.randrange(8)


def flip_header(data: bytearray, draw: random.Random) -> None:
    flip_bits(data, draw, within=draw.choice((16, 48, 100, 400)))


def truncate(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(draw.choice((1, 50, 300, len(data)))) :]


def large_number(data: bytearray, draw: random.Random) -> None:
    """Put a wrong size, rate or count in the header."""
    width = draw.choice((2, 4, 4, 5, 8))
    place = draw.randrange(max(1, min(len(data), 120) - width))
    value = draw.choice(
        (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, (1 << 36) - 1, (1 << 62) - 1, (1 << 64) - 1, draw.getrandbits(32))
    )
    data[place : place + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, draw.choice(("little", "big")))


def overwrite(data: bytearray, draw: random.Random) -> None:
    place, length = draw.randrange(len(data)), draw.choice((1, 16, 500, 5000))
    data[place : place + length] = draw.choice((bytes(length), b"\xff" * length, draw.randbytes(length)))


def cut_out(data: bytearray, draw: random.Random) -> None:
    place = draw.randrange(len(data))
    del data[place : place + draw.choice((1, 2, 7, 400))]


def insert(data: bytearray, draw: random.Random) -> None:
    place = draw.randrange(len(data))
    data[place:place] = draw.choice((draw.randbytes(9), bytes(1000), b"ID3\x03\0\0\x7f\x7f\x7f\x7f", data[:500]))


def append(data: bytearray, draw: random.Random) -> None:
    data += draw.choice((b"TAG" + bytes(125), draw.randbytes(2000), data[: len(data) // 2], b"\0"))


def other_start(data: bytearray, draw: random.Random) -> None:
    marks = (
        b"RIFF",
        b"fLaC",
        b"OggS",
        b"ID3\x03",
        b"\xff\xfb\x90\x64",
        b"FORM",
        b".snd",
        b"caff",
        b"<html>",
        b"NIST_1A\n",
        bytes(12),
    )
    start = draw.choice(marks)
    data[: len(start)] = start


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits,
    flip_header,
    flip_header,
    truncate,
    large_number,
    large_number,
    overwrite,
    cut_out,
    insert,
    append,
    other_start,
)


# -- one try -----------------------------------------------------------------------------------------------------------


def read_everyhow(path: str, original: np.ndarray | None = None) -> str:
    """Read a file through each reader, and compare the results.

    Args:
        original: samples with which the file's samples must begin or end; None: its format has no checksums.
    Raises:
        AssertionError: the results are not finite, have the wrong length, or are not the original's samples.
        UnreadableAudio, ValueError: as for users.
    """
    header = audio_format(path)
    whole = read_frames(path)
    assert len(whole) == header.frames and whole.dtype == np.float32, f"{len(whole)} samples, {header.frames} promised"
    assert np.isfinite(whole).all()
    if original is not None:
        assert np.array_equal(whole, original[: len(whole)]), "damaged samples under a checksum"
    if len(whole) > 2:
        start = len(whole) // 3
        crop = read_frames(path, start, len(whole) // 2)
        assert crop.shape == (len(whole) // 2,) and np.isfinite(crop).all()
    channels, rate = get_waveform(path, mono=False)
    assert channels.shape == (header.channels, header.frames) and rate == header.sample_rate
    source = FileSource(path, RATE)
    piece = source.read(0, min(source.num_samples, 5 * RATE))
    assert len(piece) == min(source.num_samples, 5 * RATE)
    return "read"


def train_on(path: str, folder: Path) -> str:
    """Make a batch of a damaged and an intact file: the damaged one is used, replaced, or rejected by name."""
    manifest = folder / "try.tsv"
    manifest.write_bytes(b"/\n" + os.fsencode(path) + b"\t16000\n" + os.fsencode(folder) + b"/wav_1.wav\t16000\n")
    dataset = FileAudioDataset(str(manifest), RATE, max_sample_size=RATE, pad=True)
    batches = dataset.batches(1, BatchLimits(10 * RATE))
    made = dataset.collate_plan(batches.plan(0, 1, 0))
    source = made["net_input"]["source"]
    assert tuple(source.shape) == (2, RATE) and bool(source.isfinite().all())
    replaced = [trouble for trouble in made["quarantined"] if trouble.replaced]
    assert made["id"].tolist().count(0) == (0 if replaced else 1)
    return "quarantined" if replaced else "trained on"


def one(path: Path, folder: Path, how: str, original: np.ndarray | None) -> str:
    if how == "train":
        return train_on(str(path), folder)
    try:
        return read_everyhow(str(path), original)
    except UnreadableAudio as error:
        raise ValueError(f"{path}: {error}") from error  # as all of its callers do


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw, tally = random.Random(arguments.seed), Tally("damaged audio files")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        originals = write_originals(folder)
        import fairseq.data.audio.streamed  # noqa: F401 - before the forks

        quarantine._PAUSES = (0.0,)
        for name, path in originals.items():
            outcome = attempt(lambda path=path: read_everyhow(str(path)), path.name)
            if outcome.kind != "right":
                tally.add(f"undamaged {name}", outcome._replace(kind="exception"))
        originals_read = {name: read_frames(str(path)) for name, path in originals.items() if name.startswith("flac")}
        for number in range(arguments.tries):
            name, damage = draw.choice(sorted(originals)), draw.choice(DAMAGES)
            data = bytearray(originals[name].read_bytes())
            damage(data, draw)
            path = folder / f"damaged{number}{originals[name].suffix}"
            path.write_bytes(data)
            how = "train" if number % 2 else "read"
            whole = originals_read.get(name)
            outcome = attempt(lambda path=path, how=how, whole=whole: one(path, folder, how, whole), path.name)
            tally.add(f"{number}: {name}, {damage.__name__}, {how}", outcome)
            if not outcome.is_allowed and (keep := os.environ.get("KEEP")):
                (Path(keep) / f"{name}_{damage.__name__}_{path.name}").write_bytes(data)
            path.unlink()
    sys.exit(not tally.report())


if __name__ == "__main__":
    main()
