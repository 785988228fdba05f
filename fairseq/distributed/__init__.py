"""Processes: `launch` starts or joins them, `utils` has the collectives, `strategy` defines how they share a model."""

from fairseq.distributed.wrapping import fsdp_wrap

__all__ = ["fsdp_wrap"]
