"""Transcription of files and arrays, whole and in windows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import fairseq
from fairseq import checkpoint_utils
from fairseq.conversion.convert import convert
from fairseq.decoding import GreedyDecoder
from fairseq.decoding.beam import BeamSettings, read_beam
from fairseq.inference.model import SpeechModel
from fairseq.inference.transcribe import read_windows, transcribe
from fairseq.inference.transcript import FrameTimes, Transcript
from fairseq.inference.windows import WindowSettings
from tests.small_speech import speech, write_checkpoint
from tests.unit.data.small_corpus import without_length

SHORT = WindowSettings(seconds=1.0, overlap=0.4)


@pytest.fixture
def wave() -> np.ndarray:
    return speech(2.5)


@pytest.mark.process
def test_importing_fairseq_stays_light_and_has_transcribe() -> None:
    code = "import sys, fairseq; assert 'fairseq.inference' not in sys.modules; print(fairseq.transcribe.__module__)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "fairseq.inference.transcribe"
    with pytest.raises(AttributeError, match="no attribute 'transcript'"):
        _ = fairseq.transcript  # type: ignore[attr-defined]


def test_path_array_tensor_and_checkpoint_path_agree(
    checkpoint: Path, model: SpeechModel, wave: np.ndarray, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    expected = GreedyDecoder(model.dictionary()).decode(model.log_probs([wave])[0])[0].text
    assert expected
    for audio in (
        tmp_path / "a.wav",
        str(tmp_path / "a.wav"),
        wave,
        torch.from_numpy(wave),
        (wave, 16000),
        np.stack([wave, wave]),
    ):
        found = transcribe(model, audio)
        assert isinstance(found, Transcript) and found.text == expected and found.error is None
    assert fairseq.transcribe(str(checkpoint), wave, precision="fp32").text == expected


def test_flac_written_to_a_pipe_is_read_as_any_other(model: SpeechModel, wave: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", wave, 16000)
    streamed = without_length(tmp_path / "a.flac")
    for windows in (SHORT, WindowSettings()):
        found, expected = transcribe(model, [streamed, tmp_path / "a.flac"], windows=windows)
        assert found.error is None and found.text == expected.text != "" and found.duration == expected.duration == 2.5


def test_words_have_times_in_order_and_confidence(model: SpeechModel, wave: np.ndarray) -> None:
    found = transcribe(model, wave)
    assert found.text == " ".join(word.text for word in found.words) and len(found.words) > 2
    assert found.duration == 2.5
    for word in found.words:
        assert 0 <= word.start < word.end <= 2.5 and 0 < word.confidence <= 1
    starts = [word.start for word in found.words]
    assert starts == sorted(starts)


def test_times_of_frames_are_those_of_base() -> None:
    times = FrameTimes([(1, 10, 5), *[(1, 3, 2)] * 4, (1, 2, 2), (1, 2, 2)], 16000, duration=1.0)
    assert (times.start(0), times.end(0)) == (0.0025, 0.0225)  # 199.5 samples and half a stride to each side
    assert times.end(100) == 1.0


def test_another_rate_and_two_channels_are_converted(model: SpeechModel, tmp_path: Path) -> None:
    soxr = pytest.importorskip("soxr")
    high = speech(1.5, rate=44100)
    low = soxr.resample(high, 44100, 16000)
    expected = model.log_probs([low])[0]
    soundfile.write(tmp_path / "stereo.flac", np.stack([high * 0.5, high * 1.5], axis=1), 44100, subtype="PCM_24")
    source = model.open(tmp_path / "stereo.flac")
    assert source.num_samples == 24000
    assert np.abs(model.log_probs([source.read(0, 24000)])[0] - expected).max() < 0.05
    assert transcribe(model, (np.stack([high, high]), 44100)).text == transcribe(model, low).text


def test_integers_are_scaled(model: SpeechModel, wave: np.ndarray) -> None:
    whole = (wave * 32768).astype(np.int16)
    assert transcribe(model, whole).text == transcribe(model, whole.astype(np.float32) / 32768).text


def test_tensors_of_any_precision_and_empty_ones(model: SpeechModel, wave: np.ndarray) -> None:
    half = torch.from_numpy(wave).bfloat16()
    assert transcribe(model, half).text == transcribe(model, half.float()).text != ""
    for empty in (np.zeros(0), np.zeros((0, 2)), np.zeros((2, 0))):
        found = transcribe(model, empty)
        assert found.error is None and found.text == "" and "the audio has 0 samples" in str(found.note)


def test_one_bad_file_does_not_stop_the_others(model: SpeechModel, wave: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    broken = wave.copy()
    broken[20000] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "cut.flac", wave, 16000)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:20000])
    good = transcribe(model, wave)
    files = [tmp_path / name for name in ("text.wav", "nan.wav", "cut.flac", "nowhere.wav")]
    found = transcribe(model, [*files, broken, wave[:399], wave * 0, wave])
    errors = [str(result.error) for result in found[:5]]
    assert "text.wav cannot be read" in errors[0] and "NaN or infinity), the first at 1.25 s" in errors[1]
    assert (
        "cut.flac cannot be decoded" in errors[2] and "nowhere.wav" in errors[3] and "the first at 1.25 s" in errors[4]
    )
    assert found[5].error is None and found[5].text == "" and "the audio has 399 samples" in str(found[5].note)
    assert found[6].error is None and "silence" in str(found[6].note)
    assert found[7].text == good.text and found[7].note is None


def test_a_pretrained_checkpoint_is_refused(pretrained_checkpoint: Path, wave: np.ndarray) -> None:
    with pytest.raises(ValueError, match="pre-trained only"):
        transcribe(pretrained_checkpoint, wave)
    with pytest.raises(ValueError, match="precision is 'fp8'"):
        SpeechModel.load(pretrained_checkpoint, precision="fp8")


@pytest.mark.parametrize("normalize", [False, True])
def test_kept_frames_equal_the_same_window_alone(
    tmp_path: Path, wave: np.ndarray, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = SpeechModel.load(write_checkpoint(tmp_path / "m.pt", normalize=normalize), precision="fp32")
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    windows = list(read_windows(own, own.open(tmp_path / "a.wav"), SHORT))
    assert len(windows) == 4
    monkeypatch.setattr(own.device, "gains_by_batches", True)
    together = own.log_probs([piece for _, piece in windows])
    kept = []
    for (window, piece), batched in zip(windows, together, strict=True):
        alone = own.log_probs([wave[window.start : window.start + window.num_samples]])[0]
        assert np.array_equal(own.log_probs([piece])[0], alone)
        assert np.abs(batched - alone).max() < 1e-5
        kept.append(alone[window.keep])
    assert sum(map(len, kept)) == own.num_frames(len(wave)) == 124
    expected = GreedyDecoder(own.dictionary()).decode(np.concatenate(kept))[0]
    assert transcribe(own, tmp_path / "a.wav", windows=SHORT).text == expected.text


def test_a_padded_batch_gives_what_single_files_give(model: SpeechModel, monkeypatch: pytest.MonkeyPatch) -> None:
    waves = [speech(seconds, seed) for seed, seconds in enumerate([1.0, 0.3, 0.77, 0.02])]
    monkeypatch.setattr(model.device, "gains_by_batches", True)
    for batched, wave in zip(model.log_probs(waves), waves, strict=True):
        alone = model.log_probs([wave])[0]
        assert batched.shape == alone.shape == (model.num_frames(len(wave)), 10)
        assert np.abs(batched - alone).max(initial=0) < 1e-5


def test_half_precision_is_near(checkpoint: Path, model: SpeechModel, wave: np.ndarray) -> None:
    half = SpeechModel.load(checkpoint, precision="bf16")
    difference = np.abs(half.log_probs([wave])[0] - model.log_probs([wave])[0])
    assert 0 < difference.max() < 1.0 and difference.mean() < 0.1


MEASURE = """
import resource, sys
from fairseq.inference.model import SpeechModel
from fairseq.inference.transcribe import transcribe
from fairseq.inference.windows import WindowSettings
import torch; torch.set_num_threads(1)
model = SpeechModel.load(sys.argv[1], precision="fp32")
found = transcribe(model, sys.argv[2], windows=WindowSettings(10, 2))
assert found.error is None, found.error
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, found.duration)
"""


@pytest.mark.process
@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(checkpoint: Path, tmp_path: Path) -> None:
    """20 minutes against 1: the whole as one float32 waveform would be 77 MB, its log-probabilities 2.4 MB."""
    minute = speech(60.0)
    peaks = []
    for name, minutes in (("short", 1), ("long", 20)):
        with soundfile.SoundFile(tmp_path / f"{name}.flac", "w", 16000, 1) as file:
            for _ in range(minutes):
                file.write(minute)
        command = [sys.executable, "-c", MEASURE, str(checkpoint), str(tmp_path / f"{name}.flac")]
        peak, duration = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert float(duration) == 60 * minutes
        peaks.append(int(peak))
    assert peaks[1] < peaks[0] + 30


def test_arranged_weights_give_what_the_model_gives(checkpoint: Path, model: SpeechModel, wave: np.ndarray) -> None:
    """What SpeechModel does to weights and lengths for speed changes nothing but rounding."""
    (plain,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
    plain.eval()
    with torch.no_grad():
        expected = plain.get_normalized_probs(
            plain(source=torch.from_numpy(wave)[None], padding_mask=None), log_probs=True
        )[:, 0]
    found = model.log_probs([wave])[0]
    assert found.shape[0] % 2 == 0 and np.abs(found - expected.numpy()).max() < 1e-5
    odd = wave[:-320]
    with torch.no_grad():
        expected = plain.get_normalized_probs(
            plain(source=torch.from_numpy(odd)[None], padding_mask=None), log_probs=True
        )[:, 0]
    assert len(expected) % 2 == 1 and np.abs(model.log_probs([odd])[0] - expected.numpy()).max() < 1e-5


def test_a_single_file_that_cannot_be_read_raises(model: SpeechModel, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.wav"):
        transcribe(model, tmp_path / "nowhere.wav")
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(ValueError, match="text.wav cannot be read"):
        transcribe(model, tmp_path / "text.wav")
    with pytest.raises(FileNotFoundError, match="the checkpoint .*nowhere.pt does not exist"):
        transcribe(tmp_path / "nowhere.pt", tmp_path / "text.wav")


def test_arguments_the_other_way_round_are_noticed(
    checkpoint: Path, model: SpeechModel, wave: np.ndarray, tmp_path: Path
) -> None:
    for swapped in (
        (tmp_path / "talk.flac", checkpoint),
        (wave, checkpoint),
        ("talk", model),
        (tmp_path / "talk.au", model),
    ):
        with pytest.raises(ValueError, match="checkpoint first, then the audio"):
            transcribe(*swapped)
    with pytest.raises(ValueError, match="as an array or tensor"):
        transcribe(model, wave[:100].tolist())
    with pytest.raises(ValueError, match=r"log_probs\(\[wave\]\)"):
        model.log_probs(wave)


def test_a_rate_may_stand_first_as_scipy_has_it(model: SpeechModel, wave: np.ndarray) -> None:
    assert transcribe(model, (16000, wave)).text == transcribe(model, (wave, 16000)).text


@pytest.mark.slow
def test_a_folder_of_transformers_is_a_model(
    checkpoint: Path, model: SpeechModel, wave: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    convert(str(checkpoint), str(tmp_path / "hf"), "hf")
    assert transcribe(tmp_path / "hf", wave, precision="fp32").text == transcribe(model, wave).text
    with pytest.raises(ValueError, match="is a folder without a config.json"):
        SpeechModel.load(tmp_path)


def test_lexicon_and_language_model_from_python(model: SpeechModel, wave: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    pytest.importorskip("flashlight.lib.text.decoder")
    said = transcribe(model, wave).text.split()
    (tmp_path / "lexicon.txt").write_text("".join(f"{word}\t{' '.join(word)} |\n" for word in sorted({*said, "CAB"})))
    found = transcribe(model, wave, lexicon=tmp_path / "lexicon.txt", settings=BeamSettings(word_score=0))
    decoder = read_beam(model.dictionary(), tmp_path / "lexicon.txt", None, BeamSettings(word_score=0))
    assert found.text == transcribe(model, wave, decoder).text and set(found.text.split()) <= {*said, "CAB"}
    with pytest.raises(FileNotFoundError, match="language model .*gone.arpa"):
        transcribe(model, wave, lm=tmp_path / "gone.arpa")


@pytest.mark.parametrize("shape", [(16000,), (1, 1, 16000)])
def test_a_model_says_which_shape_audio_has(model: SpeechModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be B x S .*wave.reshape\(1, -1\)"):
        model.encoder(torch.zeros(shape), mask=False, features_only=True)
