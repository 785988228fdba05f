"""Planted faults of how a run runs; see planted_runs.py.

Most are a folder for `common.user_dir` that changes the criterion, as a plug-in with the fault would.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.drills.planted_runs import Fault, Scene
from tests.planted import RATE

# what is done in each training step, with `count`, the number of such steps so far
CRITERION = '''
"""A criterion with a fault."""
import itertools, time
import numpy as np
import torch
import torch.distributed
from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion
{before}
forward, counter, kept = Wav2vecCriterion.forward, itertools.count(1), []

def with_fault(self, model, sample, reduce=True):
    loss, sample_size, logged = forward(self, model, sample, reduce)
    if model.training:
        count = next(counter)
        {step}
    return loss, sample_size, logged

Wav2vecCriterion.forward = with_fault
'''
# 0.4 s at the end, on the CPU: other programs do not change how much it is
WORK = """for _ in range(count):
            np.sort(np.random.default_rng(1).random(120_000))"""
OVERFLOW = "loss = loss * (float('inf') if count > 60 and count % 10 == 5 else 1.0)"
STREAK = "loss = loss * (float('nan') if 100 < count <= 108 else 1.0)"
LEAK = "kept.append(np.ones(1 << 19)), time.sleep(0.3)  # 4 MB; host_gb is measured every 10 s"
SLOW_RANK = "time.sleep(0.3 if torch.distributed.get_rank() == 1 else 0.0)"
FP16_ON_CPU = "from fairseq.device.base import Device\n\nDevice.has_fp16 = True"
SLOW_DISK = '''
"""Files on a slow disk."""
import time
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset

read = FileAudioDataset.read

def slowly(self, *arguments, **options):
    time.sleep(0.2)
    return read(self, *arguments, **options)

FileAudioDataset.read = slowly
'''


def with_plug_in(scene: Scene, source: str, updates: int, *overrides: str) -> Path:
    """Pre-train on healthy speech with a package of the user's own."""
    folder = scene.folder / "plug_in"
    folder.mkdir()
    (folder / "__init__.py").write_text(source)
    data = scene.healthy_corpus()
    return scene.train(scene.pretraining(data, updates, f"common.user_dir={folder}", *overrides), may_fail=True)


def with_step(scene: Scene, step: str, updates: int, *overrides: str, before: str = "") -> Path:
    return with_plug_in(scene, CRITERION.format(before=before, step=step), updates, *overrides)


def two_processes(scene: Scene) -> Path:
    return with_step(
        scene,
        SLOW_RANK,
        120,
        "distributed_training.distributed_world_size=2",
        "distributed_training.nprocs_per_node=2",
        "dataset.max_tokens=100000",
    )


def padded(scene: Scene) -> Path:
    """Most utterances last 1.5 s, one in 12 lasts 6 s, and all batches are as long as the longest."""
    speech = scene.speech(132)
    short = [one._replace(wave=one.wave[: 3 * RATE // 2]) for one in speech]
    for place in range(0, len(short), 12):
        wave = np.concatenate([one.wave for one in speech[place : place + 6]])
        short[place] = speech[place]._replace(wave=wave[: 6 * RATE])
    buckets = ("task.enable_padding=true", "task.num_batch_buckets=1", "task.max_sample_size=null")
    return scene.train(scene.pretraining(scene.corpus(short[:120], short[120:]), 120, *buckets))


FAULTS: list[Fault] = [
    Fault("slow disk", "starved-loader", 120, lambda s: with_plug_in(s, SLOW_DISK, 120)),
    Fault("one bucket", "padding", 120, padded),
    Fault(
        "fp16 that overflows",
        "loss-scale-sliding",
        199,
        lambda s: with_step(s, OVERFLOW, 190, "common.fp16=true", before=FP16_ON_CPU),
    ),
    Fault("eight updates that are not finite", "non-finite", 120, lambda s: with_step(s, STREAK, 130)),
    Fault("clip_norm 0.01", "clipping", 120, lambda s: with_step(s, "pass", 120, "optimization.clip_norm=0.01")),
    Fault("a slow rank", "uneven-ranks", 120, two_processes),
    Fault("a list that keeps arrays", "memory-growing", 199, lambda s: with_step(s, LEAK, 190)),
    Fault("an update that takes longer each time", "throughput-falling", 199, lambda s: with_step(s, WORK, 190)),
]
