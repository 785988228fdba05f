"""`fairseq-validate`, as fairseq's users type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from fairseq_cli import validate
from tests.small_speech import speech


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the manifest `valid` of three utterances and their letters."""
    folder = tmp_path_factory.mktemp("valid")
    lines, labels = [str(folder)], []
    for number, (seconds, words) in enumerate([(0.5, "A C T |"), (0.7, "C A B |"), (0.4, "B E |")]):
        soundfile.write(folder / f"{number}.wav", speech(seconds, number), 16000)
        lines.append(f"{number}.wav\t{round(seconds * 16000)}")
        labels.append(words)
    (folder / "valid.tsv").write_text("\n".join(lines) + "\n")
    (folder / "valid.ltr").write_text("\n".join(labels) + "\n")
    return folder


def validated(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, float]:
    assert validate.cli_main([*words, "--cpu", "--num-workers", "0"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])["valid"]


def test_fairseqs_command_line(capsys: pytest.CaptureFixture[str], checkpoint: Path, data: Path) -> None:
    words = (
        f"{data} --path {checkpoint} --valid-subset valid --task audio_finetuning --criterion ctc --max-tokens "
        "100000 --quiet"
    )
    found = validated(
        capsys, *words.split(), "--skip-invalid-size-inputs-valid-test", "--no-progress-bar", "--log-interval", "1"
    )
    assert found["nsentences"] == 3 and found["ntokens"] == 11 and found["loss"] > 0
    assert found == validated(capsys, *words.replace("--max-tokens 100000", "--max-sentences 3").split())


def test_settings_may_differ_from_the_checkpoints(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, data: Path
) -> None:
    words = [str(data), "--path", str(checkpoint), "--batch-size", "3"]
    as_saved = validated(capsys, *words)
    assert validated(capsys, *words, "--model-overrides", "{'normalize': True}")["loss"] != as_saved["loss"]
    assert validated(capsys, *words, "--labels", "ltr") == as_saved
    assert validate.cli_main([*words, "--model-overrides", "normalize"]) == 1
    assert "--model-overrides is normalize: it must be a Python dict" in capsys.readouterr().err


def test_a_pretrained_checkpoint_has_the_contrastive_loss(
    capsys: pytest.CaptureFixture[str], pretrained_checkpoint: Path, data: Path
) -> None:
    found = validated(capsys, str(data), "--path", str(pretrained_checkpoint), "--max-tokens", "100000")
    assert found["nsentences"] == 3 and found["ntokens"] > 0 and found["loss"] > 0


def test_a_missing_checkpoint_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert validate.cli_main(["--path", str(tmp_path / "nothing.pt")]) == 1
    assert capsys.readouterr().err.startswith("fairseq-validate: Model file not found: ")
