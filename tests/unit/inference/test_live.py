"""Transcription of a stream: the same words however it arrives, with a bounded delay."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from fairseq.decoding import GreedyDecoder, Tokens
from fairseq.frames import ConvSpec
from fairseq.inference.live import LiveSettings, LiveTranscriber, LiveWords, pcm
from fairseq.inference.model import SpeechModel
from fairseq_cli import transcribe
from tests.small_speech import write_checkpoint

TOKENS = Tokens.from_symbols(["<s>", "<pad>", "</s>", "<unk>", "|", "A", "B"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeechModel:
    return SpeechModel.load(write_checkpoint(tmp_path_factory.mktemp("live") / "model.pt"), precision="fp32")


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(1).normal(scale=0.1, size=int(seconds * 16_000)).astype(np.float32)


def words_of(model: SpeechModel, wave: np.ndarray, settings: LiveSettings, piece: int) -> list[str]:
    live = LiveTranscriber(model, settings)
    words = [word for start in range(0, len(wave), piece) for word in live.feed(wave[start : start + piece])]
    return words + live.finish()


def test_one_window_is_the_whole_recording(model: SpeechModel) -> None:
    wave = noise(2)
    whole = GreedyDecoder(model.dictionary()).decode(model.log_probs([wave])[0])[0]
    assert words_of(model, wave, LiveSettings(step=10), len(wave)) == whole.text.split()


def test_pieces_of_any_size_give_the_same_words(model: SpeechModel) -> None:
    wave, settings = noise(3), LiveSettings(step=0.4, left=0.8, right=0.2)
    first, second = (words_of(model, wave, settings, piece) for piece in (777, 30_000))
    assert first == second and first


def test_the_delay_and_the_memory_are_bounded(model: SpeechModel) -> None:
    live = LiveTranscriber(model, LiveSettings(step=0.5, left=1.0, right=0.3))
    for number in range(1, 31):
        live.feed(noise(0.1))
        heard = number * 0.1
        assert live._done * 0.02 >= heard - 0.9
        assert len(live._wave) <= 2.0 * 16_000


def test_words_end_at_delimiters_and_repeats_merge_across_steps() -> None:
    words = LiveWords(TOKENS, pause=9)
    assert words.feed(np.array([5, 5])) == [] and words.feed(np.array([5, 0, 5, 6])) == []
    assert words.feed(np.array([4, 4, 6])) == ["AAB"] and words.finish() == "B"


def test_a_pause_completes_a_word() -> None:
    """A speaker who stops after a word does not have to begin another one to see it."""
    words = LiveWords(TOKENS, pause=4)
    assert words.feed(np.array([5, 0, 0, 0, 6, 0, 0, 0])) == []
    assert words.feed(np.array([0])) == ["AB"]
    assert words.feed(np.array([0] * 20 + [4, 4, 0, 5, 4])) == ["A"] and words.finish() == ""


class Hour:
    """Stands for a model: each frame is the token that its first sample is, so an hour costs no computing."""

    sample_rate, conv_layers = 16_000, [ConvSpec(1, 400, 320)]

    def dictionary(self) -> Tokens:
        return TOKENS

    def log_probs(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        frames = (len(waves[0]) - 400) // 320 + 1
        return [np.eye(7, dtype=np.float32)[waves[0][: 320 * frames : 320].astype(int)]]


def minutes(count: int) -> Iterator[np.ndarray]:
    """A word in each second of half the minutes, silence in the others, in pieces of 0.5 s."""
    word = np.repeat(np.array([5, 6, 5, 4] + [0] * 46, dtype=np.float32), 320)
    for minute in range(count):
        for _ in range(60):
            yield from np.split(word if minute % 2 == 0 else 0 * word, 2)


def test_an_hour_takes_the_memory_of_two_minutes() -> None:
    live, peaks, found = LiveTranscriber(cast(SpeechModel, Hour()), LiveSettings()), [], 0
    tracemalloc.start()
    try:
        for number, piece in enumerate(minutes(60)):
            found += len(live.feed(piece))
            if number in (240, 7199):
                peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert found == 30 * 60
    assert peaks[1] <= peaks[0] + 20_000  # bytes; an hour of audio has 230 million


def test_the_command_reads_raw_audio(model: SpeechModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_checkpoint(tmp_path / "model.pt")
    raw = (noise(1) * 32768).astype("<i2")
    args = transcribe.get_parser().parse_args(["--path", str(path), "--stream", "--precision", "fp32"])
    transcribe.transcribe_stream(args, io.BytesIO(raw.tobytes()))
    whole = GreedyDecoder(model.dictionary()).decode(model.log_probs([raw.astype(np.float32) / 32768])[0])[0]
    assert capsys.readouterr().out.split() and whole.text
    with pytest.raises(ValueError, match="--stream cannot be used with --lm"):
        args.lm = "words.arpa"
        transcribe.transcribe_stream(args, io.BytesIO())


def test_odd_bytes_wait_for_their_other_half() -> None:
    class Slow(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return super().read(3)

    found = np.concatenate(list(pcm(Slow(np.array([1, 2, 3], dtype="<i2").tobytes()), 100)))
    assert (found * 32768).tolist() == [1, 2, 3]


@pytest.mark.parametrize("wrong", [{"step": 0.0}, {"left": -1.0}, {"right": float("nan")}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="of the stream is"):
        LiveSettings(**wrong)
