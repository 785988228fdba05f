"""fairseq-probe without labels: what codes share with codes in noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fairseq.evaluation.probe.unlabelled import compare, in_noise, mutual_information
from fairseq_cli import probe as command
from tests.small_speech import speech, write_checkpoint


def test_information_is_that_of_the_codes_and_0_for_codes_that_noise_decides() -> None:
    rng = np.random.default_rng(1)
    codes, others = rng.integers(0, 8, (2, 4000))
    assert mutual_information(codes, codes) == pytest.approx(3, abs=0.01)
    assert mutual_information(codes, (codes + 3) % 8) == pytest.approx(3, abs=0.01)  # other names
    # without the correction, 0.009
    assert mutual_information(codes, others) < 0.003
    assert mutual_information(np.zeros(100, np.int64), codes[:100]) == 0
    half = np.where(rng.random(4000) < 0.5, codes, others)
    assert 0.5 < mutual_information(codes, half) < 2


def test_groups_are_scored_one_by_one() -> None:
    codes = np.random.default_rng(1).integers(0, 4, (4000, 2))
    noisy = codes.copy()
    noisy[:, 1] = 0
    score = compare(codes, noisy)
    assert score.information == pytest.approx(1, abs=0.01) and score.perplexity == pytest.approx(4, abs=0.01)
    assert score.frames == 4000 and score.kept == pytest.approx(62.5, abs=2)


def test_noise_is_10_db_below_the_speech() -> None:
    wave = speech(1.0, seed=1).astype(np.float32)
    noise = in_noise(wave, np.random.default_rng(1)) - wave
    assert 10 * np.log10(np.mean(wave**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.2)
    assert noise.dtype == np.float32 and not in_noise(np.zeros(5, np.float32), np.random.default_rng(1)).any()


@pytest.fixture()
def unlabelled(tmp_path: Path) -> Path:
    names = [f"{number}.flac" for number in range(6)]
    for number, name in enumerate(names):
        soundfile.write(tmp_path / name, speech(1.0 if number else 0.01, seed=number), 16000)
    lines = [f"{name}\t{soundfile.info(tmp_path / name).frames}" for name in names]
    (tmp_path / "train.tsv").write_text("\n".join([str(tmp_path), *lines]) + "\n")
    return tmp_path


def test_the_command_scores_checkpoints_without_labels(unlabelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(write_checkpoint(unlabelled / f"{n}.pt", fine_tuned=False, seed=n)) for n in (1, 2)]
    assert command.cli_main([*paths, "--data", str(unlabelled), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["checkpoint"] for row in rows] == paths and rows[0]["num_updates"] == 7
    assert all(row["information"] >= 0 and row["frames"] == 5 * 49 for row in rows)
    few = [paths[0], "--data", str(unlabelled), "--minutes", "0.03"]
    assert command.cli_main(few) == 0
    table = capsys.readouterr().out.splitlines()
    assert "code information" in table[0] and "bits" in table[1] and "processor time" in table[-1]


def test_what_cannot_be_scored_is_an_error(unlabelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = str(write_checkpoint(unlabelled / "tuned.pt"))
    assert command.cli_main([tuned, "--data", str(unlabelled)]) == 1
    assert "needs a quantizer" in capsys.readouterr().err
    assert command.cli_main([tuned, "--data", str(unlabelled), "--valid-subset", "valid"]) == 1
    assert "train.ltr does not exist" in capsys.readouterr().err
