"""Files whose headers say nothing, too much or too little, formats that cannot seek, and what is no audio at all."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fairseq.data.audio.audio_utils import (
    UnreadableAudio,
    audio_format,
    get_waveform,
    mix,
    parse_path,
    read_frames,
    read_samples,
)
from fairseq.data.audio.headers import VirtualFile
from fairseq.data.audio.quiet import silenced
from tests.unit.data.small_corpus import tell_tale, without_length_tag

RATE = 16000


def tone(samples: int, loud: float = 0.3) -> np.ndarray:
    noise = np.random.default_rng(samples).standard_normal(samples) * loud / 3
    return (loud * np.sin(np.arange(samples) * 0.05) + noise).astype(np.float32)


def crops_agree(path: str, whole: np.ndarray) -> bool:
    """Crops at some places are those of the whole; MP3 rounds differently after a seek."""
    places = [(0, 100), (1, 777), (len(whole) // 2, 1000), (len(whole) - 50, 50)]
    return all(
        np.allclose(read_frames(path, start, count, RATE), whole[start : start + count], atol=1e-5)
        for start, count in places
    )


@pytest.mark.parametrize(
    "suffix, container, subtype",
    [
        ("wav", "WAV", "GSM610"),
        ("aiff", "AIFF", "GSM610"),
        ("au", "AU", "G721_32"),
        ("au", "AU", "G723_24"),
        ("w", "WAV", "NMS_ADPCM_16"),
    ],
)
def test_formats_that_cannot_seek_are_decoded_up_to_the_place(
    tmp_path: Path, suffix: str, container: str, subtype: str
) -> None:
    path = str(tmp_path / f"a.{suffix}")
    soundfile.write(path, tone(32000), RATE, format=container, subtype=subtype)
    with soundfile.SoundFile(path) as file:
        assert not file.seekable()
        whole = file.read(33000, dtype="float32")
    length = audio_format(path).frames
    assert 32000 <= length == len(whole) < 32320  # whole blocks
    np.testing.assert_array_equal(read_frames(path), whole)
    assert crops_agree(path, whole)
    with pytest.raises(UnreadableAudio, match=f"ends after {length} frames"):
        read_frames(path, length - 1000, 1001, RATE)


@pytest.mark.parametrize("first", ["loud", "quiet"])
@pytest.mark.parametrize("artwork", [b"", b"ID3\x03\x00\x00\x00\x03\x00\x00" + bytes(3 << 14)])
def test_mp3_without_a_length_tag_is_counted(tmp_path: Path, first: str, artwork: bytes) -> None:
    """libsndfile estimates the length by the first block's bit rate: 119,736 or 962,496 frames for 320,000."""
    parts = [tone(160_000), tone(160_000, loud=0.001)]
    audio = np.concatenate(parts if first == "loud" else parts[::-1])
    soundfile.write(tmp_path / "tagged.mp3", audio, RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    path = without_length_tag(tmp_path / "tagged.mp3")
    path.write_bytes(artwork + path.read_bytes())
    assert abs(soundfile.info(path).frames - 320_000) > 50_000
    length = audio_format(str(path)).frames
    assert 320_000 <= length < 320_000 + 3 * 1152  # nothing says how much of the last block is padding
    whole = read_frames(str(path))
    assert len(whole) == length and np.isfinite(whole).all()
    powers = [float(np.square(half).mean()) for half in (whole[:150_000], whole[170_000:])]
    assert (powers[0] > 100 * powers[1]) == (first == "loud") and max(powers) > 0.01
    assert crops_agree(str(path), whole)
    assert read_samples(str(path), 0, 100, RATE).file_length is None
    with pytest.raises(UnreadableAudio, match=f"ends after {length} frames"):
        read_frames(str(path), length - 10, 20, RATE)


def test_a_crop_of_mp3_is_the_whole_files_from_its_first_sample_on(tmp_path: Path) -> None:
    """A block may keep its bits in those before: after a bare seek up to 363 samples were wrong here, by up to 0.3."""
    path = str(tmp_path / "a.mp3")
    soundfile.write(path, tone(100_000), RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    whole = read_frames(path)
    assert audio_format(path).frames == len(whole) == 100_000
    for start in (3000, 5000, 10_000, 20_000, 77_777):
        np.testing.assert_allclose(read_frames(path, start, 4000, RATE), whole[start : start + 4000], atol=1e-5)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "PCM_24"])
