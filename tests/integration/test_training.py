"""Runs through the command, from the first update to the last checkpoint."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.integration.conftest import Workplace, write_audio, write_manifest
from tests.warm import Warm


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def assert_equal_runs(one: Path, other: Path) -> None:
    """Weights, optimizer state and place in the data, bit for bit."""
    first, second = load(one), load(other)
    assert first["optimizer_history"][-1]["num_updates"] == second["optimizer_history"][-1]["num_updates"]
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    states = first["last_optimizer_state"]["state"], second["last_optimizer_state"]["state"]
    assert states[0].keys() == states[1].keys()
    for index, entry in states[0].items():
        for key, value in entry.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][index][key])), (index, key)
    assert first["extra_state"]["train_iterator"] == second["extra_state"]["train_iterator"]


class Finished(NamedTuple):
    """The small config's run of 12 updates: where it is, and what it printed."""

    workplace: Workplace
    output: str

    def copied_to(self, other: Workplace) -> None:
        shutil.copytree(self.workplace.folder / "run", other.folder / "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, corpus: Path, warm: Warm) -> Finished:
    """One run that several tests read, or resume from a copy."""
    workplace = Workplace(tmp_path_factory.mktemp("finished"), corpus, warm)
    return Finished(workplace, workplace.run())


def test_a_run_leaves_what_fairseq_users_expect(finished: Finished) -> None:
    workplace, output = finished
    checkpoint = load(workplace.folder / "run" / "checkpoint_last.pt")
    keys = {
        "args",
        "cfg",
        "model",
        "criterion",
        "optimizer_history",
        "task_state",
        "extra_state",
        "last_optimizer_state",
    }
    assert keys == set(checkpoint)
    assert checkpoint["optimizer_history"][-1]["num_updates"] == 12
    assert checkpoint["cfg"]["model"]["_name"] == "wav2vec2" and checkpoint["cfg"]["optimization"]["max_update"] == 12
    names = {path.name for path in (workplace.folder / "run").iterdir()}
    assert {"checkpoint_last.pt", "checkpoint_best.pt", "metrics.jsonl"} <= names
    updates = [row["num_updates"] for row in workplace.rows()]
    assert updates == [2, 4, 6, 8, 10, 12]
    wanted = {
        "loss",
        "loss_0",
        "loss_1",
        "loss_2",
        "accuracy",
        "prob_perplexity",
        "code_perplexity",
        "temp",
        "wps",
        "ups",
        "wpb",
        "bsz",
        "gnorm",
        "lr",
        "train_wall",
        "wall",
        "audio_s_per_s",
        "data_wait",
        "time_forward",
        "time_backward",
        "time_exchange",
        "time_optimizer",
        "time_validate",
        "time_save",
        "padding",
        "masked_share",
        "host_gb",
    }
    rows = workplace.rows()
    assert wanted <= rows[0].keys() and "time_" not in output
    shares = [sum(value for name, value in row.items() if name.startswith("time_")) for row in rows]
    assert all(0 < share <= 100.5 for share in shares) and rows[0]["time_backward"] > 0
    assert any(row["time_save"] > 0 for row in rows)  # an interval's row has the saves since the last row
    assert all(row["padding"] == 0 and 30 < row["masked_share"] < 65 and row["host_gb"] > 0.05 for row in rows)
    assert workplace.rows("valid")[-1]["num_updates"] == 12
    assert "1.6 hours" in output and "no checkpoint" in output.lower()


def test_a_run_records_what_it_started_with(finished: Finished) -> None:
    (line,) = lines_of(finished.workplace, "run.jsonl")
    assert line["num_updates"] == 0 and line["time"].endswith("+00:00")
    assert line["config"]["model"]["final_dim"] == 16 and line["config"]["optimization"]["lr"] == [0.001]
    assert line["config"] == load(finished.workplace.folder / "run/checkpoint_last.pt")["cfg"]
    environment = line["environment"]
    assert environment["device"] == "cpu" and environment["processes"] == 1 and environment["cores"] >= 1
    assert environment["versions"]["torch"] == torch.__version__ and environment["processor"]
    train, valid = line["data"]["train"], line["data"]["valid"]
    assert (train["utterances"], valid["utterances"]) == (24, 5) and train["source"].endswith("train.tsv")
    assert 0.005 < train["hours"] < 0.015 and train["updates"] > 1


def test_the_use_of_the_codebook_is_counted(finished: Finished) -> None:
    codes, rows = lines_of(finished.workplace, "codes.jsonl"), {}
    for split in ("train", "valid"):
        rows[split] = finished.workplace.rows(split)
        lines = [line for line in codes if line["split"] == split]
        places = [(line["num_updates"], line["epoch"]) for line in lines]
        assert places == [(row["num_updates"], row["epoch"]) for row in rows[split]] and len(lines) > 1
        assert lines[0]["changed"] is None and all(0 <= line["changed"] <= 1 for line in lines[1:])
        for line in lines:
            first, second = line["counts"]
            assert sum(first) == sum(second) > 0 and len(first) == len(second) == 8
            assert line["dead"] == [group.count(0) for group in line["counts"]]
    # of the whole validation set at once; the row has the mean over its batches, which are smaller
    last = codes[-1]
    assert last["split"] == "valid" and last["num_updates"] == 12
    assert sum(last["perplexity"]) == pytest.approx(rows["valid"][-1]["code_perplexity"], rel=0.3)


def lines_of(workplace: Workplace, name: str, save_dir: str = "run") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workplace.folder / save_dir / name).read_text().splitlines()]


