"""Groups `dataset`, `optimization` and `checkpoint`."""

# ChoiceEnum makes the types of choices at run time
# pyright: reportInvalidTypeForm=false
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from omegaconf import II

from fairseq.dataclass.base import FairseqDataclass
from fairseq.dataclass.constants import DATASET_IMPL_CHOICES
from fairseq.dataclass.findings import Finding, odd, wrong
from fairseq.dataclass.values import from_here
from fairseq.stores import is_url

MOST_PROBE_MINUTES = 60.0  # of a base model: 4 GB of features


@dataclass
class DatasetConfig(FairseqDataclass):
    """Which data is read, in what batches, and when the model is validated."""

    num_workers: int = field(
        default=1, metadata={"help": "data-loading processes per training process (0: none)", "at_least": 0}
    )
    skip_invalid_size_inputs_valid_test: bool = field(
        default=False,
        metadata={"help": "skip utterances of a size that the model cannot take instead of raising an error"},
    )
    max_tokens: Optional[int] = field(
        default=None,
        metadata={"help": "audio samples in a batch, padding included (1400000: 87.5 s at 16 kHz)", "at_least": 1},
    )
    batch_size: Optional[int] = field(
        default=None, metadata={"help": "utterances in a batch", "argparse_alias": "--max-sentences", "at_least": 1}
    )
    required_batch_size_multiple: int = field(
        default=8,
        metadata={"help": "round a batch's utterances down to a multiple of this where possible", "at_least": 1},
    )
    data_buffer_size: int = field(
        default=10, metadata={"help": "batches that each data-loading process prepares in advance"}
    )
    train_subset: str = field(default="train", metadata={"help": "name of the manifest to train on, without .tsv"})
    valid_subset: str = field(
        default="valid", metadata={"help": "names of the manifests to validate on, joined by commas"}
    )
    combine_valid_subsets: Optional[bool] = field(
        default=None, metadata={"help": "validate on all valid*.tsv together", "argparse_alias": "--combine-val"}
    )
    ignore_unused_valid_subsets: Optional[bool] = field(
        default=False, metadata={"help": "raise no error for valid*.tsv that valid_subset leaves out"}
    )
    validate_interval: int = field(default=1, metadata={"help": "epochs between validations", "at_least": 1})
    validate_interval_updates: int = field(
        default=0, metadata={"help": "updates between validations (0: only by epochs)", "at_least": 0}
    )
    validate_after_updates: int = field(default=0, metadata={"help": "no validation before this update"})
    disable_validation: bool = field(default=False, metadata={"help": "never validate"})
    max_tokens_valid: Optional[int] = field(default=II("dataset.max_tokens"), metadata={"at_least": 1})
    batch_size_valid: Optional[int] = field(
        default=II("dataset.batch_size"),
        metadata={
            "help": "utterances in a validation batch",
            "argparse_alias": "--max-sentences-valid",
            "at_least": 1,
        },
    )
    max_valid_steps: Optional[int] = field(
        default=None,
        metadata={
            "help": "batches per validation and process (null: all)",
            "argparse_alias": "--nval",
            "at_least": 1,
        },
    )
    probe_data: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder with train.tsv and labels of transcribed speech, on which each validation of a "
            "pre-training run also trains a small CTC probe: metrics probe_cer and probe_loss"
        },
    )
    probe_labels: str = field(
        default="ltr", metadata={"help": "extension of the label files in probe_data: ltr, phn or wrd"}
    )
    probe_minutes: float = field(
        default=3.0,
        metadata={
            "help": "minutes of probe_data to train the probe on, and half as many to test it on: they bound its time"
        },
    )

    # not offered or without effect: fairseq/dataclass/not_offered.py says what to use instead
    required_seq_len_multiple: int = 1
    fixed_validation_seed: Optional[int] = None
    curriculum: int = 0
    gen_subset: str = "test"
    num_shards: int = 1
    shard_id: int = 0
    update_ordered_indices_seed: bool = False
    dataset_impl: Optional[DATASET_IMPL_CHOICES] = None
    grouped_shuffling: bool = False
    update_epoch_batch_itr: bool = II("dataset.grouped_shuffling")

    def check(self) -> Iterator[Finding]:
        if self.max_tokens is None and self.batch_size is None:
            yield wrong(
                "neither dataset.max_tokens (audio samples in a batch) nor dataset.batch_size (utterances) is set: "
                "set one of them.",
                "batches",
            )
        if not 0 < self.probe_minutes <= MOST_PROBE_MINUTES:
            yield wrong(
                f"dataset.probe_minutes is {self.probe_minutes:g}: it must be above 0 and at most "
                f"{MOST_PROBE_MINUTES:g}.",
                "probe",
            )
        if self.probe_data is not None and self.disable_validation:
            yield wrong(
                "dataset.probe_data is set, but dataset.disable_validation is true: probes run at validations. Set "
                "dataset.disable_validation=false, or dataset.probe_data=null.",
                "probe",
            )
        if self.train_subset in split_names(self.valid_subset):
            yield odd(
                f"dataset.valid_subset contains the training data, {self.train_subset}: its loss says nothing about "
                "unseen speech.",
                "checkpoints",
            )


