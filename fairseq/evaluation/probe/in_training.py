"""The probe of a run: at each validation, for the model as it is then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from omegaconf import DictConfig

from fairseq.distributed import progress
from fairseq.distributed import utils as distributed
from fairseq.evaluation.probe.labelled import Labelled, read_labelled
from fairseq.evaluation.probe.probing import ProbeResult, probe
from fairseq.inference.model import SpeechModel
from fairseq.training.trainer import Trainer

logger = logging.getLogger(__name__)

EVERY = 1.0  # seconds between two signs of life of the process that probes


class TrainingProbe:
    """Probe the model of a run; rank 0 does it, and the other processes wait for its result."""

    def __init__(self, data: Labelled) -> None:
        self.data = data

    @classmethod
    def open(cls, cfg: DictConfig) -> TrainingProbe:
        """Read the manifests and labels that `dataset.probe_data` names.

        Raises:
            ValueError: see `read_labelled`; names the key.
        """
        dataset = cfg.dataset
        try:
            data = read_labelled(
                dataset.probe_data,
                dataset.probe_labels,
                minutes=dataset.probe_minutes,
                sample_rate=int(cfg.task.sample_rate),
            )
        except ValueError as error:
            raise ValueError(f"dataset.probe_data={dataset.probe_data}: {error}") from error
        logger.info("each validation also probes the model: %s", data.describe())
        return cls(data)

    def __call__(self, trainer: Trainer) -> dict[str, float]:
        """Return `probe_cer` in per cent and `probe_loss` in bits per unit, on all processes.

        Raises:
            ValueError: on all processes, if audio cannot be read.
        """
        if not trainer.is_data_parallel_master:
            return self._wait()
        began = time.perf_counter()
        progress.doing("validation", "probe", kind="probe")
        beat = _Beat()
        try:
            result = probe(copy_of(trainer), self.data, tick=beat)
        except (ValueError, OSError) as error:
            beat.end(str(error))
            raise ValueError(f"the probe of dataset.probe_data failed: {error}") from error
        found = _metrics(result)
        beat.end(found)
        logger.info(
            "probe: CER %.2f %%, %.3f bits per unit, best layer %s; took %.1f seconds (dataset.probe_minutes limits "
            "its speech)",
            found["probe_cer"],
            found["probe_loss"],
            result.layer,
            time.perf_counter() - began,
        )
        return found

    @staticmethod
    def _wait() -> dict[str, float]:
        progress.doing("validation", "waiting for rank 0's probe", kind="probe", waits=True)
        while True:
            found = distributed.broadcast_object(None)
            progress.of_this_process().alive()
            if isinstance(found, str):
                raise ValueError(f"the probe of dataset.probe_data failed on rank 0: {found}")
            if found is not None:
                return found


class _Beat:
    """Rank 0's signs of life: each is a beat of the main loop on all processes, so no watchdog takes it for a hang."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()

    def __call__(self) -> None:
        progress.of_this_process().alive()
        if self._clock() - self._last >= EVERY:
            distributed.broadcast_object(None)
            self._last = self._clock()

    @staticmethod
    def end(found: dict[str, float] | str) -> None:
        """Send the result, or an error's text."""
        distributed.broadcast_object(found)


def _metrics(result: ProbeResult) -> dict[str, float]:
    rate = result.rate["rate"]
    return {"probe_cer": float("nan") if rate is None else float(rate), "probe_loss": result.loss}


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Building a model draws weights; the run's own random numbers must be the same without a probe."""
    state = torch.random.get_rng_state()
    try:
        yield
    finally:
        torch.random.set_rng_state(state)


def copy_of(trainer: Trainer) -> SpeechModel:
    """Return the model as it is now, prepared for inference: in fp32, on CUDA or on the host.

    hpu: on the host, since every utterance has a length of its own, and would compile graphs.
    """
    with _random_state_kept():
        model = trainer.task.build_model(trainer.cfg.model)
    model.load_state_dict({name: tensor.cpu() for name, tensor in trainer.unwrapped_model.state_dict().items()})
    device = trainer.device if trainer.device.type == "cuda" else None
    return SpeechModel(model, trainer.task, trainer.cfg, device, "fp32")