def test_killed_twice_and_continued_equals_unbroken(workplace: Workplace) -> None:
    """Over several epochs: SIGKILL in the middle of one, and in a later one."""
    overrides = [
        "optimization.max_update=20",
        "checkpoint.keep_interval_updates=-1",
        "ema.store_ema=true",
        "ema.ema_decay=0.9",
    ]
    workplace.run("checkpoint.save_dir=unbroken", *overrides)
    workplace.run_until("run/checkpoint_*_8.pt", signal.SIGKILL, *overrides)
    assert load(workplace.folder / "run/checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] >= 4
    workplace.run_until("run/checkpoint_*_16.pt", signal.SIGKILL, *overrides)
    output = workplace.run(*overrides)
    assert "no checkpoint" not in output.lower()
    assert_equal_runs(workplace.folder / "unbroken/checkpoint_last.pt", workplace.folder / "run/checkpoint_last.pt")
    ema = [load(workplace.folder / run / "checkpoint_last.pt")["extra_state"]["ema"] for run in ("unbroken", "run")]
    assert ema[0].keys() == ema[1].keys() and all(torch.equal(ema[0][name], ema[1][name]) for name in ema[0])
    updates = [row["num_updates"] for row in workplace.rows()]
    assert updates == list(range(2, 21, 2)), "metrics.jsonl goes on where the checkpoint stands"
    starts = [line["num_updates"] for line in lines_of(workplace, "run.jsonl")]
    assert starts[0] == 0 and 4 <= starts[1] < starts[2] and starts == sorted(starts)
    codes = lines_of(workplace, "codes.jsonl")
    assert codes == lines_of(workplace, "codes.jsonl", "unbroken") and {line["split"] for line in codes} == {
        "train",
        "valid",
    }


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_ends(workplace: Workplace, number: signal.Signals) -> None:
    output = workplace.run_until(
        "run/metrics.jsonl",
        number,
        "optimization.max_update=100000",
        "checkpoint.save_interval_updates=0",
        "dataset.validate_interval_updates=0",
        "dataset.disable_validation=true",
        "checkpoint.save_interval=1000000",
    )
    assert f"stopped by {number.name}" in output and "Traceback" not in output
    saved = load(workplace.folder / "run/checkpoint_last.pt")["optimizer_history"][-1]["num_updates"]
    assert saved >= 1
    again = workplace.run(f"optimization.max_update={saved + 1}", "dataset.disable_validation=true")
    assert "stopped by" not in again


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_parent_of_spawned_processes_saves_and_ends(
    workplace: Workplace, number: signal.Signals
) -> None:
    output = workplace.run_until(
        "run/metrics.jsonl",
        number,
        "optimization.max_update=100000",
        "dataset.disable_validation=true",
        "distributed_training.distributed_world_size=2",
        "checkpoint.save_interval_updates=0",
        "checkpoint.save_interval=1000000",
    )
    assert "stopped by" in output and "Traceback" not in output
    assert load(workplace.folder / "run/checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] >= 1


def test_more_workers_change_nothing(workplace: Workplace) -> None:
    for workers in (0, 1, 3):
        workplace.run(
            f"dataset.num_workers={workers}",
            f"checkpoint.save_dir=workers{workers}",
            "optimization.max_update=6",
            "checkpoint.save_interval_updates=0",
            "dataset.disable_validation=true",
        )
    for workers in (1, 3):
        assert_equal_runs(
            workplace.folder / "workers0/checkpoint_last.pt", workplace.folder / f"workers{workers}/checkpoint_last.pt"
        )


def test_two_processes_train_what_one_does_with_update_freq_2(workplace: Workplace) -> None:
    # with a large eps Adam's steps are proportional to the gradient; else it would turn the rounding of next to nothing
    # into full steps
    quiet = [
        "optimization.max_update=6",
        "dataset.validate_interval_updates=0",
        "optimizer.adam_eps=0.1",
        "optimization.lr=[0.1]",
    ]
    workplace.run("checkpoint.save_dir=one", "optimization.update_freq=[2]", *quiet)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    workplace.run("checkpoint.save_dir=launched", *quiet, launcher=launcher)
    spawned = ("checkpoint.save_dir=spawned", "distributed_training.distributed_world_size=2")
    workplace.run(*spawned, *quiet, forks=False)
    one, launched, spawned = (
        load(workplace.folder / name / "checkpoint_last.pt")["model"] for name in ("one", "launched", "spawned")
    )
    for name, value in one.items():
        assert torch.allclose(value, launched[name], atol=2e-5, rtol=1e-4), name  # the order of sums
        assert torch.equal(spawned[name], launched[name]), name
    for metric in ("loss", "loss_0", "gnorm", "bsz", "code_perplexity"):
        values = [[row[metric] for row in workplace.rows(save_dir=name)] for name in ("one", "launched")]
        assert np.allclose(*values, rtol=2e-3), metric


def test_two_processes_leave_a_feature_extractor_without_gradient_as_it_is(workplace: Workplace) -> None:
    """`feature_grad_mult` 0: nobody waits for its gradient, and weight decay does not touch it."""
    workplace.run(
        "distributed_training.distributed_world_size=2",
        "model.feature_grad_mult=0",
        "optimization.max_update=3",
        "checkpoint.save_interval_updates=1",
        "checkpoint.keep_interval_updates=-1",
        "dataset.disable_validation=true",
    )
    first, last = (load(workplace.folder / "run" / name) for name in ("checkpoint_1_1.pt", "checkpoint_last.pt"))
    assert last["optimizer_history"][-1]["num_updates"] == 3
    for name, value in first["model"].items():
        assert torch.equal(value, last["model"][name]) == name.startswith("feature_extractor."), name
    trained = sum(not name.startswith("feature_extractor.") for name in first["model"])
    assert len(last["last_optimizer_state"]["state"]) <= trained < len(first["model"])


ONE_IS_BAD = """
from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion

plain = Wav2vecCriterion.forward


def forward(self, model, sample, *rest):
    loss, sample_size, log = plain(self, model, sample, *rest)
    return loss * float("nan") if 5 in sample["id"].tolist() else loss, sample_size, log


Wav2vecCriterion.forward = forward
"""


def test_a_loss_that_is_not_finite_is_skipped_named_and_at_last_fatal(workplace: Workplace, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.wav" for i in range(12)]
    for i, file in enumerate(files):
        write_audio(file, 1.0, seed=i)
    write_manifest(tmp_path / "train.tsv", tmp_path, files)
    (workplace.folder / "one_is_bad.py").write_text(ONE_IS_BAD)
    quiet = [
        f"task.data={tmp_path}",
        "dataset.disable_validation=true",
        "dataset.batch_size=2",
        "common.user_dir=one_is_bad",
    ]
    output = workplace.run(*quiet)
    assert "was skipped" in output and "5.wav" in output
    final = load(workplace.folder / "run/checkpoint_last.pt")["model"]
    assert all(torch.isfinite(value).all() for value in final.values())
    output = workplace.run(*quiet, "checkpoint.save_dir=fatal", "optimization.max_nonfinite_updates=1", status=None)
    assert "in a row had a loss or gradient that was not finite" in output


def test_bf16_trains_and_fp16_says_that_it_runs_in_bf16(workplace: Workplace) -> None:
    output = workplace.run("common.fp16=true", "optimization.max_update=4")
    assert "bf16" in output and all(math.isfinite(row["loss"]) for row in workplace.rows())


def test_a_changed_model_is_refused_and_a_moved_manifest_is_not(
    workplace: Workplace, finished: Finished, tmp_path: Path
) -> None:
    finished.copied_to(workplace)
    output = workplace.run("optimization.max_update=14", "model.encoder_layers=3", status=None)
    assert "model.encoder_layers: 2 -> 3" in output
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("train.tsv", "valid.tsv"):
        (moved / name).write_text((workplace.corpus / name).read_text())
    workplace.run("optimization.max_update=14", f"task.data={moved}")
    assert workplace.rows()[-1]["num_updates"] == 14


def test_a_truncated_last_checkpoint_gives_way_to_the_one_before(workplace: Workplace, finished: Finished) -> None:
    finished.copied_to(workplace)
    (same_update,) = (workplace.folder / "run").glob("checkpoint_*_12.pt")
    same_update.unlink()
    last = workplace.folder / "run/checkpoint_last.pt"
    data = last.read_bytes()
    last.unlink()
    last.write_bytes(data[: len(data) // 2])
    output = workplace.run("optimization.max_update=14")
    assert "checkpoint_last.pt" in output and workplace.rows()[-1]["num_updates"] == 14
    assert [row["num_updates"] for row in workplace.rows()] == list(range(2, 15, 2)), "9 to 12 are trained again"


def test_unknown_keys_and_missing_data_are_errors_before_time_is_spent(workplace: Workplace, tmp_path: Path) -> None:
    output = workplace.run("optimization.max_updates=5", "task.max_sampel_size=3", status=None)
    for key, meant in (("optimization.max_updates", "max_update"), ("task.max_sampel_size", "max_sample_size")):
        assert f"{key} is not a known key. Did you mean '{meant}'?" in output
    assert "Traceback" not in output
    output = workplace.run(f"task.data={tmp_path / 'nowhere'}", status=None)
    assert f"{str(tmp_path / 'nowhere')!r}: there is no such folder" in output and "Traceback" not in output


def test_patience_and_max_epoch_end_a_run(workplace: Workplace) -> None:
    end = ("optimization.max_update=0", "optimization.max_epoch=2", "lr_scheduler.total_num_update=100")
    workplace.run(*end, "checkpoint.save_dir=epochs")
    assert {row["epoch"] for row in workplace.rows(save_dir="epochs")} == {1, 2}
    patience = ["optimization.lr=[0.0]", "checkpoint.patience=2", "dataset.validate_interval_updates=1"]
    output = workplace.run(*patience, "optimization.max_update=40")
    assert "early stop" in output and workplace.rows("valid")[-1]["num_updates"] < 40


def test_validate_command_repeats_the_runs_own_figures(finished: Finished) -> None:
    workplace = finished.workplace
    arguments = [str(workplace.corpus), "--path", "run/checkpoint_last.pt", "--cpu", "--log-format", "none"]
    done = workplace.python_module("fairseq_cli.validate", *arguments)
    assert done.code == 0, done.output
    figures = json.loads(done.output.splitlines()[-1])["valid"]
    own = workplace.rows("valid")[-1]
    for name in ("loss", "loss_0", "accuracy", "code_perplexity"):
        assert figures[name] == pytest.approx(own[name], rel=1e-6), name


def test_train_main_takes_a_config_from_python(workplace: Workplace) -> None:
    script = (
        "from fairseq_cli import hydra_train, train\n"
        "from fairseq.dataclass.initialize import hydra_init, resolve_config\n"
        "from omegaconf import OmegaConf\n"
        "hydra_init()\n"
        "cfg = OmegaConf.load('tiny.yaml')\n"
        f"cfg.task.data = {str(workplace.corpus)!r}\n"
        "cfg.optimization.max_update = 2\n"
        "train.main(resolve_config(cfg))\n"
    )
    done = workplace.warm.python(script, workplace.folder)
    assert done.code == 0, done.output
    assert workplace.rows()[-1]["num_updates"] == 2
