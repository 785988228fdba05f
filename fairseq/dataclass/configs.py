"""The whole config of a run: `FairseqConfig`, and all of its groups under the names that fairseq's users import."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from fairseq.dataclass.base import FairseqDataclass
from fairseq.dataclass.common_config import CommonConfig, CommonEvalConfig, EMAConfig
from fairseq.dataclass.distributed_config import DistributedTrainingConfig, FairseqBMUFConfig
from fairseq.dataclass.generation_configs import EvalLMConfig, GenerationConfig, InteractiveConfig
from fairseq.dataclass.training_configs import CheckpointConfig, DatasetConfig, OptimizationConfig

__all__ = [
    "CheckpointConfig",
    "CommonConfig",
    "CommonEvalConfig",
    "DatasetConfig",
    "DistributedTrainingConfig",
    "EMAConfig",
    "EvalLMConfig",
    "FairseqBMUFConfig",
    "FairseqConfig",
    "FairseqDataclass",
    "GenerationConfig",
    "InteractiveConfig",
    "OptimizationConfig",
]


@dataclass
class FairseqConfig(FairseqDataclass):
    """Groups with one dataclass each, and groups (`Any`) whose `_name` selects the dataclass."""

    common: CommonConfig = field(default_factory=CommonConfig)
    common_eval: CommonEvalConfig = field(default_factory=CommonEvalConfig)
    distributed_training: DistributedTrainingConfig = field(default_factory=DistributedTrainingConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    bmuf: FairseqBMUFConfig = field(default_factory=FairseqBMUFConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    eval_lm: EvalLMConfig = field(default_factory=EvalLMConfig)
    interactive: InteractiveConfig = field(default_factory=InteractiveConfig)
    model: Any = MISSING
    task: Any = None
    criterion: Any = None
    optimizer: Any = None
    lr_scheduler: Any = None
    scoring: Any = None
    bpe: Any = None
    tokenizer: Any = None
    ema: EMAConfig = field(default_factory=EMAConfig)
