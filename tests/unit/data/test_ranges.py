"""Members of uncompressed archives, read by byte range."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fairseq.data.audio.audio_utils import (
    UnreadableAudio,
    audio_format,
    get_waveform,
    open_audio,
    read_frames,
    read_samples,
)
from fairseq.data.storage import ranges
from tests.unit.data.small_corpus import tell_tale

RATE = 16_000
WAVE = tell_tale(3, 40_000)


def packed(tmp_path: Path, suffixes: list[str]) -> tuple[Path, list[str]]:
    """Write a file per suffix and a tar of all; return the tar and the members' places."""
    archive = tmp_path / "shard.tar"
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, suffix in enumerate(suffixes):
            file = tmp_path / f"{number}{suffix}"
            soundfile.write(file, WAVE, RATE)
            tar.add(file, f"k{number}{suffix}")
            (tmp_path / "note").write_text("{}")
            tar.add(tmp_path / "note", f"k{number}.json")
    with tarfile.open(archive) as tar:
        members = [m for m in tar.getmembers() if not m.name.endswith(".json")]
    return archive, [f"{archive}:{m.offset_data}:{m.size}" for m in members]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("suffix", [".flac", ".wav", ".ogg", ".mp3", ".aiff", ".au", ".caf", ".w64"])
def test_members_equal_files(tmp_path: Path, suffix: str, at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_AT_ONCE", ranges._AT_ONCE if at_once else 0)
    _, (place,) = packed(tmp_path, [suffix])
    file = str(tmp_path / f"0{suffix}")
    assert audio_format(place) == audio_format(file)
    for start, frames in [(0, -1), (0, 100), (12_345, 20_000), (39_000, 500)]:
        member, plain = read_samples(place, start, frames), read_samples(file, start, frames)
        np.testing.assert_array_equal(member.wave, plain.wave)
        assert member[1:] == plain[1:]
    np.testing.assert_array_equal(get_waveform(place)[0], get_waveform(file)[0])


def test_a_shard_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, places = packed(tmp_path, [".flac"] * 3)
    opened: list[str] = []
    real_open = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: opened.append(path) or real_open(path, flags))
    for place in places * 2:
        assert len(read_frames(place)) == len(WAVE)
    assert opened == [str(archive)]


def test_few_shards_stay_open(tmp_path: Path) -> None:
    archive, (place,) = packed(tmp_path, [".flac"])
    _, range_ = place.split(":", 1)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(ranges._KEPT_OPEN + 20):
        os.link(archive, tmp_path / f"{number}.tar")
        read_frames(f"{tmp_path}/{number}.tar:{range_}", 0, 10)
    assert len(os.listdir("/proc/self/fd")) <= before + ranges._KEPT_OPEN


def test_a_replaced_shard_is_opened_again(tmp_path: Path) -> None:
    archive, (place,) = packed(tmp_path, [".wav"])
    before = read_frames(place)
    content = bytearray(archive.read_bytes())
    content[1200:1300] = bytes(100)
    (tmp_path / "new").write_bytes(content)
    os.replace(tmp_path / "new", archive)
    assert (read_frames(place) != before).any()


def test_wrong_ranges(tmp_path: Path) -> None:
    archive, (place,) = packed(tmp_path, [".flac"])
    size = archive.stat().st_size
    with pytest.raises(UnreadableAudio, match=f"bytes 512 to {size + 1:,}, but the archive has only {size:,}") as error:
        audio_format(f"{archive}:512:{size + 1 - 512}")
    assert error.value.lasts
    with pytest.raises(UnreadableAudio, match="bytes 0 to 300 of the archive are neither WAV nor FLAC"):
        audio_format(f"{archive}:0:300")
    with pytest.raises(UnreadableAudio, match="the file is empty"):
        audio_format(f"{archive}:512:0")
    offset, length = map(int, place.rsplit(":", 2)[1:])
    with pytest.raises(UnreadableAudio):
        read_frames(f"{archive}:{offset}:{length // 2}")  # nothing after the range is read
    with pytest.raises(UnreadableAudio, match="not a regular file"):
        audio_format(f"{tmp_path}:0:10")


def test_members_of_other_kinds_are_described(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(bytes(100) + b"\0\0\0\x18ftypM4A " + bytes(100))
    with pytest.raises(UnreadableAudio, match="bytes 100 to 200 of the archive.*MP4 or M4A"):
        audio_format(f"{file}:100:100")


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memory files")
def test_memory_files_are_used_again(tmp_path: Path) -> None:
    """A short member after a long one has nothing of it, also while others are open, and after a fork."""
    _, (flac, wav) = packed(tmp_path, [".flac", ".wav"])
    expected, plain = read_frames(flac), read_frames(wav)
    with open_audio(flac) as one, open_audio(wav) as other:
        np.testing.assert_array_equal(one.read(40_000, dtype="float32"), expected)
        np.testing.assert_array_equal(other.read(40_000, dtype="float32"), plain)
    before = len(os.listdir("/proc/self/fd"))
    for place in (wav, flac, wav, flac):
        np.testing.assert_array_equal(read_frames(place), plain if place == wav else expected)
    with pytest.raises(UnreadableAudio):
        audio_format(flac.rpartition(":")[0] + ":30")
    assert len(os.listdir("/proc/self/fd")) == before and 0 < len(ranges._free) <= 4
    child = os.fork()
    if child == 0:
        os._exit(len(ranges._free))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_without_memory_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without them, and one without `sendfile` between files."""
    _, (place,) = packed(tmp_path, [".flac"])
    expected = read_frames(place)

    def fails(*arguments: object) -> int:
        raise OSError(22, "Invalid argument")

    with monkeypatch.context() as patch:
        patch.setattr(os, "sendfile", fails)
        np.testing.assert_array_equal(read_frames(place), expected)
    monkeypatch.setattr(ranges, "_free", [])
    monkeypatch.setattr(os, "memfd_create", fails)
    np.testing.assert_array_equal(read_frames(place), expected)
