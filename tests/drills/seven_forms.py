"""One corpus in seven forms: are the batches equal, bit for bit, and after a kill, too?

    python -m tests.drills.seven_forms [--data FOLDER] [--files N] [--forms NAME ...] [--seed S]

The forms: files; segments of joined recordings of up to an hour; a stored zip; a tar; shards that fairseq-pack made of
parquet files, and of NeMo's, Lhotse's and Kaldi's manifests; and objects and a tar in a loopback S3 store. Of each, two
epochs of batches are compared with those of the files, with 0, 1 and 3 data-loading workers. Then a process that reads
them is killed with SIGKILL in the middle of epoch 2, and another one continues.

Needs pyarrow, s3fs and moto. A form that cannot be made is a fault.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from fairseq.data.audio.raw_audio_dataset import FileAudioDataset, ManifestOptions
from fairseq.data.iterators import EpochBatchIterator
from fairseq.data.options import BatchLimits, LoaderOptions
from fairseq.data.storage.reader import CacheOptions
from tests.drills.forked import Outcome, Tally
from tests.object_store import environment, moto, upload
from tests.unit.data.small_corpus import make_masks

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared/data/librispeech-mini"
RATE, HOUR = 16_000, 3600 * 16_000
EPOCHS, WORKERS = 2, (0, 1, 3)
SECONDS = 600.0


class Utterance(NamedTuple):
    """An utterance of the corpus, in a file of its own."""

    key: str
    file: Path
    frames: int


def utterances(data: Path, number: int | None) -> list[Utterance]:
    files = sorted(data.rglob("*.flac"))[:number]
    return [Utterance(f"utt{index:05d}", file, soundfile.info(str(file)).frames) for index, file in enumerate(files)]


def write_manifest(folder: Path, root: str, lines: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.tsv").write_text("\n".join([root, *lines]) + "\n")
    return folder / "train.tsv"


# -- the forms ---------------------------------------------------------------------------------------------------------


def as_files(folder: Path, corpus: list[Utterance]) -> Path:
    return write_manifest(folder, "/", [f"{utterance.file}\t{utterance.frames}" for utterance in corpus])


def as_segments(folder: Path, corpus: list[Utterance]) -> Path:
    """Join recordings of up to an hour; a line is a segment."""
    folder.mkdir()
    lines, number, waves, start = [], 0, [], 0

    def flush() -> None:
        soundfile.write(folder / f"long{number}.flac", np.concatenate(waves), RATE, subtype="PCM_16")

    for utterance in corpus:
        if start + utterance.frames > HOUR:
            flush()
            number, waves, start = number + 1, [], 0
        waves.append(soundfile.read(utterance.file, dtype="int16")[0])
        lines.append(f"long{number}.flac\t{utterance.frames}\t{start}")
        start += utterance.frames
    flush()
    return write_manifest(folder, str(folder), lines)


def as_zip(folder: Path, corpus: list[Utterance]) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_STORED) as archive:
        for utterance in corpus:
            archive.write(utterance.file, f"{utterance.key}.flac")
    lines = []
    with zipfile.ZipFile(folder / "all.zip") as archive, open(folder / "all.zip", "rb") as file:
        for entry, utterance in zip(archive.infolist(), corpus, strict=True):
            file.seek(entry.header_offset + 26)  # the lengths of name and extra field, after which the bytes begin
            lengths = file.read(4)
            offset = entry.header_offset + 30 + sum(int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))
            lines.append(f"all.zip:{offset}:{entry.file_size}\t{utterance.frames}")
    return write_manifest(folder, str(folder), lines)


def as_tar(folder: Path, corpus: list[Utterance]) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "all.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for utterance in corpus:
            archive.add(utterance.file, f"{utterance.key}.flac")
    with tarfile.open(folder / "all.tar") as archive:
        members = archive.getmembers()
    lines = [
        f"all.tar:{member.offset_data}:{member.size}\t{utterance.frames}"
        for member, utterance in zip(members, corpus, strict=True)
    ]
    return write_manifest(folder, str(folder), lines)


def packed(folder: Path, source: Path, kind: str) -> Path:
    """Pack a source with the command, into shards of which there are several."""
    dest = folder / "shards"
    command = [sys.executable, "-m", "fairseq_cli.pack", str(source), "--from", kind, "--dest", str(dest)]
    command += ["--name", "train", "--shard-size", "4MB", "--workers", "2", "--no-labels"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise AssertionError(f"fairseq-pack ended with status {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    return dest / "train.tsv"


def as_parquet(folder: Path, corpus: list[Utterance]) -> Path:
    import pyarrow
    import pyarrow.parquet

    folder.mkdir()
    half = len(corpus) // 2
    for number, part in enumerate((corpus[:half], corpus[half:])):
        audio = [{"bytes": utterance.file.read_bytes(), "path": f"{utterance.key}.flac"} for utterance in part]
        table = pyarrow.table({"id": [utterance.key for utterance in part], "audio": audio})
        pyarrow.parquet.write_table(table, folder / f"train-{number:05d}-of-00002.parquet")
    return packed(folder, folder, "parquet")


def as_nemo(folder: Path, corpus: list[Utterance]) -> Path:
    folder.mkdir()
    rows = [{"audio_filepath": str(u.file), "duration": u.frames / RATE, "text": "a"} for u in corpus]
    (folder / "train.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return packed(folder, folder / "train.json", "nemo")


def as_lhotse(folder: Path, corpus: list[Utterance]) -> Path:
    folder.mkdir()
    rows = []
    for utterance in corpus:
        seconds = utterance.frames / RATE
        recording = {
            "id": utterance.key,
            "sources": [{"type": "file", "channels": [0], "source": str(utterance.file)}],
            "sampling_rate": RATE,
            "num_samples": utterance.frames,
            "duration": seconds,
            "channel_ids": [0],
        }
        cut = {"id": utterance.key, "start": 0, "duration": seconds, "channel": 0, "supervisions": []}
        rows.append({**cut, "recording": recording, "type": "MonoCut"})
    (folder / "cuts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return packed(folder, folder / "cuts.jsonl", "lhotse")


def as_kaldi(folder: Path, corpus: list[Utterance]) -> Path:
    """Write a data folder whose segments are cut from joined recordings."""
    joined = as_segments(folder, corpus)
    lines = [line.split("\t") for line in joined.read_text().splitlines()[1:]]
    data = folder / "kaldi"
    data.mkdir()
    (data / "wav.scp").write_text("".join(f"{name[:-5]} {folder / name}\n" for name in sorted({x[0] for x in lines})))
    (data / "segments").write_text(
        "".join(
            f"{utterance.key} {name[:-5]} {int(start) / RATE:.7f} {(int(start) + int(frames)) / RATE:.7f}\n"
            for utterance, (name, frames, start) in zip(corpus, lines, strict=True)
        )
    )
    (data / "text").write_text("".join(f"{utterance.key} A\n" for utterance in corpus))
    return packed(folder, data, "kaldi")


def as_objects(folder: Path, corpus: list[Utterance]) -> Path:
    upload(os.environ["AWS_ENDPOINT_URL"], "objects", {f"{each.key}.flac": each.file for each in corpus})
    return write_manifest(folder, "s3://objects", [f"{each.key}.flac\t{each.frames}" for each in corpus])


def as_tar_in_s3(folder: Path, corpus: list[Utterance]) -> Path:
    manifest = as_tar(folder, corpus)
    upload(os.environ["AWS_ENDPOINT_URL"], "shards", {"all.tar": folder / "all.tar"})
    (folder / "all.tar").unlink()
    return write_manifest(folder, "s3://shards", manifest.read_text().splitlines()[1:])


FORMS: dict[str, Callable[[Path, list[Utterance]], Path]] = {
    "files": as_files,
    "segments": as_segments,
    "zip": as_zip,
    "tar": as_tar,
    "parquet": as_parquet,
    "nemo": as_nemo,
    "lhotse": as_lhotse,
    "kaldi": as_kaldi,
    "s3-objects": as_objects,
    "s3-tar": as_tar_in_s3,
}


# -- batches -----------------------------------------------------------------------------------------------------------


def digests(manifest: Path, workers: int, state: Path | None = None, cache: Path | None = None) -> Iterator[str]:
    """Yield a line per update of two epochs, with a digest of its batch; continue from the position in `state`."""
    torch.set_num_threads(1)
    options = ManifestOptions(cache=CacheOptions(None if cache is None else str(cache)))
    dataset = FileAudioDataset(str(manifest), RATE, max_sample_size=10 * RATE, min_sample_size=RATE, options=options)
    dataset.set_masks(make_masks())
    limits, loader = BatchLimits(max_tokens=60 * RATE), LoaderOptions(num_workers=workers, buffer_size=6)
    iterator = EpochBatchIterator(dataset, lambda epoch: dataset.batches(epoch, limits), loader)
    if state is not None and state.exists():
        iterator.load_state_dict(json.loads(state.read_text()))
    while iterator.next_epoch_idx <= EPOCHS:
        epoch = iterator.next_epoch_itr()
        for (batch,) in epoch:
            if batch["quarantined"]:
                raise AssertionError(f"quarantined: {batch['quarantined']}")
            digest = hashlib.sha256(batch["id"].numpy().tobytes())
            for name in sorted(batch["net_input"]):
                digest.update(batch["net_input"][name].numpy().tobytes())
            yield f"{iterator.epoch} {epoch.n} {digest.hexdigest()}"
            if state is not None:
                state.with_suffix(".new").write_text(json.dumps(iterator.state_dict()))
                os.replace(state.with_suffix(".new"), state)


def killed_in_epoch_2(manifest: Path, expected: list[str], folder: Path, rng: random.Random) -> list[str]:
    """Read in a process, kill it in the middle of epoch 2, and let another continue; return the lines of both."""
    second = [number for number, line in enumerate(expected) if line.startswith("2 ")]
    last = rng.choice(second[len(second) // 4 : -len(second) // 4])
    lines: list[str] = []
    for turn in (1, 2):
        command = [sys.executable, "-m", "tests.drills.seven_forms", "--read", str(manifest)]
        command += ["--state", str(folder / "state"), "--cache", str(folder / "cache")]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            if turn == 1 and len(lines) == last:
                os.killpg(process.pid, signal.SIGKILL)
                lines += process.stdout.read().splitlines()
                break
        process.stdout.close()
        if process.wait() != (-signal.SIGKILL if turn == 1 else 0):
            raise AssertionError(f"status {process.returncode} in turn {turn}")
    return list(dict.fromkeys(lines))  # the killed process may not have saved its last position


def compare(name: str, manifest: Path, expected: list[str], folder: Path, rng: random.Random) -> Outcome:
    for workers in WORKERS:
        found = list(digests(manifest, workers, cache=folder / f"cache{workers}" if name == "s3-tar" else None))
        if found != expected:
            same = sum(one == other for one, other in zip(found, expected, strict=False))
            return Outcome("exception", f"{workers} workers: {same} of {len(expected)} updates are equal")
    found = killed_in_epoch_2(manifest, expected, folder, rng)
    if found != expected:
        return Outcome("exception", f"after the kill: {len(set(found) & set(expected))} of {len(expected)} are equal")
    return Outcome("right", f"{len(expected)} updates, {', '.join(map(str, WORKERS))} workers, and after a kill")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of FLAC files of 16 kHz")
    parser.add_argument("--files", type=int, help="use only the first N")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read is not None:
        for line in digests(arguments.read, 1, arguments.state, arguments.cache):
            print(line, flush=True)
        return
    corpus = utterances(arguments.data, arguments.files)
    hours = sum(utterance.frames for utterance in corpus) / HOUR
    print(f"{len(corpus)} utterances, {hours:.2f} hours", flush=True)
    tally, rng = Tally("forms of a corpus"), random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, moto(Path(name) / "moto.log") as url:
        os.environ.update(environment(url))
        expected = list(digests(as_files(Path(name) / "expected", corpus), 0))
        for form in arguments.forms:
            try:
                manifest = FORMS[form](Path(name) / form, corpus)
                (Path(name) / f"{form}-work").mkdir()
                outcome = compare(form, manifest, expected, Path(name) / f"{form}-work", rng)
            except (AssertionError, ValueError, OSError, ImportError) as error:
                outcome = Outcome("exception", f"{type(error).__name__}: {error}")
            print(f"{form}: {outcome.kind}: {outcome.text}", flush=True)
            tally.add(form, outcome)
    sys.exit(not tally.report())


if __name__ == "__main__":
    main()