@dataclass
class OptimizationConfig(FairseqDataclass):
    """How long to train, with which learning rate, and over how many batches a gradient is summed."""

    max_epoch: int = field(default=0, metadata={"help": "stop after this many epochs (0: no limit)", "at_least": 0})
    max_update: int = field(default=0, metadata={"help": "stop after this many updates (0: no limit)", "at_least": 0})
    stop_time_hours: float = field(
        default=0, metadata={"help": "save and stop after this many hours of training (0: no limit)", "at_least": 0}
    )
    clip_norm: float = field(
        default=0.0, metadata={"help": "largest norm of the gradient (0: not clipped)", "at_least": 0}
    )
    sentence_avg: bool = field(
        default=False, metadata={"help": "divide the gradient by utterances instead of masked frames"}
    )
    update_freq: list[int] = field(
        default_factory=lambda: [1],
        metadata={"help": "batches per process and update: one number, or one per epoch"},
    )
    lr: list[float] = field(
        default_factory=lambda: [0.25],
        metadata={"help": "learning rate: one number, or one per epoch if the schedule supports it"},
    )
    stop_min_lr: float = field(
        default=-1.0, metadata={"help": "stop when the learning rate falls to this", "argparse_alias": "--min-lr"}
    )
    skip_remainder_batch: Optional[bool] = field(
        default=False, metadata={"help": "skip an epoch's last update if it has too few batches"}
    )
    max_nonfinite_updates: int = field(
        default=10,
        metadata={
            "help": "stop after this many updates in a row with a non-finite loss or gradient",
            "at_least": 1,
        },
    )

    # not offered or without effect: fairseq/dataclass/not_offered.py says what to use instead
    debug_param_names: bool = False
    use_bmuf: bool = False

    def check(self) -> Iterator[Finding]:
        if not self.update_freq or min(self.update_freq) < 1:
            yield wrong(
                f"optimization.update_freq is {list(self.update_freq)}: it must be a list of numbers of at least 1, "
                "such as [64].",
                "optimisation",
            )
        if not self.lr or min(self.lr) < 0:
            yield wrong(
                f"optimization.lr is {list(self.lr)}: it must be a list of learning rates, such as [0.0005].",
                "optimisation",
            )
        if not (self.max_update or self.max_epoch or self.stop_time_hours):
            yield odd(
                "none of optimization.max_update, max_epoch and stop_time_hours is set: the run ends only when it is "
                "stopped.",
                "optimisation",
            )