def test_wav_of_an_interrupted_recording_has_what_follows_its_header(tmp_path: Path, subtype: str) -> None:
    path, whole = tmp_path / "a.wav", tell_tale(3, 20_000)
    soundfile.write(path, whole, RATE, subtype=subtype)
    content = bytearray(path.read_bytes())
    place = content.index(b"data")
    content[4:8] = content[place + 4 : place + 8] = bytes(4)
    path.write_bytes(content)
    assert soundfile.info(path).frames == 0
    assert audio_format(str(path)) == (RATE, 20_000, 1)
    np.testing.assert_array_equal(read_frames(str(path)), whole)
    assert crops_agree(str(path), whole)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as zipped:
        zipped.writestr("a.wav", bytes(content))
    offset = archive.read_bytes().index(bytes(content))
    assert crops_agree(f"{archive}:{offset}:{len(content)}", whole)


def test_rf64_of_an_interrupted_recording(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.wav", tell_tale(3, 20_000)
    soundfile.write(path, whole, RATE, format="RF64", subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[20:44] = bytes(24)  # sizes and the count of frames
    path.write_bytes(content)
    assert soundfile.info(path).frames == 0
    np.testing.assert_array_equal(read_frames(str(path)), whole)


def test_au_of_no_stated_size(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.au", tell_tale(3, 20_000)
    soundfile.write(path, whole, RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[8:12] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_frames(str(path)), whole)


def test_wav_without_samples_stays_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(0), RATE)
    header = path.read_bytes()
    for rest in (b"", b"LIST" + struct.pack("<I", 6) + b"INFOab", b"note" + struct.pack("<I", 3) + b"abc\0"):
        path.write_bytes(header + rest)
        assert audio_format(str(path)).frames == 0 and len(read_frames(str(path))) == 0


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 96044\n", "Git LFS pointer.*git lfs pull"),
        (b"<html>404</html>", "web page"),
        (b"\xef\xbb\xbf\n <!DOCTYPE HTML><title>Log in</title>", "web page"),
        (b"\0\0\0\x20ftypisom" + bytes(500), "MP4 or M4A.*ffmpeg"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "WebM"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (bytes(1000), "zero bytes"),
        (b"just some text", "not recognised"),
    ],
)
@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a"])
def test_what_is_no_audio_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableAudio, match=reason):
        audio_format(str(tmp_path / name))


def test_pipes_and_devices_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (str(tmp_path / "pipe.wav"), "/dev/zero", "/dev/null"):
        with pytest.raises(UnreadableAudio, match="a pipe or a device"):
            read_frames(path, 0, 10)


def test_headers_that_promise_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tell_tale(3, 20_000), RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # 36 bits of STREAMINFO: 64 GiB of float32 and more
    content[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    for reading in (audio_format, read_frames, lambda name: read_frames(name, 0, 100)):
        with pytest.raises(UnreadableAudio, match="its header says 68,719,476,735 frames"):
            reading(str(path))
    with pytest.raises(ValueError, match=r"a\.flac cannot be decoded: its header says 68,719,476,735 frames"):
        get_waveform(path)
    with pytest.raises(FileNotFoundError, match=r"b\.flac: No such file"):
        get_waveform(tmp_path / "b.flac")
    # what its bytes might just hold
    content[21:26] = (content[21] & 0xF0 | 0).to_bytes(1, "big") + (20_000_000).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(UnreadableAudio, match="ends after|do not match"):
        read_frames(str(path))
    np.testing.assert_array_equal(read_frames(str(path), 100, 500, RATE), tell_tale(3, 20_000)[100:600])


@pytest.mark.parametrize("rate", [1, 999, 2_000_000_000])
def test_sample_rates_that_no_recording_has(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tell_tale(3, 2000), RATE)
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)
    with pytest.raises(UnreadableAudio, match=f"its header says {rate} Hz"):
        read_frames(str(path), 0, -1, RATE, resample=True)


