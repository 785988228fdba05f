"""Columns of a row that say what the run spent: time, samples and memory.

Shares of time come from the beats of the main loop, so they are the host's view. A GPU or an HPU works while the host
goes on: the time that it computes appears where the host waits for it, mostly in `time_exchange`, which reads the
statistics of the interval.
"""

from __future__ import annotations

from collections.abc import Mapping

from fairseq.device import Device
from fairseq.distributed import progress
from fairseq.logging import metrics
from fairseq.training.host_memory import HostMemory

# of a row: phases of `fairseq.distributed.progress`
TIMES = {
    "time_forward": "forward",
    "time_backward": "backward",
    "time_exchange": "exchange",
    "time_optimizer": "optimizer",
    "time_validate": "validation",
    "time_save": "saving",
}
# of a row: of `Device.counters`
COUNTERS = {"graphs": "hpu_graph_compilations", "cpu_fallbacks": "hpu_cpu_fallbacks"}


def log_times(elapsed: float) -> None:
    """Log the shares since the last call, in percent.

    Args:
        elapsed: seconds since then.
    """
    spent = progress.of_this_process().spent()
    for column, phase in TIMES.items():
        share = 100 * spent.get(phase, 0.0) / elapsed
        metrics.log_scalar(column, share, weight=elapsed, priority=830, round=1)


def log_contents(counted: Mapping[str, float], sample_rate: int) -> None:
    """Log how much of the batches was padding or filler, and how many of the frames were masked, in percent.

    Args:
        counted: sums of all processes: audio_seconds, samples_sent (utterances x samples), num_masked, num_frames. A
            checkpoint of an older version may lack some of the interval's first part.
    """
    sent, frames = counted.get("samples_sent", 0.0), counted.get("num_frames", 0.0)
    if sent > 0:
        padding = 100 * max(0.0, 1 - counted["audio_seconds"] * sample_rate / sent)
        metrics.log_scalar("padding", padding, weight=sent, priority=730, round=2)
    if frames > 0:
        masked = 100 * counted["num_masked"] / frames
        metrics.log_scalar("masked_share", masked, weight=frames, priority=731, round=2)


def log_machine(device: Device, host: HostMemory) -> dict[str, float]:
    """Log memory, and what the device has counted; return the counts."""
    memory = device.memory_statistics()
    for name, value in memory.items():
        metrics.log_scalar(name, value, weight=0, priority=1500, round=1)
    counters = device.counters()
    for name, count in counters.items():
        metrics.log_scalar(name, count, weight=0, priority=1510, round=0)
    for column, name in COUNTERS.items():
        if name in counters:
            metrics.log_scalar(column, counters[name], weight=0, priority=1520, round=0)
    if "gb_peak" in memory:
        metrics.log_scalar("device_gb", memory["gb_peak"], weight=0, priority=1530, round=1)
    gigabytes = host.gb()
    if gigabytes is not None:
        metrics.log_scalar("host_gb", gigabytes, weight=0, priority=1531, round=3)
    return counters
