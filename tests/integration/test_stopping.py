"""How runs end, and what is told before they begin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from fairseq.distributed.exit_status import STOPPED, UNSAVED
from fairseq.training import shares
from tests.integration.conftest import Workplace, write_audio

SIGNAL = (
    "import os, signal\nfrom fairseq.trainer import Trainer\nold = Trainer.train_step\ndef step(self, samples):\n"
    "    old(self, samples)\n    if self.get_num_updates() == 4:\n        os.kill(os.getpid(), "
    "signal.SIGTERM)\nTrainer.train_step = step\n"
)
SKEW = (
    "import os\nfrom fairseq.trainer import Trainer\ndef clock(self):\n    n = self.get_num_updates()\n"
    "    return 4000.0 if n > 3 or (n == 3 and os.environ.get('RANK') == '0') else "
    "0.0\nTrainer.cumulative_training_time = clock\n"
)


def plug_in(workplace: Workplace, text: str) -> str:
    folder = workplace.folder / "plug_in"
    folder.mkdir()
    (folder / "__init__.py").write_text(text)
    return f"common.user_dir={folder}"


def updates_in(path: Path) -> int:
    return torch.load(path, weights_only=True)["optimizer_history"][-1]["num_updates"]


@pytest.mark.parametrize("empty", ["train", "valid"])
def test_an_empty_set_is_told_before_the_first_update(workplace: Workplace, tmp_path: Path, empty: str) -> None:
    for name in ("train", "valid"):
        lines = (workplace.corpus / f"{name}.tsv").read_text()
        (tmp_path / f"{name}.tsv").write_text(lines.splitlines()[0] + "\n" if name == empty else lines)
    output = workplace.run(f"task.data={tmp_path}", status=None)
    assert f"{tmp_path}/{empty}.tsv, line 2: the manifest lists no files after the root" in output
    assert "Traceback" not in output and "train_inner" not in output


def test_what_is_trained_is_saved_where_validation_fails(workplace: Workplace) -> None:
    plug = plug_in(
        workplace,
        "from fairseq_cli.train import Run\ndef fail(self): raise ValueError('bad set')\nRun.validate = fail\n",
    )
    output = workplace.run(
        "checkpoint.save_interval_updates=0", "dataset.validate_interval_updates=3", plug, status=None
    )
    assert "bad set" in output and updates_in(workplace.folder / "run/checkpoint_last.pt") == 3


def test_a_signal_without_a_checkpoint_says_so(workplace: Workplace) -> None:
    output = workplace.run(plug_in(workplace, SIGNAL), "checkpoint.no_save=true", status=STOPPED)
    assert "not saved: checkpoint.no_save is true" in output and "saved. Rerun" not in output


def test_a_validation_that_a_signal_put_off_comes_first(workplace: Workplace) -> None:
    workplace.run(plug_in(workplace, SIGNAL), "optimization.max_update=4", status=STOPPED)
    assert updates_in(workplace.folder / "run/checkpoint_last.pt") == 4 and workplace.rows("valid") == []
    workplace.run("optimization.max_update=4")
    assert [row["num_updates"] for row in workplace.rows("valid")] == [4]
    assert (workplace.folder / "run/checkpoint_best.pt").exists()


def test_two_processes_that_a_signal_stops_end_with_its_status(workplace: Workplace) -> None:
    output = workplace.run(plug_in(workplace, SIGNAL), "distributed_training.distributed_world_size=2", status=STOPPED)
    assert "Traceback" not in output and "; saved. Rerun the same command to resume" in output


def test_an_error_in_training_saves_what_was_trained_and_names_file_and_manifest(
    workplace: Workplace, tmp_path: Path
) -> None:
    """A file whose rate is another one than the manifest's time says, met in the fourth update."""
    lines = (workplace.corpus / "train.tsv").read_text().splitlines()
    data = tmp_path / "data"
    data.mkdir()
    (data / "valid.tsv").write_text((workplace.corpus / "valid.tsv").read_text())
    plug = plug_in(
        workplace,
        "from fairseq_cli.train import Run\nold = Run._update\ndef note(self, samples):\n"
        "    old(self, samples)\n    print('TRAINED', [sample['id'].tolist() for sample in samples])\n"
        "Run._update = note\n",
    )
    never = ["checkpoint.save_interval_updates=0", "dataset.validate_interval_updates=0"]
    settings = [f"task.data={data}", plug, "dataset.num_workers=0", *never]
    (data / "train.tsv").write_text("\n".join(lines) + "\n")
    output = workplace.run(*settings, "optimization.max_update=4", "checkpoint.no_save=true")
    fourth = json.loads(output.split("TRAINED ")[4].splitlines()[0])[0]
    name = lines[1 + fourth[0]].split("\t")[0]
    write_audio(tmp_path / "slow.flac", 2.0, seed=1, sample_rate=8000)
    lines[1 + fourth[0]] = lines[1 + fourth[0]].replace(name, str(tmp_path / "slow.flac"))
    (data / "train.tsv").write_text("\n".join(lines) + "\n")
    for _ in range(2):
        output = workplace.run(*settings, status=1)
        assert "Traceback" not in output and output.count("slow.flac") == 1
        last = output.strip().splitlines()[-1]
        assert (
            last.startswith(f"fairseq-hydra-train: {data}/train.tsv: ")
            and "slow.flac" in last
            and "Update 3 is saved" in last
        )
        assert updates_in(workplace.folder / "run/checkpoint_last.pt") == 3
    saved = torch.load(workplace.folder / "run/checkpoint_last.pt", weights_only=True)
    assert saved["extra_state"]["train_iterator"]["updates_in_epoch"] == 3


