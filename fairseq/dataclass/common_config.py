"""Groups `common`, `common_eval` and `ema`."""

import os
import tempfile

# ChoiceEnum makes the types of choices at run time
# pyright: reportInvalidTypeForm=false
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, cast

from omegaconf import DictConfig

from fairseq import device as device_layer
from fairseq.dataclass.base import FairseqDataclass
from fairseq.dataclass.constants import DEVICE_CHOICES, DOCTOR_CHOICES, HPU_COMPILE_CHOICES, LOG_FORMAT_CHOICES
from fairseq.dataclass.findings import Finding, odd, wrong
from fairseq.dataclass.values import from_here
from fairseq.device import hpu_environment


@dataclass
class CommonConfig(FairseqDataclass):
    """Settings of every command: logging, seed, device, precision."""

    no_progress_bar: bool = field(default=False, metadata={"help": "no bar on a terminal: `simple` instead of `tqdm`"})
    log_interval: int = field(
        default=100,
        metadata={
            "help": "updates between log lines; metrics are read from the device once per interval",
            "at_least": 1,
        },
    )
    log_format: Optional[LOG_FORMAT_CHOICES] = field(
        default=None, metadata={"help": "json, simple, tqdm or none (null: tqdm on a terminal, simple elsewhere)"}
    )
    log_file: Optional[str] = field(default=None, metadata={"help": "also append the log to this file"})
    tensorboard_logdir: Optional[str] = field(
        default=None, metadata={"help": "folder for TensorBoard (extra `tensorboard`)"}
    )
    wandb_project: Optional[str] = field(
        default=None,
        metadata={"help": "project of Weights & Biases; offline where no login is known (extra `wandb`)"},
    )
    mlflow_experiment: Optional[str] = field(
        default=None,
        metadata={"help": "experiment of MLflow, in the store that MLFLOW_TRACKING_URI names (extra `mlflow`)"},
    )
    doctor: DOCTOR_CHOICES = field(
        default="warn",
        metadata={
            "help": "what a run does about its own findings: off; warn: log them; stop: also end, with a checkpoint, a "
            "run that learns nothing any more"
        },
    )
    report: bool = field(
        default=False,
        metadata={
            "help": "rebuild report.html in checkpoint.save_dir at each validation: see fairseq-report (extra `report`)"
        },
    )
    seed: int = field(
        default=1,
        metadata={
            "help": "all randomness is a function of this and of epoch, sample, update and micro-batch",
            "at_least": 0,
        },
    )
    cpu: bool = field(default=False, metadata={"help": "train on the CPU even where there is a GPU"})
    device: Optional[DEVICE_CHOICES] = field(
        default=None,
        metadata={
            "help": "cpu, cuda, hpu, or lazy, which records graphs on the CPU as Gaudi does (null: from common.hpu and "
            "common.cpu, else cuda if there is a GPU)"
        },
    )
    threads_per_process: int = field(
        default=0, metadata={"help": "CPU threads per process (0: cores divided by local processes)", "at_least": 0}
    )

    bf16: bool = field(default=False, metadata={"help": "autocast to bfloat16 over fp32 parameters"})
    fp16: bool = field(
        default=False,
        metadata={"help": "autocast to float16 with loss scaling on CUDA; bfloat16 on devices without float16"},
    )
    amp: bool = field(default=False, metadata={"help": "the same as fp16"})
    memory_efficient_bf16: bool = field(
        default=False, metadata={"help": "the same as bf16: parameters are never kept in half precision"}
    )
    memory_efficient_fp16: bool = field(
        default=False, metadata={"help": "the same as fp16: parameters are never kept in half precision"}
    )
    fp16_init_scale: int = field(default=2**7, metadata={"help": "loss scale that fp16 starts with"})
    fp16_scale_window: Optional[int] = field(
        default=None,
        metadata={
            "help": "updates without overflow before the loss scale doubles (null: 2^14 / world size / update_freq)"
        },
    )
    min_loss_scale: float = field(
        default=1e-4, metadata={"help": "stop when fp16's loss scale falls below this: the run has diverged"}
    )
    amp_init_scale: int = field(default=2**7, metadata={"help": "loss scale that amp starts with"})

    user_dir: Optional[str] = field(
        default=None, metadata={"help": "folder of a Python package that registers your own models, tasks ..."}
    )
    suppress_crashes: bool = field(default=False, metadata={"help": "continue a sweep when one of its runs fails"})

    hpu: bool = field(default=False, metadata={"help": "train on Intel Gaudi cards"})
    hpu_lazy_mode: bool = field(
        default=True, metadata={"help": "Gaudi records operations and runs them as compiled graphs; false: one by one"}
    )
    hpu_compile: HPU_COMPILE_CHOICES = field(
        default="none",
        metadata={"help": "hpu_graphs: replay captured graphs (lazy mode); compile: torch.compile (eager mode)"},
    )
    hpu_optimize_ddp: bool = field(
        default=True,
        metadata={
            "help": (
                "with hpu_compile=compile on several cards, split graphs at DDP's buckets, so that communication "
                "overlaps with backward"
            )
        },
    )
    hpu_compiled_autograd: bool = field(
        default=False,
        metadata={"help": "with hpu_compile=compile, torch also compiles the backward pass (experimental on Gaudi)"},
    )
    hmp: bool = field(
        default=False, metadata={"help": "the Gaudi recipe's mixed precision: autocast to bfloat16 by the two op lists"}
    )
    hmp_bf16: str = field(
        default="",
        metadata={
            "help": "file of operators to run in bf16; searched next to the config, in the current folder and in the "
            "package"
        },
    )
    hmp_fp32: str = field(
        default="", metadata={"help": "file of operators to run in fp32; searched in the same places"}
    )
    hmp_opt_level: str = field(
        default="O1", metadata={"help": "O1 (op lists); O2 was dropped with release 1.13 of Gaudi's software"}
    )
    hmp_verbose: bool = field(default=False, metadata={"help": "log the operators of both lists"})

    # not offered or without effect: fairseq/dataclass/not_offered.py says what to use instead
    fp16_no_flatten_grads: bool = False
    fp16_scale_tolerance: float = 0.0
    on_cpu_convert_precision: bool = False
    amp_batch_retries: int = 2
    reset_logging: bool = False
    all_gather_list_size: int = 16384
    empty_cache_freq: int = field(default=0, metadata={"at_least": 0})
    amp_scale_window: Optional[int] = None
    threshold_loss_scale: Optional[float] = None
    profile: bool = False
    aim_repo: Optional[str] = None
    aim_run_hash: Optional[str] = None
    azureml_logging: Optional[bool] = False
    tpu: bool = False
    model_parallel_size: int = 1
    quantization_config_path: Optional[str] = None
    use_plasma_view: bool = False
    plasma_path: Optional[str] = field(default_factory=lambda: os.path.join(tempfile.gettempdir(), "plasma"))

    def check(self) -> Iterator[Finding]:
        yield from self._one_device()
        yield from self._precision()
        yield from self._op_lists_apply()
        for problem in device_layer.problems(cast(DictConfig, self)):  # its fields by their names
            yield wrong(problem, "device")

    def check_files(self) -> Iterator[Finding]:
        if not (self.hmp and self.on_hpu):
            return
        for key, name in (("hmp_bf16", self.hmp_bf16), ("hmp_fp32", self.hmp_fp32)):
            if name:
                try:
                    hpu_environment.read_op_list(hpu_environment.find_op_list(name))
                except ValueError as error:
                    yield wrong(f"common.{key} is {error}", "op-lists")

    @property
    def on_hpu(self) -> bool:
        return self.hpu or self.device == "hpu"

    def _one_device(self) -> Iterator[Finding]:
        """Check that only one device is set, and that its mode supports hpu_compile."""
        if self.hpu and self.cpu:
            yield wrong(
                "common.hpu and common.cpu are both true: set one of them to false (common.cpu=false).", "gaudi"
            )
        if self.hpu and self.device not in (None, "hpu"):
            yield wrong(
                f"common.hpu is true but common.device is {self.device}: leave one of them at its default.", "gaudi"
            )
        lazy = hpu_environment.is_lazy({hpu_environment.LAZY_MODE: "1" if self.hpu_lazy_mode else "0", **os.environ})
        if self.hpu_compile != "none" and not self.on_hpu:
            yield odd(f"common.hpu_compile is {self.hpu_compile} and has no effect: this run is not on HPU.", "gaudi")
        elif self.hpu_compile == "hpu_graphs" and not lazy:
            yield wrong(
                "common.hpu_compile is hpu_graphs, which requires lazy mode. Set common.hpu_lazy_mode=true, or "
                "common.hpu_compile=compile.",
                "gaudi",
            )
        elif self.hpu_compile == "compile" and lazy:
            yield wrong(
                "common.hpu_compile is compile, which requires eager mode. Set common.hpu_lazy_mode=false, or "
                "common.hpu_compile=hpu_graphs.",
                "gaudi",
            )
        if self.hpu_compiled_autograd and (self.hpu_compile != "compile" or not self.on_hpu):
            yield odd(
                "common.hpu_compiled_autograd is true and has no effect without common.hpu_compile=compile on HPU.",
                "gaudi",
            )

    def _precision(self) -> Iterator[Finding]:
        """Check that only one half precision is set."""
        half = [name for name in ("fp16", "memory_efficient_fp16", "amp") if getattr(self, name)]
        brain = [name for name in ("bf16", "memory_efficient_bf16") if getattr(self, name)]
        if half and brain:
            yield wrong(
                f"common.{half[0]} and common.{brain[0]} are both true: set one of them to false "
                f"(common.{half[0]}=false).",
                "optimisation",
            )

    def _op_lists_apply(self) -> Iterator[Finding]:
        """Check the settings of mixed precision by op lists."""
        if self.hmp and self.hmp_opt_level == "O2":
            yield wrong(
                "common.hmp_opt_level is O2, a level of Habana's own mixed precision, which was dropped with release "
                "1.13 of its software. Autocast replaces it, and takes op lists only. Set common.hmp_opt_level=O1, "
                "with common.hmp_bf16 and common.hmp_fp32.",
                "gaudi",
            )
        elif self.hmp and self.hmp_opt_level != "O1":
            yield wrong(f"common.hmp_opt_level is {self.hmp_opt_level!r}: it must be O1.", "gaudi")
        if self.hmp and not self.on_hpu and (self.hmp_bf16 or self.hmp_fp32):
            yield odd(
                "common.hmp uses bfloat16 autocast with torch's own list of operators on this device: "
                "common.hmp_bf16 and common.hmp_fp32 only apply on HPU.",
                "gaudi",
            )


