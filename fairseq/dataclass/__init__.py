"""Configs: their dataclasses, how a command's YAML and overrides become one config, and what is checked in it."""

from fairseq.dataclass.base import FairseqDataclass
from fairseq.dataclass.constants import ChoiceEnum
from fairseq.dataclass.findings import Finding, odd, wrong

__all__ = ["ChoiceEnum", "FairseqDataclass", "Finding", "odd", "wrong"]
