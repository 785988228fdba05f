"""Decoding: crops, channels, archives, sample rates."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fairseq.data.audio.audio_utils import (
    UnreadableAudio,
    audio_format,
    get_waveform,
    is_npy_data,
    is_sf_audio_data,
    parse_path,
    read_frames,
)
from fairseq.data.audio.streamed import CountedFile
from tests.unit.data.small_corpus import tell_tale, without_length

EXACT = {"rtol": 0, "atol": 0}


@pytest.fixture
def flac(tmp_path: Path) -> str:
    path = tmp_path / "a.flac"
    soundfile.write(path, tell_tale(3, 100_000), 16000, subtype="PCM_16")
    return str(path)


@pytest.mark.parametrize("suffix", [".flac", ".wav"])
@pytest.mark.parametrize("start, frames", [(0, 100_000), (0, 10), (4095, 4098), (99_990, 10), (33_333, 50_000)])
def test_a_crop_is_the_files_own_samples(tmp_path: Path, suffix: str, start: int, frames: int) -> None:
    path = tmp_path / f"a{suffix}"
    whole = tell_tale(3, 100_000)
    soundfile.write(path, whole, 16000, subtype="PCM_16")
    np.testing.assert_allclose(read_frames(str(path), start, frames, 16000), whole[start : start + frames], **EXACT)
    out = np.zeros(frames, dtype=np.float32)
    assert read_frames(str(path), start, frames, 16000, out=out) is out
    np.testing.assert_allclose(out, whole[start : start + frames], **EXACT)


def test_whole_files_and_headers(flac: str) -> None:
    assert len(read_frames(flac)) == 100_000
    assert audio_format(flac) == (16000, 100_000, 1)


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = str(tmp_path / "stereo.wav")
    left, right = tell_tale(1, 500), tell_tale(5, 500)
    soundfile.write(path, np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    out = np.zeros(300, dtype=np.float32)
    read_frames(path, 100, 300, 16000, out=out)
    np.testing.assert_allclose(out, ((left + right) / 2)[100:400], rtol=1e-6)


def test_files_that_end_early_or_are_no_audio(flac: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableAudio, match="ends after 100000 frames, but 100010 are needed"):
        read_frames(flac, 90_010, 10_000, 16000)
    with pytest.raises(UnreadableAudio, match="ends after"):
        read_frames(flac, 200_000, 10, 16000)
    (tmp_path / "b.flac").write_bytes(b"no audio at all")
    for name in ("b.flac", "missing.flac", "missing.bin"):
        with pytest.raises(UnreadableAudio):
            read_frames(str(tmp_path / name), 0, 10, 16000)
    cut = tmp_path / "cut.flac"
    cut.write_bytes(Path(flac).read_bytes()[:3000])
    with pytest.raises(UnreadableAudio):
        read_frames(str(cut), 50_000, 40_000, 16000)


def test_flac_of_no_stated_length_is_measured_and_read_to_its_end(
    flac: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an encoder that writes to a pipe leaves it."""
    streamed, archive, whole = str(without_length(Path(flac))), tmp_path / "streamed.zip", tell_tale(3, 100_000)
    archive.write_bytes(Path(streamed).read_bytes())
    assert soundfile.info(streamed).frames > 1 << 62
    for path in (streamed, f"{archive}:0:{archive.stat().st_size}"):
        assert audio_format(path) == (16000, 100_000, 1)
        for start, frames in [(0, 10), (99_990, 10), (33_333, 66_667), (0, -1)]:
            np.testing.assert_allclose(
                read_frames(path, start, frames, 16000), whole[start:][: frames if frames > 0 else None], **EXACT
            )
        with pytest.raises(UnreadableAudio, match="ends after 100000 frames, but 100010 are needed"):
            read_frames(path, 90_010, 10_000, 16000)
        with pytest.raises(UnreadableAudio, match="ends after 100000 frames, but 200010 are needed"):
            read_frames(path, 200_000, 10, 16000)
    monkeypatch.setattr(CountedFile, "_count", lambda self: pytest.fail("it is counted once only"))
    assert len(read_frames(streamed)) == 100_000


