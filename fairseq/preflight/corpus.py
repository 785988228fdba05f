"""The data: contents of the manifests, the batches made of them, and the length of the run."""

from __future__ import annotations

import os

import numpy as np
from omegaconf import DictConfig

from fairseq.data.audio.audio_utils import UnreadableAudio, audio_format
from fairseq.data.audio.manifest import Manifest, printable
from fairseq.data.audio.quarantine import is_longer
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.batching import EVALUATION_EPOCH
from fairseq.dataclass.update_size import beside_the_recipe, update_size
from fairseq.preflight.plan import Launch, Split, audio, epoch_of
from fairseq.preflight.report import Section, percent
from fairseq.stores import is_url

PAPER_SECONDS = 1.6 * 3600  # of audio per update: Baevski et al. 2020, section 4.2
LITTLE = 0.5  # of that: the corpus is too small for whole updates; `update_size` judges the rest
_LOOKED_AT = 25  # files checked per manifest
_DAY = 86400


def describe(cfg: DictConfig, splits: list[Split], launch: Launch, speed: float | None) -> Section:
    """Describe what the run reads, and how much of it an update uses.

    Args:
        speed: expected training speed of all cards together, in seconds of audio per second; None: unknown.
    """
    section = Section("Data")
    for split in splits:
        _files(section, split, cfg)
    _updates(section, cfg, splits[0], launch, speed)
    return section


def _files(section: Section, split: Split, cfg: DictConfig) -> None:
    dataset, rate = audio(split), cfg.task.sample_rate
    sizes = np.asarray(dataset.sizes)
    seconds = sizes / rate
    text = f"{len(sizes):,} files, {seconds.sum() / 3600:,.1f} hours"
    if dataset.skipped:
        text += (
            f"; {dataset.skipped:,} left out, shorter than task.min_sample_size ({dataset.min_sample_size:,} samples)"
        )
    section.say(split.name, text)
    marks = {"shortest": 0, "10 %": 10, "median": 50, "90 %": 90, "longest": 100}
    lengths = {name: round(float(np.percentile(seconds, place)), 2) for name, place in marks.items()}
    section.say("", ", ".join(f"{name} {length:.1f} s" for name, length in lengths.items()))
    longest = min(dataset.max_sample_size, int(sizes.max()))
    cropped = float((sizes > dataset.max_sample_size).mean())
    lost = float((sizes - np.minimum(sizes, longest)).sum() / sizes.sum())
    batches = split.batches
    kept = dataset.lengths(batches.indices, 1 if split.training else EVALUATION_EPOCH)
    padded = float((np.repeat(batches.lengths, np.diff(batches.ends, prepend=0)) > kept).mean())
    section.say(
        "",
        f"{percent(cropped)} of them are cropped ({percent(lost)} of an epoch's audio), {percent(padded)} are padded",
    )
    section.values[split.name] = {
        "files": len(sizes),
        "hours": float(seconds.sum() / 3600),
        "left_out": int(dataset.skipped),
        "lengths_s": lengths,
        "share_cropped": cropped,
        "audio_share_cropped": lost,
        "share_padded": padded,
    }
    _places(section, split.name, dataset)


def _places(section: Section, name: str, dataset: FileAudioDataset) -> None:
    """Check that the manifests' roots are folders, and that some of the files exist and match the manifests."""
    for manifest in dataset.manifest.manifests:
        problem = manifest.root_problem()
        if problem is not None:
            section.problem("manifest-root", problem, "")
            continue
        chosen = np.unique(np.linspace(0, len(manifest) - 1, _LOOKED_AT).astype(int)).tolist() if len(manifest) else []
        for kind, (found, advice) in _look_at(
            manifest, chosen, None if dataset.resample else dataset.sample_rate
        ).items():
            if found:
                what = f"{len(found)} of {len(chosen)} checked files {_KINDS[kind]}, such as {found[0]}."
                section.problem(kind, f"{manifest.path}: {what}", advice)


_KINDS = {
    "files-missing": "do not exist",
    "files-unreadable": "cannot be read",
    "sample-rate": "have another sample rate than task.sample_rate",
    "manifest-lengths": "have another length than the manifest states",
}


