"""Processes: `launch` starts or joins them, `utils` holds the collectives, `strategy` says how they share a model."""

from fairseq.distributed.wrapping import fsdp_wrap

__all__ = ["fsdp_wrap"]
