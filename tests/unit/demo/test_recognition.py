"""The demo's second half: run from beginning to end with a tiny corpus and few updates, and its report on made
results.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SIZES = ["--minutes", "0.4", "--valid-minutes", "0.2", "--labelled-minutes", "2", "--test-minutes", "0.3"]
SMALL = (
    "encoder_layers=1 encoder_embed_dim=64 encoder_ffn_embed_dim=16 "
    "conv_feature_layers='[(16,10,5)]+[(16,3,2)]*4+[(16,2,2)]*2' final_dim=8"
)


@pytest.fixture
def demo_report(demo_dir: Path) -> ModuleType:
    return importlib.import_module("report_recognition")


def results(folder: Path, cer: float, wer: float, texts: list[str]) -> Path:
    """What fairseq-infer would have written."""
    folder.mkdir()
    said = ["THE BOAT", "A RED HAT", "TWO BIRDS"]
    for name, lines in (("ref.word", said), ("hypo.word", texts)):
        (folder / name).write_text("".join(f"{line} (None-{number})\n" for number, line in enumerate(lines)))
    rates = {"cer": {"rate": cer}, "wer": {"rate": wer, "num_speakers": 2}}
    (folder / "results.json").write_text(json.dumps({"rates": rates, "audio_seconds": 90.0}))
    return folder


@pytest.mark.process
@pytest.mark.parametrize(
    ("cer", "wer", "missing"), [(49.9, 59.9, 0), (50.0, 59.9, 1), (49.9, 60.0, 1), (80.0, 90.0, 2)]
)
def test_report_holds_the_thresholds(
    demo_report: ModuleType, tmp_path: Path, cer: float, wer: float, missing: int
) -> None:
    greedy = results(tmp_path / "greedy", cer, 95.0, ["THE BOT", "", "TO BIRDS"])
    words = results(tmp_path / "words", 20.0, wer, ["THE BOAT", "A HAT", "TWO BIRDS"])
    found = demo_report.read_decoded(greedy, words)
    assert len(found.shortfalls()) == missing
    text = demo_report.describe(found)
    assert f"{cer:.2f} %" in text and f"{wer:.2f} %" in text and "2 voices" in text
    assert "TO BIRDS" in text and "A HAT" in text and "A RED HAT" in text
    assert ("error rates are too high" in text) == bool(missing)
    done = subprocess.run(
        [sys.executable, str(demo_report.__file__), str(greedy), str(words)], capture_output=True, text=True
    )
    assert done.returncode == (1 if missing else 0)


def test_report_says_what_is_left_out(demo_report: ModuleType, tmp_path: Path) -> None:
    found = demo_report.read_decoded(results(tmp_path / "greedy", 30.0, 95.0, ["", "", ""]), None)
    assert found.shortfalls() == [] and "skipped" in demo_report.describe(found)
    with pytest.raises(ValueError, match="has no results.json"):
        demo_report.read_decoded(tmp_path / "absent", None)
    (tmp_path / "greedy" / "hypo.word").write_text("no number\n")
    with pytest.raises(ValueError, match=r"hypo\.word, line 1"):
        demo_report.read_decoded(tmp_path / "greedy", None)


def test_decoding_without_its_libraries_is_greedy_only(
    demo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recognition = importlib.import_module("recognition")
    commands: list[list[str]] = []
    monkeypatch.setattr(recognition, "run", commands.append)
    monkeypatch.setitem(sys.modules, "kenlm", None)  # importing it fails
    (tmp_path / "checkpoint_best.pt").touch()
    decoded = recognition.decode(tmp_path / "labels", tmp_path)
    assert decoded.words is None and len(commands) == 1 and "--lm" not in commands[0]
    assert "Skipped: decoding" in capsys.readouterr().out


@pytest.mark.process
@pytest.mark.slow
def test_the_whole_demo_tiny_and_again(demo_dir: Path, tmp_path: Path) -> None:
    for package in ("espeakng_loader", "soxr", "kenlm", "flashlight.lib.text"):
        pytest.importorskip(package)
    environment = {**os.environ, "PYTHONPATH": str(demo_dir.parents[2])}

    def call(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(demo_dir / script), *arguments], capture_output=True, text=True, env=environment
        )

    made = call("make_corpus.py", str(tmp_path / "out" / "corpus"), *SIZES)
    assert made.returncode == 0, made.stderr
    tiny = ["optimization.max_update=2", "dataset.max_tokens=160000", "dataset.num_workers=0"]
    small = [f"model.{setting}" for setting in SMALL.replace("'", "").split()]
    options = ["--output", str(tmp_path / "out"), "--fine-tuning", " ".join(tiny)]
    first = call("run_demo.py", *options, "--", *tiny, *small)
    # two updates teach nothing: the demo says so, and ends as failed
    assert first.returncode == 1, first.stdout + first.stderr
    for part in (
        "=== 1/8",
        "=== 8/8",
        "Results after 2 updates",
        "The error rates are too high",
        "with words",
        "Time:",
    ):
        assert part in first.stdout
    place = tmp_path / "out" / "on_corpus"
    greedy, words = (
        json.loads((place / "seed-1-fine-tuned" / name / "results.json").read_text()) for name in ("greedy", "words")
    )
    assert greedy["decoder"]["kind"] == "greedy" and words["decoder"]["lm"].endswith("words.arpa")
    assert set((place / "labels" / "dict.ltr.txt").read_text().split()[::2]) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ|")

    again = call("run_demo.py", *options, "--", *tiny, *small)
    assert again.returncode == 1
    assert again.stdout.count(" already exists") == 5  # corpus, manifest, labels, both decodings
    assert "fairseq-infer" not in again.stdout.replace("`fairseq-infer ...", "") and "make_ngram" not in again.stdout
