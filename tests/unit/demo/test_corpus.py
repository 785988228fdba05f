"""The demo's corpus: text from a closed vocabulary, and the same recordings at every making."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile


def make(demo_dir: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    sizes = ["--minutes", "0.7", "--valid-minutes", "0.1", "--labelled-minutes", "0.4", "--test-minutes", "0.1"]
    command = [sys.executable, str(demo_dir / "make_corpus.py"), str(output), *sizes, *options]
    return subprocess.run(command, capture_output=True, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_sentences_keep_to_a_closed_vocabulary(demo_dir: Path) -> None:
    sentences = importlib.import_module("sentences")
    vocabulary = set(sentences.vocabulary())
    assert len(vocabulary) <= 200
    rng = np.random.default_rng(0)
    spoken = {word for _ in range(3000) for word in sentences.make_sentence(rng)}
    assert spoken == vocabulary
    assert all(word.isalpha() and word.islower() for word in vocabulary)


@pytest.mark.process
def test_text_for_a_language_model_is_drawn_apart(demo_dir: Path) -> None:
    sentences = importlib.import_module("sentences")

    def printed(*options: str) -> list[str]:
        command = [sys.executable, str(demo_dir / "sentences.py"), "--count", "50", *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    text = printed()
    assert len(text) == 50 and text == printed() and text != printed("--seed", "3")
    assert {word.upper() for word in sentences.vocabulary()}.issuperset(word for line in text for word in line.split())


def test_no_voice_is_in_two_groups(demo_dir: Path) -> None:
    pytest.importorskip("soundfile")
    make_corpus = importlib.import_module("make_corpus")
    train, valid, test = make_corpus.draw_voices([40, 5, 10], np.random.default_rng(1))
    assert len({voice.name for voice in train + valid + test}) == 55
    assert make_corpus.draw_voices([40, 5], np.random.default_rng(1)) == [train, valid]
    with pytest.raises(ValueError, match="reduce the minutes"):
        make_corpus.draw_voices([1000, 5], np.random.default_rng(1))


def test_labelled_utterances_are_short(demo_dir: Path) -> None:
    """Mostly one or two neighbouring words of a sentence where CTC learns, whole sentences where it is tested."""
    make_corpus = importlib.import_module("make_corpus")
    rng = np.random.default_rng(1)
    drawn = [make_corpus.draw_phrase_or_sentence(rng) for _ in range(400)]
    lengths = [len(words) for words, _ in drawn]
    assert all(len(words) == len(pauses) for words, pauses in drawn)
    assert 0.65 < sum(length <= 2 for length in lengths) / 400 < 0.85 and {1, 2} < set(lengths)
    whole = [len(make_corpus.draw_sentence(rng)[0]) for _ in range(100)]
    assert min(whole) > 2


def test_recordings_have_loudness_changes_and_a_noise_floor(demo_dir: Path) -> None:
    make_corpus = importlib.import_module("make_corpus")
    silence_in_the_middle = np.ones(48000, np.float32)
    silence_in_the_middle[16000:32000] = 0
    recording = make_corpus.record(silence_in_the_middle, np.random.default_rng(3))
    assert recording[18000:30000].std() > 1e-5
    parts = [abs(part).mean() for part in np.split(recording[:16000], 10)]
    assert max(parts) / min(parts) > 1.2


@pytest.mark.process
def test_corpus_is_made_the_same_again_and_transcribed(demo_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("soxr")
    for name in ("first", "second"):
        result = make(demo_dir, tmp_path / name)
        assert result.returncode == 0, result.stderr
    first, second = contents(tmp_path / "first"), contents(tmp_path / "second")
    assert first == second
    make(demo_dir, tmp_path / "other", "--seed", "2")
    assert contents(tmp_path / "other") != first

    make(demo_dir, tmp_path / "longer", "--labelled-minutes", "0.6", "--test-minutes", "0.6")
    for_pretraining = {name: content for name, content in first.items() if not name.startswith("labelled/")}
    assert for_pretraining.items() <= contents(tmp_path / "longer").items()  # what is labelled changes nothing of it

    recordings = [name for name in first if name.endswith(".flac")]
    transcribed = {
        line.split()[0]: line.split()[1:]
        for name in first
        if name.endswith(".trans.txt")
        for line in first[name].decode().splitlines()
    }
    assert sorted(Path(name).stem for name in recordings) == sorted(transcribed)
    splits = ("train", "valid", "labelled/train", "labelled/valid", "labelled/test")
    speakers = {
        split: {name.removeprefix(split).split("/")[1] for name in recordings if name.startswith(f"{split}/")}
        for split in splits
    }
    assert all(speakers.values()) and sum(map(len, speakers.values())) < len(recordings)
    assert speakers["train"] == speakers["labelled/train"] and speakers["valid"] == speakers["labelled/valid"]
    assert not speakers["labelled/test"] & (speakers["train"] | speakers["valid"])
    vocabulary = {word.upper() for word in importlib.import_module("sentences").vocabulary()}
    assert all(words and vocabulary.issuperset(words) for words in transcribed.values())
    seconds = 0.0
    for name in recordings:
        info = soundfile.info(str(tmp_path / "first" / name))
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        seconds += info.duration
    assert seconds >= 1.4 * 60

    again = make(demo_dir, tmp_path / "first")
    assert again.returncode != 0 and "already exists" in again.stderr
