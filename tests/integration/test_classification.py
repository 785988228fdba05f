"""Classification runs in this process: one run that later tests share, what it leaves behind, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from fairseq import checkpoint_utils, tasks
from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.initialize import resolve_config
from fairseq.trainer import Trainer
from fairseq_cli import infer, train, validate
from tests.host_reads import HostReads
from tests.integration.finetuning_runs import REPOSITORY, load, rows

CONFIG = REPOSITORY / "examples/wav2vec/config/classification/classify.yaml"
SPEAKERS = ["ann", "bob", "ann", "bob", "ann", "bob", "bob", "bob"]


@pytest.fixture(scope="module")
def classes(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labelled corpus, with a speaker per utterance instead of letters."""
    folder = tmp_path_factory.mktemp("classes")
    for name in ("train.tsv", "dev_other.tsv"):
        shutil.copy(labelled / name, folder / name)
    (folder / "train.spk").write_text("\n".join(SPEAKERS) + "\n")
    (folder / "dev_other.spk").write_text("bob\nann\nbob\n")
    return folder


def config(data: Path, w2v_path: Path, folder: Path, **changes: Any) -> DictConfig:
    cfg = OmegaConf.load(CONFIG)
    overrides = {
        "task.data": str(data),
        "task.labels": "spk",
        "task.normalize": True,
        "model.w2v_path": str(w2v_path),
        "model.pooling": "attentive",
        "model.freeze_finetune_updates": 2,
        "criterion.class_weights": "balanced",
        "checkpoint.save_dir": str(folder / "run"),
        "common.cpu": True,
        "dataset.num_workers": 0,
        "dataset.valid_subset": "dev_other",
        "dataset.max_tokens": 240000,
        "dataset.required_batch_size_multiple": 1,
        "optimization.max_update": 4,
        **changes,
    }
    for key, value in overrides.items():
        OmegaConf.update(cfg, key, value, force_add=True, merge=False)
    return resolve_config(cfg)


