"""What a worker makes of an utterance."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fairseq.corpora.pack import encode as module
from fairseq.corpora.pack.encode import Encoded, LeftOut, Settings, encode
from fairseq.corpora.pack.source import Item, Seconds, Wave
from fairseq.data.audio.audio_utils import UnreadableAudio, read_samples
from tests.unit.corpora.made_up import RATE, audio_bytes, noise, write_audio

FLAC = Settings()


def item(**values: object) -> Item:
    return Item(origin="a", key="a", **values)  # type: ignore[arg-type]


def encoded(settings: Settings = FLAC, **values: object) -> Encoded:
    result = encode(item(**values), settings)
    assert isinstance(result, Encoded), result
    return result


def reason(**values: object) -> str:
    result = encode(item(**values), FLAC)
    assert isinstance(result, LeftOut), result
    return result.reason


def samples(result: Encoded) -> np.ndarray:
    return soundfile.read(io.BytesIO(result.data), dtype="float32")[0]


@pytest.mark.parametrize("codec", ["flac", "wav"])
@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24), ("FLOAT", 16), ("PCM_U8", 16)])
def test_samples_come_back_bit_for_bit(tmp_path: Path, codec: str, subtype: str, bits: int) -> None:
    place = str(tmp_path / "a.wav")
    values = noise(3000, 1).astype(np.int32) << 16
    values += np.arange(3000, dtype=np.int32) << 8 if bits == 24 else 0
    values[:2] = np.iinfo(np.int32).min, np.iinfo(np.int32).max & ~0xFF_FFFF  # full scale
    soundfile.write(place, values / 2**31 if subtype == "FLOAT" else values, RATE, subtype=subtype)
    result = encoded(Settings(codec), place=place)
    assert np.array_equal(samples(result), read_samples(place).wave)
    assert (result.frames, result.sample_rate, result.extension) == (3000, RATE, codec)
    assert soundfile.info(io.BytesIO(result.data)).subtype == f"PCM_{bits}"


def test_float_samples_keep_24_bits_and_are_clipped(tmp_path: Path) -> None:
    place = str(tmp_path / "a.wav")
    wave = np.linspace(-0.9, 0.9, 1000, dtype=np.float32)
    wave[:3] = 1.5
    soundfile.write(place, wave, RATE, subtype="FLOAT")
    result = encoded(place=place)
    assert result.clipped == 3 and np.abs(samples(result)[3:] - wave[3:]).max() <= 2**-24
    assert np.abs(samples(encoded(Settings(bits=16), place=place))[3:] - wave[3:]).max() <= 2**-16


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(500, 1, channels=2), RATE)
    result = encoded(place=str(tmp_path / "a.wav"))
    assert np.abs(samples(result) - noise(500, 1, channels=2).mean(axis=1) / 32768).max() <= 2**-16


def test_bytes_and_decoded_audio(tmp_path: Path) -> None:
    whole = write_audio(tmp_path / "a.wav", 900, 1)
    assert np.array_equal(samples(encoded(data=audio_bytes(900, 1, "FLAC"))), whole)
    assert np.array_equal(samples(encoded(load=lambda: Wave(whole, RATE))), whole)


def test_files_in_memory_are_told_apart() -> None:
    """They have one path; a length that is not in the header is counted once for a path, size and time."""
    times = []
    for _ in range(3):
        with module._memory_file(b"x") as place:
            times.append(os.stat(place).st_mtime_ns)
    assert len(set(times)) == 3 and max(times) < 10**9, "numbers rather than the clock, which may stand still"


@pytest.mark.parametrize(
    ("values", "first", "last"),
    [
        ({"start": 100, "frames": 50}, 100, 150),
        ({"start": 15900}, 15900, 16000),
        ({"seconds": Seconds(0.25, 0.5)}, 4000, 12000),
        ({"seconds": Seconds(0.25)}, 4000, 16000),
        ({"seconds": Seconds(0.5, 0.51)}, 8000, 16000),  # rounded up
        ({"seconds": Seconds(0.0, 0.97)}, 0, 16000),  # rounded down
        ({"seconds": Seconds(0.0, 0.9)}, 0, 14400),
        ({"seconds": Seconds(0.1, 0.87)}, 1600, 15520),
    ],
)
def test_parts(tmp_path: Path, values: dict[str, object], first: int, last: int) -> None:
    whole = write_audio(tmp_path / "a.wav", 16000, 1)
    assert np.array_equal(samples(encoded(place=str(tmp_path / "a.wav"), **values)), whole[first:last])


def test_a_resampled_part_is_what_a_run_reads(tmp_path: Path) -> None:
    pytest.importorskip("soxr")
    place = str(tmp_path / "a.wav")
    write_audio(Path(place), 16000, 1, rate=48000)
    result = encoded(Settings(sample_rate=16000), place=place, start=6000, frames=6000)
    expected = read_samples(place, 2000, 2000, 16000, resample=True).wave
    assert (result.frames, result.sample_rate) == (2000, 16000)
    assert np.abs(samples(result) - expected).max() <= 2**-15


def test_copied_files_keep_their_bytes(tmp_path: Path) -> None:
    settings = Settings("copy")
    data = audio_bytes(900, 1)
    (tmp_path / "archive").write_bytes(b"x" * 7 + data + b"y")
    (tmp_path / "a.bin").write_bytes(data)
    for values in ({"data": data}, {"place": str(tmp_path / "a.bin")}, {"place": f"{tmp_path}/archive:7:{len(data)}"}):
        result = encoded(settings, **values)
        assert (result.data, result.extension, result.frames) == (data, "wav", 900)
    assert encoded(settings, data=data, frames=900).data == data
    assert encoded(settings, data=data, frames=800).extension == "flac", "a part is not a whole file"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"problem": "known"}, "known"),
        ({"data": b""}, "the file is empty"),
        ({"data": b"<html>" + b"x" * 100}, "it is a web page"),
        ({"data": audio_bytes(0, 1)}, "it contains no audio"),
        ({"data": audio_bytes(900, 1)[:600], "frames": 900}, "it ends after"),
        ({"load": lambda: Wave(np.zeros(9, dtype=np.float32), 700_000)}, "FLAC cannot hold it (700000 Hz)"),
        ({"data": audio_bytes(900, 1), "start": 900}, "it begins at the end of the file"),
        ({"data": audio_bytes(900, 1), "seconds": Seconds(0.0, 0.5)}, "it ends after 900 frames"),
        ({"place": "/gone/a.wav"}, "No such file"),
    ],
)
def test_what_is_left_out(values: dict[str, object], expected: str) -> None:
    assert expected in reason(**values) and "\n" not in reason(**values)


def test_short_failures_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(item: Item, settings: Settings) -> Encoded:
        calls.append(1)
        if len(calls) < 3:
            raise UnreadableAudio("Input/output error") from OSError(5, "Input/output error")
        return Encoded(b"x", "flac", 1, RATE)

    monkeypatch.setattr(module, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(module, "_encode", fail)
    assert encoded(place="a").data == b"x" and len(calls) == 3
