"""Keep the number of batches in an update when a run resumes with another number of processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig

from fairseq.checkpoint import io
from fairseq.checkpoint.source import Source
from fairseq.distributed import utils as distributed

logger = logging.getLogger("fairseq.checkpoint_utils")


class Saved(NamedTuple):
    """How a checkpoint's updates were divided between processes."""

    processes: int
    update_freq: list[int]  # in use, by epoch
    configured: list[int]  # in the config, before `keep` changed it
    epoch: int  # the epoch to resume in, from 1

    @classmethod
    def of(cls, cfg: Any, extra_state: dict[str, Any]) -> Saved | None:
        """Read it from a checkpoint's `cfg` and `extra_state`; None if they lack it, as in old checkpoints."""
        try:
            processes = cfg["distributed_training"]["distributed_world_size"]
            update_freq = list(cfg["optimization"]["update_freq"])
        except (TypeError, LookupError):
            return None
        if not (update_freq and all(isinstance(number, int) and number > 0 for number in (processes, *update_freq))):
            return None
        configured = (extra_state.get("run_record") or {}).get("configured_update_freq") or update_freq
        return cls(processes, update_freq, configured, (extra_state.get("train_iterator") or {}).get("epoch", 1))

    def sizes(self) -> list[int]:
        """Return the batches of an update, by epoch; the last applies to later epochs."""
        return [self.processes * number for number in self.update_freq]


class Decision(NamedTuple):
    """The `update_freq` to resume with, and a line for the log; "" if nothing changes."""

    update_freq: list[int]
    note: str = ""


def decide(path: str, saved: Saved, processes: int, configured: Sequence[int], keep: bool) -> Decision:
    """Choose `optimization.update_freq` for a run that resumes.

    Args:
        path: the checkpoint.
        processes: number of processes now.
        configured: `optimization.update_freq` of the command.
        keep: `distributed_training.keep_update_size`.
    Raises:
        ValueError: this number of processes cannot divide an update.
    """
    sizes, now = saved.sizes(), list(configured)
    # only the epochs from here on matter
    first = min(saved.epoch, len(sizes)) - 1
    last = max(len(sizes), len(now), saved.epoch)
    if all(_at(sizes, epoch) == processes * _at(now, epoch) for epoch in range(saved.epoch, last + 1)):
        return Decision(now)
    batches = f"{_listed([processes * number for number in now])} batches, not {_listed(sizes)} as in {path}"
    if not keep:
        return Decision(now, f"updates now have {batches} (distributed_training.keep_update_size=false)")
    if now != list(saved.configured):
        changed = f"optimization.update_freq was changed from {_listed(saved.configured)} to {_listed(now)}"
        return Decision(now, f"updates now have {batches}: {changed}")
    if any(size % processes for size in sizes[first:]):
        raise ValueError(_refusal(path, saved, processes, sizes[first:]))
    kept = [max(1, size // processes) for size in sizes]
    return Decision(
        kept,
        f"processes: {processes}, in {path}: {saved.processes}. Updates keep their {_listed(sizes)} batches: "
        f"optimization.update_freq={_listed(kept)} instead of {_listed(now)} (distributed_training.keep_update_size)",
    )


def _at(numbers: Sequence[int], epoch: int) -> int:
    return numbers[min(epoch, len(numbers)) - 1]


def _listed(numbers: Sequence[int]) -> str:
    """Write one number, or a list as on the command line."""
    return str(numbers[0]) if len(set(numbers)) == 1 else str(list(numbers)).replace(" ", "")


def _refusal(path: str, saved: Saved, processes: int, sizes: list[int]) -> str:
    divisors = [number for number in range(1, min(sizes) + 1) if all(size % number == 0 for size in sizes)]
    near = [number for number in divisors if number < processes][-1:] + [n for n in divisors if n > processes][:1]
    choices = "1 process" if near == [1] else f"{' or '.join(map(str, near))} processes"
    return (
        f"{path} was written with {saved.processes} processes and optimization.update_freq={_listed(saved.update_freq)}"
        f", so an update has {_listed(sizes)} batches, which {processes} processes cannot divide. Start {choices}; "
        "or set distributed_training.keep_update_size=false to continue with updates of another size."
    )


def keep(cfg: DictConfig, source: Source) -> list[int] | None:
    """Change `optimization.update_freq` of `cfg` as `decide` says, the same on all processes (collective).

    Returns:
        the configured `update_freq` if it was changed, for `RunRecord.configured_update_freq`.
    Raises:
        ValueError: this number of processes cannot divide an update.
    """
    processes, configured = distributed.get_world_size(), list(cfg.optimization.update_freq)
    outcome: Decision | str = Decision(configured)
    if distributed.is_master() and source.path is not None and not source.resets.dataloader:
        found = io.peek(source.path)
        saved = Saved.of(found.cfg, found.extra_state)
        if saved is not None:
            try:
                wanted = cfg.distributed_training.keep_update_size
                outcome = decide(source.path, saved, processes, configured, wanted)
            except ValueError as error:
                outcome = str(error)
    outcome = distributed.broadcast_object(outcome)
    if isinstance(outcome, str):
        raise ValueError(outcome)
    if outcome.note:
        logger.info(outcome.note)
    if outcome.update_freq == configured:
        return None
    cfg.optimization.update_freq = outcome.update_freq
    return configured