@pytest.fixture(scope="module")
def trained(
    classes: Path, pretrained_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """The last checkpoint of a run, and its validations."""
    folder = tmp_path_factory.mktemp("classification")
    train.main(config(classes, pretrained_files["vox"], folder))
    return folder / "run" / "checkpoint_last.pt", rows(folder, "dev_other")


def test_a_run_keeps_what_the_model_needs(trained: tuple[Path, list[dict[str, Any]]]) -> None:
    path, validations = trained
    state = torch.load(path, weights_only=True)
    assert state["task_state"]["target_symbols"]["symbols"] == ["ann", "bob"]
    assert state["task_state"]["target_symbols"]["count"] == [3, 5]  # for class weights
    assert {"pooling_layer.linear.weight", "pooling_layer.projection.weight"} <= state["model"].keys()
    assert all(0 <= validations[-1][name] <= 1 for name in ("accuracy", "f1", "eer"))
    assert validations[-1]["nsentences"] == 3
    best = torch.load(path.with_name("checkpoint_best.pt"), weights_only=True)
    assert best["extra_state"]["best"] == max(row["accuracy"] for row in validations)


def test_frozen_at_first_then_not(classes: Path, pretrained_files: dict[str, Path], tmp_path: Path) -> None:
    name = "encoder.layers.0.fc1.weight"
    before = torch.load(pretrained_files["vox"], weights_only=True)["model"][name]
    train.main(config(classes, pretrained_files["vox"], tmp_path, **{"optimization.max_update": 2}))
    assert torch.equal(load(tmp_path)["model"][f"w2v_encoder.w2v_model.{name}"], before)
    train.main(config(classes, pretrained_files["vox"], tmp_path, **{"optimization.max_update": 3}))
    assert not torch.equal(load(tmp_path)["model"][f"w2v_encoder.w2v_model.{name}"], before)


def test_an_update_reads_nothing(classes: Path, pretrained_files: dict[str, Path], tmp_path: Path) -> None:
    changes = {"optimization.max_update": 9, "model.freeze_finetune_updates": 0, "dataset.max_tokens": 48000}
    cfg = config(classes, pretrained_files["vox"], tmp_path, **changes, **{"task.max_sample_size": 48000})
    task = tasks.setup_task(cfg.task)
    trainer = Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
    batches = trainer.get_train_iterator(1).next_epoch_itr()
    trainer.train_step(next(batches))
    second = next(batches)
    with HostReads() as reads:
        trainer.train_step(second)
    assert reads.operators > 200 and reads.found == []


def test_infer_writes_scores(
    trained: tuple[Path, list[dict[str, Any]]], classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As validation counts, with long audio cut into windows or not, and without labels."""
    path, validations = trained
    arguments = [str(classes), "--path", str(path), "--gen-subset", "dev_other", "--precision", "fp32"]
    results = ["--results-path", str(tmp_path / "results"), "--bootstrap-draws", "50"]
    pattern = ["--speaker-pattern", r"(\d)\.flac"]
    assert infer.cli_main([*arguments, *results, *pattern]) == 0
    result = json.loads(capsys.readouterr().out)
    scores = result["scores"]
    for name in ("accuracy", "f1"):
        assert scores[name]["value"] == pytest.approx(100 * validations[-1][name], abs=0.01)
        low, high = scores[name]["by_speaker"]
        assert low <= scores[name]["value"] <= high and scores[name]["num_speakers"] == 3
    lines = [json.loads(line) for line in (tmp_path / "results" / "scores.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == ["bob", "ann", "bob"]
    assert all(sum(line["scores"].values()) == pytest.approx(1, abs=1e-5) for line in lines)
    assert all(line["scores"][line["prediction"]] == max(line["scores"].values()) for line in lines)
    table = [line.split("\t") for line in (tmp_path / "results" / "scores.tsv").read_text().splitlines()]
    assert table[0] == ["id", "label", "prediction", "ann", "bob"]
    assert [float(row[3]) for row in table[1:]] == [line["scores"]["ann"] for line in lines]
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    assert type(model).__name__ == "Wav2VecClassification"
    assert infer.cli_main([*arguments, "--labels", "none"]) == 0
    assert "scores" not in json.loads(capsys.readouterr().out)
    assert infer.cli_main([*arguments, "--lexicon", "x"]) == 1 and "is a classifier" in capsys.readouterr().err
    parsed = validate.get_parser().parse_args(
        [str(classes), "--path", str(path), "--valid-subset", "dev_other", "--cpu", "--num-workers", "0"]
    )
    assert validate.main(parsed)["dev_other"]["accuracy"] == validations[-1]["accuracy"]


@pytest.mark.parametrize(
    "name, text, changes, told",
    [
        ("train.spk", "ann\n" * 8, {}, "only the label 'ann'"),
        ("train.spk", "ann\nbob\n\n" + "bob\n" * 5, {}, "1 of 8 lines have no label: 3"),
        ("dev_other.spk", "bob\neve\nbob\n", {}, "'eve' (line 3"),
        ("t.csv", "path,spk\n00,ann\n", {"task.label_table": "t.csv"}, "no label for 7 of 8"),
        ("x", "", {"task.labels": None}, "task.labels is not set"),
        ("x", "", {"task.labels": "gone"}, "train.gone does not exist"),
        ("x", "", {"task.label_pattern": "spk"}, "has no group"),
        ("x", "", {"task._name": "audio_finetuning"}, "do not go together"),
        ("x", "", {"checkpoint.best_checkpoint_metric": "acuracy"}, "Did you mean 'accuracy'"),
        ("x", "", {"model.pooling": "max"}, "model.pooling"),
    ],
)
def test_bad_input_is_named_before_training(
    name: str,
    text: str,
    changes: dict[str, Any],
    told: str,
    classes: Path,
    pretrained_files: dict[str, Path],
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    shutil.copytree(classes, data)
    (data / name).write_text(text)
    if "task.label_table" in changes:
        changes = {"task.label_table": str(data / name)}
    with pytest.raises(ConfigError) as error:
        train.main(config(data, pretrained_files["vox"], tmp_path, **changes))
    assert told in str(error.value)
    assert not (tmp_path / "run" / "checkpoint_last.pt").exists()
