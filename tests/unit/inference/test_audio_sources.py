"""What counts as audio for inference: arrays of several types, pipes, and names that are not UTF-8."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from fairseq.inference.audio import ArraySource, FileSource, open_source
from fairseq.inference.formats import as_json, json_line
from fairseq.inference.transcript import Transcript

RATE = 16000


def speech(samples: int = 4000) -> np.ndarray:
    """Multiples of 1/128, which integers of 8 bits and more can hold."""
    return (np.round(60 * np.sin(np.arange(samples) * 0.05)) / 128).astype(np.float32)


@pytest.mark.parametrize(
    "kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32", "float64"]
)
def test_arrays_of_any_type_are_the_same_wave(kind: str) -> None:
    dtype, wave = np.dtype(kind), speech()
    array = wave.astype(dtype)
    if dtype.kind in "iu":
        half = 2 ** (dtype.itemsize * 8 - 1)
        array = (np.round(wave.astype(np.float64) * half) + (half if dtype.kind == "u" else 0)).astype(dtype)
    source = open_source(array, RATE)
    np.testing.assert_array_equal(source.read(0, 4000), wave)
    if kind in ("uint8", "int16", "float32"):
        np.testing.assert_array_equal(ArraySource(torch.from_numpy(array), RATE, RATE).read(0, 4000), wave)


@pytest.mark.parametrize("array", [np.zeros(10, dtype=np.int64), np.zeros(10, dtype=bool), np.zeros(10, dtype=complex)])
def test_types_that_cannot_be_scaled_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=f"has dtype {array.dtype}.*astype"):
        ArraySource(array, RATE, RATE)


def test_channels_that_cancel_each_other_are_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, wave = tmp_path / "a.wav", speech()
    both = np.stack([wave, -wave], axis=1)
    soundfile.write(path, both, RATE, subtype="PCM_16")
    source = FileSource(path, RATE)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(np.concatenate([source.read(0, 2000), source.read(2000, 2000)]), wave)
        np.testing.assert_array_equal(ArraySource(both.T, RATE, RATE).read(0, 4000), wave)
    assert [record.message.split(": ")[0] for record in caplog.records] == [str(path), "the waveform"]
    assert all("channels cancel each other" in record.message for record in caplog.records)


def test_a_pipe_is_read_once_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    soundfile.write(tmp_path / "a.wav", speech(), RATE)
    content, pipe = (tmp_path / "a.wav").read_bytes(), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    source = FileSource(pipe, RATE)
    writer.join()
    np.testing.assert_array_equal(
        np.concatenate([source.read(1000, 3000), source.read(0, 1000)]), np.roll(speech(), -1000)
    )
    del source
    assert list((tmp_path / "temporary").iterdir()) == []
    writer = threading.Thread(target=pipe.write_bytes, args=(b"<html>no</html>",))
    writer.start()
    with pytest.raises(ValueError, match="pipe cannot be read: it is a web page"):
        FileSource(pipe, RATE)
    writer.join()


def test_json_of_a_name_that_is_not_utf8_is_utf8_and_opens_the_file() -> None:
    name = os.fsdecode(b"au/caf\xe9 \xc3\xa9 \xf0\x9f\x8e\xa4.wav")
    line = as_json(Transcript(name, error="broken"))
    assert line.encode("utf-8").decode() == line and "é 🎤" in line
    assert os.fsencode(json.loads(line)["file"]) == b"au/caf\xe9 \xc3\xa9 \xf0\x9f\x8e\xa4.wav"
    assert json_line({"a": "é"}) == '{"a": "é"}\n'
