"""Sets of allowed values for config fields, as enums that compare equal to plain strings."""

from enum import Enum, EnumMeta
from typing import cast

from fairseq import device as device_layer


class StrEnum(str, Enum):
    """An enum whose members compare, print and behave as strings."""

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return repr(self.value)


StrEnumMeta = EnumMeta  # fairseq: the name that its users import; a plain EnumMeta does, since members are strings


def ChoiceEnum(choices: list[str]) -> type[StrEnum]:
    """The enum type that restricts a config field to `choices`."""
    return cast(type[StrEnum], StrEnum("Choices", {choice: choice for choice in choices}))


DEVICE_CHOICES = ChoiceEnum(list(device_layer.KINDS))
DOCTOR_CHOICES = ChoiceEnum(["off", "warn", "stop"])
HPU_COMPILE_CHOICES = ChoiceEnum(["compile", "hpu_graphs", "none"])
LOG_FORMAT_CHOICES = ChoiceEnum(["json", "none", "simple", "tqdm"])
DDP_BACKEND_CHOICES = ChoiceEnum(["c10d", "flat", "fully_sharded", "legacy_ddp", "no_c10d", "pytorch_ddp", "slowmo"])
DDP_COMM_HOOK_CHOICES = ChoiceEnum(["none", "fp16", "bf16"])
DATASET_IMPL_CHOICES = ChoiceEnum(["raw", "lazy", "cached", "mmap", "fasta", "huffman"])
GENERATION_CONSTRAINTS_CHOICES = ChoiceEnum(["ordered", "unordered"])
GENERATION_DECODING_FORMAT_CHOICES = ChoiceEnum(["unigram", "ensemble", "vote", "dp", "bs"])
ZERO_SHARDING_CHOICES = ChoiceEnum(["none", "os"])
PIPELINE_CHECKPOINT_CHOICES = ChoiceEnum(["always", "never", "except_last"])
PRINT_ALIGNMENT_CHOICES = ChoiceEnum(["hard", "soft"])
