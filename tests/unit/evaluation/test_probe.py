"""fairseq-probe: small CTC models on frozen features, the speech it is trained on, and the command's table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from fairseq.evaluation.probe.labelled import Labelled, Part, read_labelled, spelled
from fairseq.evaluation.probe.reader import CONVOLUTIONS, LINEAR, Form, train_reader
from fairseq.scoring.wer import best_path, unit_errors
from fairseq_cli import probe as command
from tests.small_speech import speech, write_checkpoint


def spoken(count: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Features that say their unit: four noisy frames each, in a direction of its own."""
    rng = np.random.default_rng(seed)
    units = [rng.integers(1, 5, size=rng.integers(3, 7)) for _ in range(count)]
    rows = [np.repeat(np.eye(5)[labels], 4, axis=0) * 3 + 7 for labels in units]
    return (
        [torch.from_numpy(row + 0.3 * rng.standard_normal(row.shape)).half() for row in rows],
        [torch.from_numpy(labels) for labels in units],
    )


@pytest.mark.parametrize("form", [LINEAR, CONVOLUTIONS])
def test_a_reader_reads_what_the_features_say_and_leaves_random_numbers_alone(form: Form) -> None:
    features, units = spoken(60, seed=1)
    before = torch.random.get_rng_state()
    reader, again = (train_reader(features, units, 5, form, seed=3) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one, other) for one, other in zip(reader.weights, again.weights, strict=True))
    unseen, said = spoken(10, seed=2)
    heard = [best_path(reader.log_probs(row).argmax(axis=1), 0) for row in unseen]
    # repeated units need a blank between them, which these frames do not have
    assert unit_errors([row.tolist() for row in said], heard).rate() < 30
    noise = [torch.randn(row.shape, generator=torch.Generator().manual_seed(1)).half() for row in features]
    deaf = train_reader(noise, units, 5, form, seed=3)
    assert reader.loss(unseen, said) < 0.7 * deaf.loss(unseen, said)


def test_utterances_read_alike_alone_and_in_a_batch() -> None:
    features, units = spoken(40, seed=1)
    reader = train_reader(features, units, 5, CONVOLUTIONS, seed=3)
    alone = sum(reader.loss([row], [said]) * len(said) for row, said in zip(features, units, strict=True))
    assert reader.loss(features, units) == pytest.approx(alone / sum(map(len, units)), rel=1e-4)


def test_a_constant_channel_and_an_utterance_without_labels_do_no_harm() -> None:
    features, units = spoken(20, seed=1)
    still = [torch.cat([row, torch.ones(len(row), 1).half()], dim=1) for row in features]
    none = torch.zeros(0, dtype=torch.int64)
    reader = train_reader([*still, still[0]], [*units, none], 5, Form(hidden=0, passes=2, rate=0.02), seed=1)
    assert np.isfinite(reader.log_probs(still[0])).all()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten utterances, of two speakers, in train; four in valid."""
    root = tmp_path_factory.mktemp("probe")
    for split, count in (("train", 10), ("valid", 4)):
        lines, labels = [str(root)], []
        for number in range(count):
            name = f"{split}-{100 + number % 2}-7-{number}.flac"
            soundfile.write(root / name, speech(0.8, seed=number), 16000)
            lines.append(f"{name}\t12800")
            labels.append("A B | C |" if number % 2 else "C A T |")
        (root / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        (root / f"{split}.ltr").write_text("\n".join(labels) + "\n")
        words = [line.replace(" ", "").replace("|", " ").strip() for line in labels]
        (root / f"{split}.wrd").write_text("\n".join(words) + "\n")
    return root


def names(part: Part) -> set[str]:
    return {str(audio) for audio in part.audios}


def test_words_are_spelled_like_letters(corpus: Path) -> None:
    letters, words = (read_labelled(str(corpus), labels) for labels in ("ltr", "wrd"))
    assert spelled("AN  OX") == "A N | O X |"
    assert letters.tokens == words.tokens and letters.tokens.symbols == ("<blank>", "A", "B", "C", "T", "|")
    for one, other in zip(letters.training.units, words.training.units, strict=True):
        assert torch.equal(one, other)
    assert letters.held_out.references == words.held_out.references == ["CAT", "AB C", "CAT", "AB C"]


def test_utterances_are_drawn_by_seed_and_never_shared(corpus: Path, tmp_path: Path) -> None:
    def read(seed: int, minutes: float = 10) -> Labelled:
        return read_labelled(str(corpus), "ltr", valid_subset=None, minutes=minutes, seed=seed)

    assert len(read(1).training) == 10 and len(read(1).held_out) == 4
    few = read(1, 0.1)  # 6 s to train on: 7 utterances; 3 s to test on: 3
    assert len(few.training) == 7 and few.training.seconds == pytest.approx(5.6) and len(few.held_out) == 3
    assert names(read(2, 0.1).training) != names(few.training)
    for name in ("train.tsv", "train.ltr"):
        (tmp_path / name).write_text((corpus / name).read_text())
    alone = read_labelled(str(tmp_path), "ltr")
    assert len(alone.training) == 8 and len(alone.held_out) == 2
    assert not names(alone.training) & names(alone.held_out)


def test_missing_labels_are_an_error_that_names_the_file(corpus: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.phn"):
        read_labelled(str(corpus), "phn")


def test_the_command_compares_checkpoints(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(write_checkpoint(tmp_path / f"{n}.pt", fine_tuned=False, seed=n)) for n in (1, 2)]
    assert command.cli_main([*paths, "--data", str(corpus), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["checkpoint"] for row in rows] == paths and rows[0]["num_updates"] == 7
    for row in rows:
        assert list(row["layers"]) == ["extractor", "0", "1"]
        assert row["layer"] == min(row["layers"], key=row["layers"].get)
        low, high = row["cer"]["by_utterance"]
        assert low <= row["cer"]["rate"] <= high and row["cer"]["total"] == 14
    assert command.cli_main([paths[0], "--data", str(corpus)]) == 0
    header, line, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["checkpoint", "updates", "layer"]
    assert f"{rows[0]['cer']['rate']:.2f} %" in line  # the same again


def test_mistakes_are_told_before_a_model_is_loaded(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.cli_main(["none.pt", "--data", str(corpus), "--minutes", "0"]) == 1
    assert "--minutes is 0" in capsys.readouterr().err
    assert command.cli_main(["none.pt", "--data", str(corpus)]) == 1
    assert "none.pt does not exist" in capsys.readouterr().err