@dataclass
class CommonEvalConfig(FairseqDataclass):
    """Settings of commands that load a trained model."""

    path: Optional[str] = field(default=None, metadata={"help": "checkpoint, or several joined by colons"})
    post_process: Optional[str] = field(
        default=None, metadata={"help": "how label units become words: letter, wordpiece, sentencepiece ..."}
    )
    quiet: bool = field(default=False, metadata={"help": "print the scores only"})
    model_overrides: str = field(
        default="{}", metadata={"help": "a Python dict of model settings that differ from the checkpoint's"}
    )
    results_path: Optional[str] = field(default=None, metadata={"help": "folder for the results"})


@dataclass
class EMAConfig(FairseqDataclass):
    """A running average of the weights."""

    store_ema: bool = field(
        default=False, metadata={"help": "keep the average; it is saved in the checkpoint's extra_state"}
    )
    ema_decay: float = field(
        default=0.9999, metadata={"help": "share of the old average that an update keeps", "share": True}
    )
    ema_start_update: int = field(
        default=0, metadata={"help": "copy the weights until this update, average from then on"}
    )
    ema_seed_model: Optional[str] = field(
        default=None, metadata={"help": "checkpoint that the average starts from (null: the model itself)"}
    )
    ema_update_freq: int = field(
        default=1, metadata={"help": "updates between two steps of the average", "at_least": 1}
    )
    ema_fp32: bool = field(default=False, metadata={"help": "average in fp32 regardless of the weights' precision"})

    def check_files(self) -> Iterator[Finding]:
        if self.ema_seed_model is not None and not Path(self.ema_seed_model).expanduser().exists():
            yield wrong(
                f"ema.ema_seed_model is {self.ema_seed_model!r}: there is no such "
                f"file{from_here(Path(self.ema_seed_model))}.",
                "other-paths",
            )
