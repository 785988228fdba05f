"""One pass over a validation set."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from fairseq import utils
from fairseq.data.audio.quarantine import Quarantine
from fairseq.data.batch import Batch
from fairseq.device import Device
from fairseq.tasks.task import Task
from fairseq.training.precision import Precision
from fairseq.training.statistics import Statistics, Sums

_VALIDATION = 0x7A11D  # makes the seeds of validation differ from those of every update


def on_device(sample: Batch, device: Device) -> Batch:
    """Move a batch's model inputs to the device; everything else stays on the host."""
    return {**sample, "net_input": utils.apply_to_sample(device.send, sample["net_input"])}


@torch.no_grad()
def validate(
    task: Task,
    model: nn.Module,
    criterion: nn.Module,
    batches: Iterable[list[Batch]],
    device: Device,
    precision: Precision,
    seed: int,
    quarantine: Quarantine | None = None,
) -> Sums:
    """Sum the criterion's logged values over a validation set and all processes.

    Crops, masks and negatives come with the batches and depend only on the utterance. What the model draws itself
    (negatives from other utterances and from the codebook) depends on the batch's position.

    Args:
        batches: from `EpochBatchIterator`, one list per step.
        quarantine: records files that cannot be decoded; None: they are not reported.
    Raises:
        ValueError: the quarantine exceeds its maximum share.
    """
    statistics = Statistics(device)
    model.eval()
    for number, samples in enumerate(batches):
        for sample in samples:
            if quarantine is not None:
                quarantine.report(sample["quarantined"])
            device.seed(utils.keyed_seed(seed, _VALIDATION, number, sample["micro"]))
            with precision.autocast():
                _, _, log = task.valid_step(on_device(sample, device), model, criterion)
            statistics.add(log)
        statistics.commit()
        device.mark_step()
    return statistics.fetch(is_last=True).logged