@pytest.mark.parametrize(
    "refused, status, in_background",
    [("updates == 6", UNSAVED, "false"), ("updates == 6", UNSAVED, "true"), ("updates == 4", 0, "true")],
)
def test_the_end_says_where_the_last_state_is_not_saved(
    workplace: Workplace, refused: str, status: int, in_background: str
) -> None:
    """The disk refuses the last save, or one before."""
    plug = plug_in(
        workplace,
        "import errno\nfrom fairseq.checkpoint import io\nold = io.save\ndef save(state, path):\n"
        "    updates = state['optimizer_history'][-1]['num_updates']\n"
        f"    if {refused}:\n        raise io.CheckpointWriteError(errno.EROFS, 'Read-only file system')\n"
        "    return old(state, path)\nio.save = save\n",
    )
    output = workplace.run(
        plug,
        "optimization.max_update=6",
        "dataset.disable_validation=true",
        f"checkpoint.async_save={in_background}",
        status=status,
    )
    assert "training continues" in output and ("done training" in output) == (status == 0)
    if status:
        assert "finished at update 6, but its last state is not saved: " in output and "Read-only" in output


def test_rows_of_a_run_that_was_interrupted_equal_an_unbroken_ones(workplace: Workplace) -> None:
    """The sums of an epoch, and of a log interval, are in the checkpoint; those of the epoch before are not."""
    plug = plug_in(
        workplace,
        SIGNAL.replace("self.get_num_updates() == 4", "str(self.get_num_updates()) == os.environ.get('STOP_AT')"),
    )
    settings = [plug, "dataset.num_workers=0", "dataset.disable_validation=true", "checkpoint.save_interval_updates=0"]
    workplace.run(*settings, "checkpoint.save_dir=unbroken")
    wanted = comparable(workplace.rows("train", "unbroken"))
    epoch_end = wanted[0]["num_updates"]
    assert len(wanted) > 1
    for stop_at in (epoch_end - 1, epoch_end):
        name = f"stopped{stop_at}"
        workplace.variables = {"STOP_AT": str(stop_at)}
        workplace.run(*settings, f"checkpoint.save_dir={name}", status=STOPPED)
        workplace.variables = {}
        workplace.run(*settings, f"checkpoint.save_dir={name}")
        assert comparable(workplace.rows("train", name)) == wanted, stop_at
        codes = [(workplace.folder / folder / "codes.jsonl").read_text() for folder in (name, "unbroken")]
        assert codes[0] == codes[1] and codes[0].count("train") == len(wanted)
        assert comparable(workplace.rows("train_inner", name)) == comparable(
            workplace.rows("train_inner", "unbroken")
        ), stop_at


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what depends on the clock."""
    clock = {
        "wps",
        "ups",
        "audio_s_per_s",
        "train_wall",
        "wall",
        "data_wait",
        "host_cpu",
        "eta",
        "slowest_rank",
        "rank_wait",
    } | {
        *shares.TIMES,
        "host_gb",
    }
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


def test_the_time_limit_ends_all_processes_at_one_update(workplace: Workplace) -> None:
    """Their clocks differ: the first one's limit is over an update earlier."""
    output = workplace.run(
        plug_in(workplace, SKEW), "optimization.stop_time_hours=1", "distributed_training.distributed_world_size=2"
    )
    assert "optimization.stop_time_hours is 1" in output and "done training" in output
    assert 3 < updates_in(workplace.folder / "run/checkpoint_last.pt") < 12


def test_broken_validation_files_are_named(workplace: Workplace, tmp_path: Path) -> None:
    broken = tmp_path / "broken.flac"
    broken.write_bytes((workplace.corpus / "audio/26.flac").read_bytes()[:3000])
    frames = soundfile.info(workplace.corpus / "audio/26.flac").frames
    (tmp_path / "train.tsv").write_text((workplace.corpus / "train.tsv").read_text())
    (tmp_path / "valid.tsv").write_text((workplace.corpus / "valid.tsv").read_text() + f"{broken}\t{frames}\n")
    few = [f"task.data={tmp_path}", "optimization.max_update=2"]
    assert "broken.flac cannot be decoded" in workplace.run(*few, "task.max_quarantined_share=0.5")
    output = workplace.run(*few, "checkpoint.save_dir=strict", status=None)
    assert "1 of 6 files cannot be decoded" in output and "max_tokens_valid" not in output


def test_the_module_train_is_no_command(workplace: Workplace) -> None:
    text = "import runpy, sys\nsys.argv[1:] = ['data']\nrunpy.run_module('fairseq_cli.train', run_name='__main__')\n"
    done = workplace.warm.python(text, workplace.folder)
    assert done.code != 0 and "fairseq-hydra-train" in done.output and "Traceback" not in done.output


def test_a_log_file_that_is_a_folder_is_named(workplace: Workplace, tmp_path: Path) -> None:
    output = workplace.run(f"common.log_file={tmp_path}", status=None)
    assert f"common.log_file is {tmp_path}" in output and "Traceback" not in output