def test_what_does_not_open_is_said_to_be_that(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    for name, reason in (
        ("missing.wav", "^No such file"),
        ("folder.wav", "is a folder, not an"),
        (".", "is a folder, not an audio file"),
    ):
        with pytest.raises(UnreadableAudio, match=reason):
            audio_format(str(tmp_path / name))


def test_another_sample_rate_names_the_file_and_the_way_out(tmp_path: Path) -> None:
    path = str(tmp_path / "eight.wav")
    soundfile.write(path, tell_tale(1, 800), 8000)
    with pytest.raises(
        ValueError,
        match=r"eight\.wav has a sample rate of 8000 Hz, but task\.sample_rate is 16000 Hz.*task\.resample=true",
    ):
        read_frames(path, 0, 100, 16000)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_resampled_crop_is_the_crop_of_the_resampled_file(tmp_path: Path, rate: int) -> None:
    soxr = pytest.importorskip("soxr")
    seconds, path = 3, str(tmp_path / "other.wav")
    t = np.arange(seconds * rate) / rate
    audio = (0.4 * np.sin(2 * np.pi * (200 + 300 * t) * t)).astype(np.float32)
    soundfile.write(path, audio, rate, subtype="FLOAT")
    whole = soxr.resample(audio, rate, 16000)
    for start, frames in [(0, 16000), (12_345, 20_000), (32_000, 16_000)]:
        crop = read_frames(path, start, frames, 16000, resample=True)
        assert len(crop) == frames
        np.testing.assert_allclose(crop, whole[start : start + frames], atol=1e-3)
    assert len(read_frames(path, 0, -1, 16000, resample=True)) == seconds * 16000


def test_members_of_stored_zips(flac: str, tmp_path: Path) -> None:
    data, archive = Path(flac).read_bytes(), tmp_path / "audio.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as zipped:
        zipped.writestr("notes.txt", "hello")
        zipped.writestr("a.flac", data)
    offset = archive.read_bytes().index(data)
    path = f"{archive}:{offset}:{len(data)}"
    assert parse_path(path) == (str(archive), [offset, len(data)])
    np.testing.assert_allclose(read_frames(path, 40_000, 1000, 16000), tell_tale(3, 100_000)[40_000:41_000], **EXACT)
    with pytest.raises(UnreadableAudio, match="neither WAV nor FLAC"):
        read_frames(f"{archive}:0:20", 0, 10, 16000)
    with pytest.raises(UnreadableAudio, match="not found"):
        read_frames(f"{tmp_path}/gone.zip:0:20", 0, 10, 16000)


def test_paths() -> None:
    assert parse_path("/a/b:3:4.flac") == ("/a/b:3:4.flac", [])
    with pytest.raises(ValueError, match="archive.zip:offset:length"):
        parse_path("/a/b.zip:3")
    with pytest.raises(FileNotFoundError):
        parse_path("/a/b.zip:3:4")


def test_signatures() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(1))
    assert is_npy_data(buffer.getvalue()) and not is_sf_audio_data(buffer.getvalue())
    assert is_sf_audio_data(b"RIFF....") and is_sf_audio_data(b"fLaC") and is_sf_audio_data(b"OggS")
    assert not is_sf_audio_data(b"") and not is_npy_data(b"")


def test_get_waveform(flac: str) -> None:
    waveform, rate = get_waveform(flac, start=10, frames=20)
    assert (waveform.shape, rate) == ((1, 20), 16000)
    loud, _ = get_waveform(flac, normalization=False, always_2d=False)
    np.testing.assert_allclose(loud, tell_tale(3, 100_000) * 2**15)


def test_get_waveform_at_full_volume(tmp_path: Path) -> None:
    left, right = np.float32([0.1, -0.4, 0.2, 0.0]), np.float32([0.2, 0.4, 0.1, 0.0])
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    path = str(tmp_path / "two.wav")
    expected = np.stack([left, right]) / np.float32(0.4)
    # one gain for both channels
    np.testing.assert_allclose(get_waveform(path, mono=False, normalize_volume=True)[0], expected)
    np.testing.assert_allclose(
        get_waveform(path, normalize_volume=True)[0], expected.mean(axis=0, keepdims=True), atol=1e-7
    )
    np.testing.assert_allclose(get_waveform(path, mono=False, normalize_volume=True, start=2)[0], expected[:, 2:] * 2)
    loud, _ = get_waveform(path, normalization=False, always_2d=False, normalize_volume=True, frames=1)
    np.testing.assert_allclose(loud, [0.75 * 2**15])
    silence, _ = get_waveform(path, normalize_volume=True, start=3)
    assert silence.tolist() == [[0.0]]
    resampled, rate = get_waveform(path, mono=False, output_sample_rate=8000)
    assert (resampled.shape, rate) == ((2, 2), 8000)
