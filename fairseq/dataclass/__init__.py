"""Config dataclasses, how YAML files and overrides become one config, and the checks on it."""

from fairseq.dataclass.base import FairseqDataclass
from fairseq.dataclass.constants import ChoiceEnum
from fairseq.dataclass.findings import Finding, odd, wrong

__all__ = ["ChoiceEnum", "FairseqDataclass", "Finding", "odd", "wrong"]