def _look_at(manifest: Manifest, chosen: list[int], sample_rate: int | None) -> dict[str, tuple[list[str], str]]:
    """Find what is wrong with files.

    Args:
        chosen: utterances whose headers are read.
        sample_rate: required sample rate in Hz; None: any.
    Returns:
        By kind of problem: a phrase for each file, and what to do.
    """
    found: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for index in chosen:
        file, size, line = manifest.file(index), int(manifest.sizes[index]), printable(manifest.title(index))
        is_segment, end = manifest.starts is not None, manifest.start(index) + size
        try:
            header = audio_format(file)
        except UnreadableAudio as error:
            # archive.zip:offset:length; a store's error says more than that the file is missing
            is_there = is_url(file) or any(map(os.path.exists, (file, file.rsplit(":", 2)[0])))
            found["files-unreadable" if is_there else "files-missing"].append(f"{line} ({error})" if is_there else line)
            continue
        if sample_rate is not None and header.sample_rate != sample_rate:
            found["sample-rate"].append(f"{line} ({header.sample_rate} Hz)")
        if header.frames < end or (not is_segment and is_longer(header.frames, size)):
            states = f"a segment that ends at {end:,}" if is_segment else f"{size:,}"
            found["manifest-lengths"].append(f"{line} ({header.frames:,} samples, {states} in the manifest)")
    again = "Create the manifest again with fairseq-manifest"
    advice = {
        "files-missing": f"{again}, or add the files.",
        "files-unreadable": (
            "Repair them, or create the manifest again. Training replaces such files up to task.max_quarantined_share."
        ),
        "sample-rate": "Convert the files, or set task.resample=true to convert them while reading.",
        "manifest-lengths": (
            f"{again}. Training reads no more of a file than the manifest states, and replaces shorter files."
        ),
    }
    return {kind: (files, advice[kind]) for kind, files in found.items()}


def _updates(section: Section, cfg: DictConfig, split: Split, launch: Launch, speed: float | None) -> None:
    epoch = epoch_of(split, cfg, launch)
    frequency, total = cfg.optimization.update_freq[-1], cfg.optimization.max_update
    seconds = epoch.seconds / epoch.updates
    share = seconds / PAPER_SECONDS
    nodes = f"{launch.nodes} nodes x " if launch.nodes > 1 else ""
    cards = "1 card" if launch.processes == 1 else f"{launch.processes} cards"
    section.say(
        "epoch", f"{epoch.batches:,} batches, {epoch.updates:,} updates; {epoch.steps:,} forward passes per card"
    )
    size = f"{nodes}{cards} x update_freq {frequency}"
    section.say("update", f"{seconds:,.0f} s of audio ({size}): {share:.2f} of the paper's 1.6 hours")
    section.values["updates"] = {
        "batches_per_epoch": epoch.batches,
        "updates_per_epoch": epoch.updates,
        "forward_passes_per_epoch": epoch.steps,
        "seconds_per_update": seconds,
        "share_of_paper": share,
        "padding": 1 - epoch.seconds / epoch.emitted,
    }
    if total:
        days = None if speed is None else total * seconds / speed / _DAY
        took = f"for one week, train {total * seconds / (7 * _DAY):,.0f} s of audio per second"
        if days is not None:
            took = f"{days:,.1f} days at {speed:,.0f} s of audio per second"
        section.say(
            "run",
            f"{total:,} updates, {total / epoch.updates:,.0f} epochs, {total * seconds / 3600:,.0f} hours of audio; "
            f"{took}",
        )
        section.values["run"] = {
            "updates": total,
            "epochs": total / epoch.updates,
            "hours": total * seconds / 3600,
            "days": days,
        }
    if cfg.criterion._name == "wav2vec" and not cfg.checkpoint.continue_pretraining:
        _beside_the_recipe(section, cfg, launch, seconds)


def _beside_the_recipe(section: Section, cfg: DictConfig, launch: Launch, seconds: float) -> None:
    """Compare an update's audio with the paper's: too little is the most common reason for a loss at chance."""
    size = update_size(cfg, launch.processes, launch.nodes, epoch=len(cfg.optimization.update_freq))
    advice = beside_the_recipe(cfg, size, cfg.task.sample_rate)
    if advice is None and seconds >= LITTLE * PAPER_SECONDS:
        return
    if advice is not None and seconds > PAPER_SECONDS:
        section.notes.append(f"updates with much audio: {advice}.")
        return
    what = (
        f"an update has {seconds:,.0f} s of audio, {seconds / PAPER_SECONDS:.2f} of the paper's 1.6 hours: the "
        "loss may stay at chance."
    )
    change = advice or (
        "The corpus has less audio than one update of that size. Lower optimization.lr and lengthen the warm-up, "
        "or add data."
    )
    section.problem("little-audio", what, f"{change.rstrip('.')}. See docs/stuck-at-6.658.md.")