@pytest.mark.parametrize(
    "value, reason", [(np.nan, "NaN or infinity"), (-np.inf, "NaN or infinity"), (1e30, "impossibly large")]
)
def test_samples_that_are_no_numbers(tmp_path: Path, value: float, reason: str) -> None:
    path, wave = str(tmp_path / "a.wav"), tell_tale(1, 20_000)
    wave[8000] = value
    soundfile.write(path, wave, RATE, subtype="FLOAT")
    for start, frames in ((0, -1), (7990, 20)):
        with pytest.raises(UnreadableAudio, match=f"{reason}.*0.50 s") as error:
            read_frames(path, start, frames, RATE)
        assert error.value.lasts
    np.testing.assert_array_equal(read_frames(path, 8001, 100, RATE), wave[8001:8101])


def test_channels_that_cancel_each_other(tmp_path: Path) -> None:
    path, wave = str(tmp_path / "a.wav"), tone(5000)
    soundfile.write(path, np.stack([wave, -wave], axis=1), RATE, subtype="FLOAT")
    samples = read_samples(path, 100, 1000, RATE, out=np.zeros(1000, dtype=np.float32))
    np.testing.assert_array_equal(samples.wave, wave[100:1100])
    assert "channels cancel each other" in str(samples.note)
    for other in (wave, 0 * wave, -0.9 * wave, tone(5001)[1:]):  # nothing odd: the mean, as ever
        mixed, note = mix(np.stack([wave, other], axis=1))
        np.testing.assert_allclose(mixed, (wave + other) / 2, atol=1e-7)
        assert note is None
    assert mix(np.zeros((10, 2), dtype=np.float32))[1] is None


def test_a_file_may_have_an_archives_name(tmp_path: Path) -> None:
    path = tmp_path / "rec:10:20"
    soundfile.write(path, tell_tale(3, 2000), RATE, format="WAV")
    assert parse_path(str(path)) == (str(path), [])
    np.testing.assert_array_equal(read_frames(str(path)), tell_tale(3, 2000))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    with pytest.raises(UnreadableAudio, match="No such file"):
        audio_format(path)
    soundfile.write(os.fsencode(path), tell_tale(3, 2000), RATE, format="WAV")
    assert audio_format(path) == (RATE, 2000, 1)
    np.testing.assert_array_equal(get_waveform(path)[0][0], tell_tale(3, 2000))


def test_lines_of_the_decoder_stay_off_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(50_000), RATE, format="MP3")
    content = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(1000, len(content), 300):
        content[place] ^= 0xFF
    path.write_bytes(content)
    soundfile.read(path)
    if not capfd.readouterr().err:
        pytest.skip("this libsndfile says nothing of damaged frames")
    for name in ("a.mp3", "b.wav"):
        path = path.rename(tmp_path / name)
        with contextlib.suppress(UnreadableAudio):
            read_frames(str(path))
        assert capfd.readouterr().err == ""
    with silenced():
        print("Python's own lines stay", file=sys.stderr)
    assert capfd.readouterr().err == "Python's own lines stay\n"


def test_a_virtual_file_never_raises() -> None:
    with open("/dev/null", "rb") as file:
        virtual = VirtualFile(file, 100, [(90, b"0123456789")])
        assert virtual.seek(-5) == 0 and virtual.seek(-8, 2) == 92
        buffer = bytearray(20)
        assert virtual.readinto(buffer) == 8 and bytes(buffer[:8]) == b"23456789" and virtual.tell() == 100
        virtual.seek(1 << 70)
        assert virtual.readinto(buffer) == 0
