"""What a run records besides its metrics: its start, the use of its codebook, and what it recognises."""

from __future__ import annotations

import math
import platform
from datetime import datetime, timezone
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch

from fairseq.criterions.wav2vec_criterion import CODE_COUNTS
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.utils import config_to_container
from fairseq.device.base import available_cores, processor_name
from fairseq.distributed import utils as distributed
from fairseq.logging.meters import MetersDict, SumMeter
from fairseq.logging.metrics_file import Json
from fairseq.logging.run_files import CODES, HYPOTHESES, RUN, RunFiles
from fairseq.logging.sinks import Start
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
from fairseq.scoring.greedy_scorer import GreedyScorer
from fairseq.tasks.task import Task
from fairseq.training import codes
from fairseq.training.trainer import Trainer

if TYPE_CHECKING:
    from fairseq.training.sets import Sets

WATCHED = 8  # utterances whose hypotheses are recorded at each validation
PACKAGES = ("fairseq-hpu", "torch", "numpy", "hydra-core", "omegaconf", "soundfile")


def environment(trainer: Trainer) -> dict[str, Json]:
    """Describe hardware, processes and versions, as plain values."""
    return {
        "processor": processor_name(),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": trainer.device.type,
        "devices": trainer.device.describe(),
        "processes": trainer.data_parallel_world_size,
        "threads": torch.get_num_threads(),
        "workers": trainer.cfg.dataset.num_workers,
        "strategy": trainer.strategy.name,
        "precision": trainer.precision.name(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def data_summary(task: Task, split: str, batches: EpochBatchIterator) -> dict[str, Json]:
    """Count a set's utterances, and the audio and batches of one of its epochs.

    Args:
        batches: the set's iterator, whose batches are planned already.
    """
    epoch = batches.epoch if batches.options.evaluation else batches.next_epoch_idx
    return {
        "source": task.split_source(split),
        "utterances": len(batches.dataset),
        "hours": round(batches.total_samples(epoch) / task.sample_rate / 3600, 5),
        "updates": math.ceil(len(batches.batches(epoch)) / batches.update_size(epoch)),
    }


def spread(size: int, number: int) -> frozenset[int]:
    """Choose this many of the first `size` integers at equal distances; all of them if there are fewer."""
    return frozenset(position * size // number for position in range(number) if size > 0)


def scorer_of(trainer: Trainer) -> GreedyScorer | None:
    """Return what decodes in validation: the criterion's scorer, else the task's; None if nothing does."""
    found = (getattr(owner, "scorer", None) for owner in (trainer.criterion, trainer.task))
    return next((scorer for scorer in found if isinstance(scorer, GreedyScorer)), None)


class Recorder:
    """Write the files of `fairseq.logging.run_files`; only the first process of a run has files.

    Args:
        start: None: not the first process.
    """

    def __init__(self, trainer: Trainer, start: Start | None) -> None:
        self._trainer = trainer
        self._files: RunFiles | None = None
        self._watched_split: str | None = None
        self._watched: frozenset[int] = frozenset()
        self._last_codes: dict[str, dict[str, Any] | None] = {}  # by split; see `codes.use`
        if start is not None:
            self._files = RunFiles(start.save_dir, start.update, start.continues, start.again)

    def begin(self, sets: Sets) -> None:
        """Record config, environment and data of the run that starts or resumes here; call it on every process."""
        for split, batches in list(sets.validation.items())[:1]:
            self._watched_split, self._watched = split, spread(len(batches.dataset), WATCHED)
        if self._files is None:
            return
        trainer = self._trainer
        data = {sets.train_subset: sets.training, **sets.validation}
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "num_updates": trainer.get_num_updates(),
            "config": config_to_container(trainer.cfg),
            "environment": environment(trainer),
            "data": {split: data_summary(trainer.task, split, batches) for split, batches in data.items()},
        }
        self._files.append(RUN, line)

    def codes(self, split: str, epoch: int, meters: MetersDict | None) -> None:
        """Record how often each codeword was used, if the model has a codebook.

        Args:
            meters: of the epoch or the validation.
        """
        model, meter = self._trainer.unwrapped_model, (meters or {}).get(CODE_COUNTS)
        if self._files is None or not isinstance(model, Wav2Vec2Model) or not isinstance(meter, SumMeter):
            return
        quantizer = model.quantizer or model.input_quantizer
        if quantizer is None or not torch.is_tensor(meter.sum):
            return
        if split not in self._last_codes:
            self._last_codes[split] = self._files.last(CODES, split)
        used = codes.use(codes.by_group(meter.sum.tolist(), quantizer.groups), self._last_codes[split])
        line = {"num_updates": self._trainer.get_num_updates(), "epoch": epoch, "split": split, **used}
        self._files.append(CODES, line)
        self._last_codes[split] = line

    def watch(self, split: str) -> None:
        """Let a validation that begins keep what is recognised in a few utterances, the same each time."""
        scorer = scorer_of(self._trainer)
        if scorer is not None:
            scorer.watched = self._watched if split == self._watched_split else frozenset()

    def hypotheses(self, split: str) -> None:
        """Record what was kept since `watch`; call it on every process, since each has some of the utterances."""
        scorer = scorer_of(self._trainer)
        if scorer is None or split != self._watched_split:
            return
        seen: dict[int, tuple[str, str]] = {}
        for part in distributed.all_gather_list(scorer.take_seen()):
            seen.update(part)
        if self._files is None:
            return
        for index, (reference, hypothesis) in sorted(seen.items()):
            line = {
                "num_updates": self._trainer.get_num_updates(),
                "split": split,
                "id": self._trainer.task.utterance_name(split, index),
                "reference": reference,
                "hypothesis": hypothesis,
            }
            self._files.append(HYPOTHESES, line)