@dataclass
class CheckpointConfig(FairseqDataclass):
    """Where checkpoints are written, how many are kept, what is restored, and which one is the best."""

    save_dir: str = field(
        default="checkpoints",
        metadata={
            "help": "folder for checkpoints and metrics.jsonl, relative to the current folder; or a URL such as "
            "s3://bucket/folder, which sets checkpoint.store, with a local folder in checkpoints/s3/bucket/folder"
        },
    )
    store: Optional[str] = field(
        default=None,
        metadata={
            "help": "URL of a folder in an object store, such as s3://bucket/folder, to which the checkpoints in "
            "save_dir are uploaded, and from which a run resumes on another machine"
        },
    )
    restore_file: str = field(
        default="checkpoint_last.pt",
        metadata={"help": "checkpoint to resume from: a name in save_dir, a full path, or a URL"},
    )
    continue_once: Optional[str] = field(
        default=None, metadata={"help": "checkpoint to resume from as long as save_dir has no checkpoint_last.pt"}
    )
    finetune_from_model: Optional[str] = field(
        default=None,
        metadata={
            "help": "start a new run from the weights of this checkpoint; ignored once save_dir has its own checkpoint"
        },
    )
    continue_pretraining: bool = field(
        default=False,
        metadata={
            "help": "with finetune_from_model, continue pre-training on your own audio: temperatures continue from "
            "where that checkpoint's ended, and the log reports how much of the codebook the new audio uses before "
            "the first update"
        },
    )
    reset_dataloader: bool = field(default=False, metadata={"help": "do not restore the position in the data"})
    reset_lr_scheduler: bool = field(default=False, metadata={"help": "do not restore the learning rate schedule"})
    reset_meters: bool = field(default=False, metadata={"help": "do not restore the running averages of the log"})
    reset_optimizer: bool = field(default=False, metadata={"help": "do not restore the optimizer's state"})
    optimizer_overrides: str = field(
        default="{}", metadata={"help": "a Python dict of optimizer settings that differ from the checkpoint's"}
    )
    save_interval: int = field(default=1, metadata={"help": "epochs between checkpoints", "at_least": 1})
    save_interval_updates: int = field(
        default=0, metadata={"help": "updates between checkpoints (0: only by epochs)", "at_least": 0}
    )
    keep_interval_updates: int = field(
        default=-1, metadata={"help": "keep this many of the checkpoints that save_interval_updates wrote (-1: all)"}
    )
    keep_interval_updates_pattern: int = field(
        default=-1,
        metadata={"help": "with keep_interval_updates, also keep those whose update is a multiple of this (-1: none)"},
    )
    keep_last_epochs: int = field(
        default=-1, metadata={"help": "keep the checkpoints of this many last epochs (-1: all)"}
    )
    keep_best_checkpoints: int = field(
        default=-1, metadata={"help": "keep this many of the best checkpoints (-1: only the best one)"}
    )
    no_save: bool = field(default=False, metadata={"help": "write no checkpoints"})
    no_epoch_checkpoints: bool = field(
        default=False, metadata={"help": "at the end of an epoch, write only the last and the best checkpoint"}
    )
    no_last_checkpoints: bool = field(
        default=False, metadata={"help": "write no checkpoint_last.pt; a run resumes from the newest other checkpoint"}
    )
    no_save_optimizer_state: bool = field(
        default=False, metadata={"help": "leave out the optimizer's state; the run then cannot resume exactly"}
    )
    best_checkpoint_metric: str = field(
        default="loss", metadata={"help": "validation metric that says which checkpoint is the best"}
    )
    maximize_best_checkpoint_metric: bool = field(
        default=False, metadata={"help": "larger is better, as with accuracy"}
    )
    patience: int = field(
        default=-1, metadata={"help": "stop after this many validations in a row without a better metric (-1: never)"}
    )
    checkpoint_suffix: str = field(default="", metadata={"help": "text before .pt in file names"})
    async_save: bool = field(
        default=False,
        metadata={
            "help": "write checkpoints while training continues; takes memory on the host for one more copy of the "
            "state"
        },
    )
    consolidate: str = field(
        default="end",
        metadata={
            "help": "when a run whose processes hold shards of the model also writes its checkpoints as one .pt file: "
            "the last and the best one at the end of training, every one, or never (fairseq-consolidate does it later)",
            "choices": ("never", "end", "always"),
        },
    )
    write_checkpoints_asynchronously: bool = field(default=False, metadata={"help": "fairseq's name of async_save"})

    # not offered or without effect: fairseq/dataclass/not_offered.py says what to use instead
    checkpoint_shard_count: int = 1
    load_checkpoint_on_all_dp_ranks: bool = False
    model_parallel_size: int = II("common.model_parallel_size")

    def check(self) -> Iterator[Finding]:
        if self.store is not None and not is_url(self.store):
            yield wrong(
                f"checkpoint.store is {self.store!r}: it must be a URL, such as s3://bucket/folder. For a local "
                "folder, set checkpoint.save_dir.",
                "checkpoints",
            )
        if self.store is not None and is_url(self.save_dir):
            yield wrong(
                f"checkpoint.save_dir is {self.save_dir!r}, and checkpoint.store is set too. Set only one of them to "
                "a URL.",
                "checkpoints",
            )
        if self.continue_pretraining and self.finetune_from_model is None:
            yield wrong(
                "checkpoint.continue_pretraining is true, but checkpoint.finetune_from_model is not set. Set it to the "
                "checkpoint to continue from.",
                "checkpoints",
            )
        if self.keep_interval_updates > 0 and not self.save_interval_updates:
            yield odd(
                "checkpoint.keep_interval_updates has no effect while checkpoint.save_interval_updates is 0.",
                "checkpoints",
            )
        if self.no_save and (self.save_interval_updates or self.keep_best_checkpoints > 0):
            yield odd(
                "checkpoint.no_save is true: no checkpoints are written, so checkpoint.save_interval_updates and "
                "checkpoint.keep_best_checkpoints have no effect.",
                "checkpoints",
            )
        elif self.no_last_checkpoints:
            yield odd(
                "checkpoint.no_last_checkpoints is true: if the command is rerun, it resumes from the newest of the "
                "other checkpoints, or starts over if there isn't one.",
                "checkpoints",
            )

    def check_files(self) -> Iterator[Finding]:
        start = self.finetune_from_model
        if start is not None and not is_url(start) and not Path(start).expanduser().exists():
            yield wrong(
                f"checkpoint.finetune_from_model is {start!r}: there is no such file{from_here(Path(start))}.",
                "other-paths",
            )
        folder = Path(self.save_dir)
        if not is_url(self.save_dir) and folder.exists() and not folder.is_dir():
            yield wrong(f"checkpoint.save_dir is {str(folder)!r}, which is a file: it must be a folder.", "other-paths")


def split_names(names: str) -> list[str]:
    """Split a comma-separated list, such as `dataset.valid_subset`."""
    return [name.strip() for name in names.split(",") if name.strip()]


def valid_subsets(dataset: DatasetConfig) -> list[str]:
    """The manifests that a run validates on, in order; none if validation is off."""
    return [] if dataset.disable_validation else split_names(dataset.valid_subset)
