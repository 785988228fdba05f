"""Judges for cases about checkpoints, resuming and `metrics.jsonl`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import soundfile

from tests.drills.cases import Case, Ended, Finding, judges

TRAIN = "fairseq-hydra-train"


def train(case: Case, data: Path | str, *overrides: str, seconds: float = 180) -> Ended:
    """Run the cases' training command in the case's working folder."""
    return case.run(TRAIN, *training(case, data), *overrides, seconds=seconds)


def training(case: Case, data: Path | str) -> list[str]:
    return ["--config-dir", str(case.cases / "training/common"), "--config-name", "mini", f"task.data={data}"]


def base(case: Case) -> Path:
    return case.cases / "training/common/base"


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def updates_in(path: Path) -> int:
    import torch

    return (
        torch.load(path, map_location="cpu", weights_only=True)["optimizer_history"][-1]["num_updates"]
        if path.is_file()
        else -1
    )


def short(ended: Ended, length: int = 150) -> str:
    return f"status {ended.code}{', traceback' if ended.has_traceback else ''}: {ended.last_line[-length:]}"


@judges("training/error-while-training")
def error_while_training(case: Case) -> Iterator[Finding]:
    manifest = case.folder / "train.tsv"
    ended = train(case, case.folder, "optimization.max_update=100", "checkpoint.save_interval_updates=1000")
    named = str(manifest) in ended.last_line and ".wav" in ended.last_line
    yield Finding("names file and manifest", ended.code != 0 and not ended.has_traceback and named, short(ended))
    # a file of another rate, met after some updates: which file is met when depends on the seed, so that several are
    # tried
    data = case.work / "data"
    shutil.copytree(base(case), data)
    for name in ("train", "valid"):
        lines = lines_of(data / f"{name}.tsv")
        (data / f"{name}.tsv").write_text("\n".join([str(data), *lines[1:]]) + "\n")
    for name in ("u03", "u05", "u08", "u13"):
        wav = data / f"wav/{name}.wav"
        kept = wav.read_bytes()
        soundfile.write(wav, soundfile.read(wav)[0], 8000)
        folder = case.work / f"ckpt-{name}"
        common = (
            "optimization.max_update=100",
            "checkpoint.save_interval_updates=1000",
            f"checkpoint.save_dir={folder}",
        )
        ended = train(case, data, *common, "dataset.validate_interval_updates=0")
        wav.write_bytes(kept)
        trained = "finished update 1" in ended.output or "train_inner" in ended.output
        if trained:
            saved = updates_in(folder / "checkpoint_last.pt")
            right = (
                saved > 0
                and not ended.has_traceback
                and f"{name}.wav" in ended.last_line
                and "train.tsv" in ended.last_line
            )
            yield Finding(
                f"own: {name}.wav of another rate, met mid-epoch", right, f"update {saved} saved; {short(ended)}"
            )
            return
    yield Finding("own: a file of another rate, met mid-epoch", False, "every one was met before the first log line")


@judges("training/metrics-wiped")
def metrics_wiped(case: Case) -> Iterator[Finding]:
    resets = [f"checkpoint.reset_{what}=true" for what in ("optimizer", "lr_scheduler", "meters", "dataloader")]
    train(case, base(case))
    before = lines_of(case.work / "ckpt/metrics.jsonl")
    train(case, base(case), "optimization.max_update=4", "checkpoint.restore_file=checkpoint_best.pt", *resets)
    kept = [path.name for path in (case.work / "ckpt").glob("metrics*") if set(before) <= set(lines_of(path))]
    yield Finding(
        "restore_file with resets", bool(before and kept), f"{len(before)} rows before; kept in {kept or 'no file'}"
    )
    again = ("checkpoint.no_save=true", "checkpoint.save_dir=trial", "optimization.max_update=2")
    train(case, base(case), *again)
    before = lines_of(case.work / "trial/metrics.jsonl")
    train(case, base(case), *again)
    kept = [path.name for path in (case.work / "trial").glob("metrics*") if before == lines_of(path)]
    yield Finding("no_save twice", bool(before and kept), f"{len(before)} rows before; kept in {kept or 'no file'}")
    (case.work / "folder/metrics.jsonl").mkdir(parents=True)
    ended = train(case, base(case), "checkpoint.save_dir=folder", "optimization.max_update=2")
    told = ended.output.count("metrics.jsonl: ")
    yield Finding(
        "own: metrics.jsonl is a folder", ended.code == 0 and told == 1, f"reported {told} times; {short(ended)}"
    )


@judges("training/two-runs-one-folder")
def two_runs_one_folder(case: Case) -> Iterator[Finding]:
    overrides = (
        "optimization.max_update=100000",
        "checkpoint.save_interval_updates=5",
        "dataset.validate_interval_updates=50",
    )
    first = subprocess.Popen(
        case.line(TRAIN, *training(case, base(case)), *overrides),
        cwd=case.work,
        env=case.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while updates_in(case.work / "ckpt/checkpoint_last.pt") < 5 and time.monotonic() < deadline:
            time.sleep(0.2)
        ended = train(case, base(case), "optimization.max_update=4", seconds=90)
        right = ended.code not in (0, -9) and not ended.has_traceback and str(first.pid) in ended.output
        yield Finding("the second is refused", right, short(ended))
        going = first.poll() is None
    finally:
        first.kill()
        first.wait()
    ended = train(case, base(case), "optimization.max_update=1", seconds=90)
    yield Finding("own: after SIGKILL the same command continues", going and ended.code == 0, short(ended))
    (case.work / "ckpt/run.lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "", "job": ""}))
    ended = train(case, base(case), "optimization.max_update=1", seconds=90)
    right = ended.code != 0 and "elsewhere" in ended.output and "remove" in ended.output
    yield Finding("own: a lock of another host", right, short(ended))


@judges("training/dangling-checkpoint-link")
def dangling_checkpoint_link(case: Case) -> Iterator[Finding]:
    train(case, base(case))
    folder, away = case.work / "ckpt", case.work / "away.pt"
    os.replace(folder / "checkpoint_last.pt", away)
    for path in folder.glob("*.pt"):
        path.unlink()
    rows = lines_of(folder / "metrics.jsonl")
    os.symlink("/mnt/gone/checkpoint_last.pt", folder / "checkpoint_last.pt")
    ended = train(case, base(case), "optimization.max_update=4")
    kept = (folder / "checkpoint_last.pt").is_symlink() and lines_of(folder / "metrics.jsonl") == rows
    right = ended.code != 0 and not ended.has_traceback and "/mnt/gone/checkpoint_last.pt" in ended.output and kept
    yield Finding("dangling", right, short(ended))
    os.remove(folder / "checkpoint_last.pt")
    os.symlink(away, folder / "checkpoint_last.pt")
    before = away.read_bytes()
    ended = train(case, base(case), "optimization.max_update=12")
    told = f"was a symbolic link to {away}" in ended.output
    right = (
        ended.code == 0 and updates_in(folder / "checkpoint_last.pt") == 12 and (told and away.read_bytes() == before)
    )
    yield Finding(
        "valid: replaced knowingly", right, f"said so: {told}; update {updates_in(folder / 'checkpoint_last.pt')}"
    )


@judges("training/interval-at-epoch-end")
def interval_at_epoch_end(case: Case) -> Iterator[Finding]:
    train(case, case.folder, "optimization.max_update=8")
    names = sorted(path.name for path in (case.work / "ckpt").glob("*.pt"))
    yield Finding("", {"checkpoint_4_4.pt", "checkpoint_8_8.pt"} <= set(names), ", ".join(names))
    save = ("checkpoint.save_interval_updates=2", "checkpoint.save_dir=two", "checkpoint.no_epoch_checkpoints=false")
    train(case, case.folder, "optimization.max_update=6", *save)
    names = sorted(path.name for path in (case.work / "two").glob("*.pt"))
    wanted = {"checkpoint_4_4.pt", "checkpoint_6_6.pt", "checkpoint6.pt"}
    yield Finding(
        "own: beside epoch checkpoints, two kept",
        wanted <= set(names) and "checkpoint_2_2.pt" not in names,
        ", ".join(names),
    )


@judges("using/checkpoint_mms_adapter")
def mms_adapter(case: Case) -> Iterator[Finding]:
    path, audio = case.folder / "mms.pt", case.cases / "using/common/a.wav"
    for command, arguments in (
        ("fairseq-transcribe", ["--path", path, audio]),
        ("fairseq-extract", [case.folder, "--path", path, "--gen-subset", "test", "--output-dir", case.work / "f"]),
    ):
        ended = case.run(command, *arguments)
        right = ended.code != 0 and not ended.has_traceback and "mms.pt" in ended.output and "adapter" in ended.output
        yield Finding(command, right, short(ended))


@judges("using/checkpoint_messages")
def checkpoint_messages(case: Case) -> Iterator[Finding]:
    audio = case.cases / "using/common/a.wav"
    (case.folder / "login.pt").write_text("\n  <!DOCTYPE HTML><title>Sign in</title>")
    (case.folder / "packed.pt").write_bytes(b"\x1f\x8b\x08\x00rest of it")
    for name, word, label in (
        ("lfs.pt", "lfs", ""),
        ("empty.pt", "empty", ""),
        ("page.pt", "web page", ""),
        ("m.safetensors", "safetensors", ""),
        ("bare.pt", "weights", ""),
        ("login.pt", "web page", "own: "),
        ("packed.pt", "gzip", "own: "),
    ):
        ended = case.run("fairseq-transcribe", "--path", case.folder / name, audio)
        right = (
            ended.code != 0
            and not ended.has_traceback
            and name in ended.output
            and word in ended.output.lower().replace(name, "")
        )
        yield Finding(f"{label}{name}", right and len(ended.last_line) < 400, short(ended))
    manifest = case.work / "test.tsv"
    manifest.write_text(f"{audio.parent}\n{audio.name}\t16000\n")
    path = case.folder / "xlsr_task.pt"
    ended = case.run(
        "fairseq-extract", case.work, "--path", path, "--gen-subset", "test", "--output-dir", case.work / "f"
    )
    yield Finding("xlsr_task.pt", ended.code == 0 and not ended.has_traceback, short(ended))


@judges("using/average_dictionaries")
def average_dictionaries(case: Case) -> Iterator[Finding]:
    english, output = case.cases / "using/common/en.pt", case.work / "avg.pt"
    ended = case.run("fairseq-average-checkpoints", "--inputs", english, case.folder / "sorted.pt", "--output", output)
    right = ended.code != 0 and not ended.has_traceback and "dictionar" in ended.output and not output.exists()
    yield Finding("", right, short(ended))
    ended = case.run("fairseq-average-checkpoints", "--inputs", english, english, "--output", output)
    yield Finding("own: the same dictionary", ended.code == 0 and output.exists(), short(ended))
