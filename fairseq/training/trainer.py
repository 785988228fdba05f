"""The Trainer: a training step, readable top to bottom."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, cast

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from fairseq import device as device_layer
from fairseq import optim, utils
from fairseq.checkpoint.record import RunRecord
from fairseq.criterions import per_corpus
from fairseq.data.audio.quarantine import Quarantine
from fairseq.data.batch import Batch
from fairseq.data.iterators import EpochBatchIterator
from fairseq.data.options import LoaderOptions
from fairseq.distributed import progress, strategy
from fairseq.distributed import utils as distributed
from fairseq.distributed.sharding import plain
from fairseq.logging import metrics
from fairseq.models.fairseq_model import BaseFairseqModel
from fairseq.modules.run_mode import RunMode
from fairseq.optim import lr_scheduler, parameter_groups
from fairseq.tasks.task import Task
from fairseq.training import gradients, iterators, shares, validation
from fairseq.training.compile_alarm import CompileAlarm
from fairseq.training.ema import EMA
from fairseq.training.host_memory import HostMemory
from fairseq.training.precision import Precision
from fairseq.training.state import TrainingState
from fairseq.training.statistics import Interval, Statistics, Sums
from fairseq.training.stopping import Stopping

logger = logging.getLogger("fairseq.trainer")  # fairseq: the name in its log lines
MOST_NORMS = 1000  # size limit of the vector of norms on the device, for any common.log_interval


class Trainer:
    """Train one model on one device of one process, in step with the other processes of the run.

    An update runs its micro-batches forward and backward, adds up the sample sizes of all processes, normalises and
    clips the gradient, and steps the optimizer. None of that waits for the device: results are read at the log interval
    (`flush_statistics`).

    Args:
        cfg: the whole config.
        task: supplies data and metrics.
        model: on any device; it is moved to the run's device.
        criterion: called as `criterion(model, sample)`.
    """

    def __init__(self, cfg: DictConfig, task: Task, model: BaseFairseqModel, criterion: nn.Module) -> None:
        self.cfg = cfg
        self.task = task
        self.device = device_layer.select(cfg.common, cfg.distributed_training.device_id)
        self.strategy = strategy.choose(cfg.distributed_training, self.device)
        self.unwrapped_model = cast(BaseFairseqModel, self.strategy.place(model))
        self.criterion = criterion.to(self.device.torch_device)
        self._compile()
        self.model = self._distribute()
        per_update = self.data_parallel_world_size * cfg.optimization.update_freq[0]
        self.precision = Precision(cfg.common, self.device, updates_per_window=max(1, 2**14 // per_update))
        self._params = self.strategy.trained(self.unwrapped_model)
        names = [name for name, parameter in self.unwrapped_model.named_parameters() if parameter.requires_grad]
        self._param_of = dict(zip(names, self._params, strict=True))
        self._build_optimizer()
        self.ema = EMA(self.unwrapped_model, cfg.ema) if cfg.ema.store_ema else None
        self.state = TrainingState(
            cfg,
            task,
            self.unwrapped_model,
            self.criterion,
            self.optimizer,
            self.lr_scheduler,
            self.precision,
            self.ema,
            self.strategy,
        )
        self.statistics = Statistics(self.device)
        self.compile_alarm = CompileAlarm()
        self.host_memory = HostMemory()
        self.update_log = gradients.UpdateLog(
            self.device.torch_device,
            cfg.optimization.max_nonfinite_updates,
            room=min(cfg.common.log_interval, MOST_NORMS),
        )
        self._num_frozen = 0  # parameters that this update does not change
        self.skipped_updates = 0
        self.out_of_memory_updates = 0
        self.run_record = RunRecord(cfg.checkpoint.maximize_best_checkpoint_metric)
        self.norms: list[float] = []  # of the gradients, from the last read of the device
        self.before_step: Callable[[], None] = lambda: None  # a save may still be copying weights
        self.is_between_updates = True  # if false, weights, averages and counts are inconsistent: do not save
        self.stopping = Stopping(cfg.optimization.stop_time_hours, self.cumulative_training_time)
        metrics.log_start_time("wall", priority=790, round=0)

    def _compile(self) -> None:
        """Let the device compile the model, if `common.hpu_compile` asks for it."""
        how = str(self.cfg.common.hpu_compile)
        if how != "none" and self.device.compiles:
            buckets = self.cfg.task.num_batch_buckets if "num_batch_buckets" in self.cfg.task else 0
            shapes = 2 * max(1, buckets)  # for training and for validation
            accumulates = max(self.cfg.optimization.update_freq) > 1
            self.device.compile(self.unwrapped_model, how, shapes, accumulates, self.cfg.common.hpu_optimize_ddp)

    def _distribute(self) -> nn.Module:
        """Return the model that the criterion calls, wrapped if the strategy needs it."""
        # hpu: skipping a block would be another graph; all blocks are computed, and dropped ones undone
        static = self.device.graphs_are_static or self.strategy.needs_static_graph
        # looking for padding would wait for the device, and batches with and without padding would have two graphs
        self.unwrapped_model.configure(RunMode(static_graph=static, looks_for_padding=False))
        return self.strategy.wrap(self.unwrapped_model)

    def _build_optimizer(self) -> None:
        parameter_groups.mark(self.cfg.optimizer, self._param_of, self.unwrapped_model)
        self.optimizer = optim.build_optimizer(self.cfg.optimizer, self._params)
        self.lr_scheduler = lr_scheduler.build_lr_scheduler(self.cfg.lr_scheduler, self.optimizer)
        self.lr_scheduler.step_update(0)
        self.fused_clip: Callable[[], Tensor] | None = None
        if self.optimizer.uses_vendor_kernel and self.cfg.optimization.clip_norm > 0 and self.strategy.holds_all:
            self.fused_clip = self.device.fused_clip_norm(self._params, self.cfg.optimization.clip_norm)

    # -- the update ----------------------------------------------------------------------------------------------------

    def train_step(self, samples: list[Batch]) -> None:
        """Run one update with this process's micro-batches, in order.

        If the device runs out of memory, the update is skipped and the run continues. The run ends if its device cannot
        recover, or if other processes wait for this one.
        """
        self.model.train()
        self.unwrapped_model.set_num_updates(self.get_num_updates())
        progress.begin_update(self.get_num_updates())
        self._num_frozen = len(self._frozen()) if self.device.graphs_are_static else 0
        for kind in {self._kind("training", sample) for sample in samples} - {None}:
            self.compile_alarm.visit(kind)
        # hpu: zero in place; freeing gradients would change the graph
        if self.device.records_graphs or self.strategy.keeps_gradients:
            gradients.zero_in_place(self._params, self._frozen())
        else:
            self.optimizer.zero_grad()
        sample_size: Tensor | None = None
        try:
            sample_size = self._forward_backward(samples)
            self._step(samples, sample_size)
        except (RuntimeError, MemoryError) as error:
            if not self.device.is_out_of_memory(error):
                raise
            self._survive_out_of_memory(samples, error, has_gradients=sample_size is not None)

    def _kind(self, part: str, sample: Batch) -> Hashable:
        """Return what decides the graphs of a batch's step; None if the device compiles none."""
        if not self.device.graphs_are_static:
            return None
        # hpu: first visits may compile for minutes, which the compile alarm and the watchdog expect
        return part, sample["net_input"]["source"].shape, self._num_frozen if part == "training" else 0

    def _step(self, samples: list[Batch], sample_size: Tensor) -> None:
        """Normalise and clip the gradients, and step the optimizer."""
        prepared = gradients.prepare(
            self._params,
            self._begin_reduce(sample_size),
            self.precision.scaler.scale if self.precision.scaler else None,
            self.data_parallel_world_size,
            self.cfg.optimization.clip_norm,
            self.fused_clip,
            self.strategy.gradient_norm,
        )
        self.before_step()
        progress.doing("optimizer", kind=self._kind("training", samples[0]))
        self.is_between_updates = False
        self.optimizer.step(found_inf=prepared.found_inf, grad_scale=prepared.divide_by)
        if self.precision.scaler is not None:
            self.precision.scaler.update(prepared.found_inf)
        self.statistics.commit(prepared.found_inf)
        self.update_log.record(prepared, self.get_num_updates(), [sample["id"] for sample in samples])
        self.set_num_updates(self.get_num_updates() + 1)
        if self.ema is not None:
            self.ema.step(self.unwrapped_model, self.get_num_updates())
        self.is_between_updates = True
        self.device.mark_step()  # hpu: the optimizer's graph ends here
        progress.begin_update(self.get_num_updates())

    def _forward_backward(self, samples: list[Batch]) -> Tensor:
        """Accumulate the gradients of the micro-batches, and return their sample size, 0-dim on the device."""
        total = torch.zeros((), device=self.device.torch_device)
        for i, sample in enumerate(samples):
            # decision 5: random draws depend only on the update and on the micro-batch's global number
            # hpu: in eager mode, seeding waits for the card, so it is done once per update
            if i == 0 or self.device.seeds_each_micro_batch:
                self.device.seed(utils.keyed_seed(self.cfg.common.seed, self.get_num_updates(), sample["micro"]))
            # processes exchange gradients once per update, with the last micro-batch
            now, which = i == len(samples) - 1, f"micro-batch {i + 1} of {len(samples)}"
            kind = self._kind("training", sample)
            progress.doing("forward", which, kind)
            with self.strategy.exchange(now):
                with self.precision.autocast():
                    loss, sample_size, log = self.criterion(self.model, validation.on_device(sample, self.device))
                # a strategy that needs equal graphs exchanges gradients during the backward pass
                progress.doing("backward", which, kind, waits=now and self.strategy.needs_static_graph)
                self.precision.scale(loss).backward()
            total += sample_size
            self.statistics.add(log)  # hpu: detached sums that stay on the card until the log interval
            self.device.mark_step()  # hpu: a micro-batch is one graph, forward and backward
            self.statistics.count(
                audio_seconds=sample["num_samples"] / self.task.sample_rate,
                samples_sent=math.prod(sample["net_input"]["source"].shape[:2]),
                few_masked=sample["few_masked"],
                num_masked=sample["num_masked"],
                num_frames=sample["num_frames"],
                **per_corpus.counted(sample),
            )
        gradients.complete(self._params, self._frozen())
        progress.doing("exchange", kind=self._kind("training", samples[0]), waits=True)
        self.strategy.reduce(self._params)
        if self.cfg.optimization.sentence_avg:
            # hpu: copied to the device, because a fill with another number would be another graph
            total = self.device.send(torch.tensor(float(sum(sample["num_valid"] for sample in samples))))
        self.statistics.count(num_updates=1 / self.data_parallel_world_size)
        return total

    def _frozen(self) -> set[Tensor]:
        """Return those of the trained tensors that this update does not change."""
        frozen = set(self.unwrapped_model.frozen_parameters())
        # by name: a strategy that shards the model trains other tensors than its parameters
        named = self.unwrapped_model.named_parameters() if frozen else ()
        return {self._param_of[name] for name, p in named if p in frozen and name in self._param_of}

    def _begin_reduce(self, sample_size: Tensor) -> Callable[[], Tensor]:
        """Start adding up the sample size over all processes; the returned function waits for the result."""
        work = distributed.all_reduce(sample_size, async_op=True)

        def finish() -> Tensor:
            if work is not None:
                work.wait()
            return sample_size

        return finish

    def _survive_out_of_memory(self, samples: list[Batch], error: BaseException, has_gradients: bool) -> None:
        """Skip the update, if this device allows it, this is the only process, and no weight has changed yet."""
        shapes = ", ".join("x".join(map(str, sample["net_input"]["source"].shape)) for sample in samples)
        update = self.get_num_updates() + 1
        advice = (
            f"out of memory at update {update} with audio of shape {shapes} (utterances x samples). "
            "Lower dataset.max_tokens or dataset.batch_size (and raise optimization.update_freq as much), lower "
            "task.max_sample_size, or set model.checkpoint_activations=true."
        )
        if not self.device.recovers_from_out_of_memory:
            raise RuntimeError(
                f"{advice} {self._memory()}This device cannot free the update's memory, so the run ends; its last "
                "checkpoint is intact. To see the memory of each bucket before training, run fairseq-preflight with "
                "the same arguments."
            ) from error
        if self.data_parallel_world_size > 1:
            raise RuntimeError(f"{advice} The other processes cannot continue without this one.") from error
        if has_gradients:
            raise RuntimeError(
                f"{advice} It happened while the weights were changing, so the run ends; its last checkpoint is intact."
            ) from error
        self.out_of_memory_updates += 1
        logger.warning("%s The batch is skipped (%d so far).", advice, self.out_of_memory_updates)
        self.statistics.discard()
        self.optimizer.zero_grad()
        self.device.empty_cache()

    def _memory(self) -> str:
        """Describe the memory that every batch needs, and the device's memory statistics."""
        held = [*self.unwrapped_model.parameters(), *self.unwrapped_model.buffers()]
        numbers = sum(plain(tensor).numel() for tensor in held)
        figures = ", ".join(f"{name} {value}" for name, value in self.device.memory_statistics().items())
        return (
            f"Weights, gradients and the optimizer's averages take about {16 * numbers / 2**30:.1f} GB; the rest is "
            f"activations for this shape ({figures}). "
        )

    # -- validation ----------------------------------------------------------------------------------------------------

    def validate(self, batches: Iterable[list[Batch]], quarantine: Quarantine | None = None) -> Sums:
        """Sum the criterion's logged values over a validation set and all processes.

        Args:
            quarantine: records files that cannot be decoded; None: they are not reported.
        """
        batches = self._noting_shapes(batches)
        return validation.validate(
            self.task,
            self.unwrapped_model,
            self.criterion,
            batches,
            self.device,
            self.precision,
            self.cfg.common.seed,
            quarantine,
        )

    def _noting_shapes(self, batches: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        """Yield the batches, and note their shapes, whose first visits may compile graphs."""
        for samples in batches:
            for sample in samples:
                kind = self._kind("validation", sample)
                self.compile_alarm.visit(kind)
                progress.doing("validation", kind=kind)
            yield samples
        progress.doing("exchange", "results of the validation", waits=True)

    # -- what the log shows --------------------------------------------------------------------------------------------

    def flush_statistics(self, hold: bool = False) -> None:
        """Read the device once, and log the metrics since the last read.

        Args:
            hold: keep them for the next call, also over a resume: a stop within a log interval must not change its
                means.
        Raises:
            FloatingPointError: too many updates in a row were skipped, or the fp16 scale fell below its minimum.
        """
        progress.doing("exchange", "statistics of the log interval", waits=True)
        scaler, loss_scale = self.precision.scaler, math.inf
        fetched = self.statistics.fetch([*self.update_log.pending(), *([scaler.scale] if scaler else [])])
        self.compile_alarm.visit("log")
        device_values = fetched.extra
        if scaler is not None:
            loss_scale = device_values.pop()
            metrics.log_scalar("loss_scale", loss_scale, priority=700, round=4, weight=0)
        settled = self.update_log.settle(device_values)
        self.norms = settled.norms
        self.device.mark_step()  # hpu: ends the graph that zeroed the sums, so that they do not join the next one
        self._report_skipped(settled.skipped)
        interval = Interval(fetched.logged, fetched.counted, settled.norms)
        if self.state.held is not None:
            interval = self.state.held.then(interval)
        self.state.held = interval if hold else None
        if interval.counted.get("num_updates") and not hold:
            self._log_update_metrics(interval)
        if settled.too_many_in_a_row:
            raise FloatingPointError(
                f"{settled.too_many_in_a_row} updates in a row had a loss or gradient that was not finite "
                f"(optimization.max_nonfinite_updates={self.update_log.limit}). Lower optimization.lr, set "
                "optimization.clip_norm, or check the utterances in the warnings above."
            )
        if scaler is not None:
            scaler.check(loss_scale)

    def _log_update_metrics(self, interval: Interval) -> None:
        sums, counted, norms = interval
        updates, seconds, few_masked = round(counted["num_updates"]), counted["audio_seconds"], counted["few_masked"]
        self.task.reduce_metrics([sums], self.criterion)
        metrics.log_speed("wps", sums["ntokens"], priority=180, round=1)
        metrics.log_speed("ups", updates, priority=190, round=2)
        metrics.log_speed("audio_s_per_s", seconds, priority=185, round=1)
        metrics.log_scalar("wpb", sums["ntokens"] / updates, weight=updates, priority=200, round=1)
        metrics.log_scalar("bsz", sums["nsentences"] / updates, weight=updates, priority=210, round=1)
        metrics.log_scalar("audio_s_per_update", seconds / updates, weight=updates, priority=215, round=1)
        per_corpus.log_counted(self.task.corpora, counted, self.task.sample_rate)
        metrics.log_scalar("lr", self.get_lr(), weight=0, priority=300)
        if norms:
            metrics.log_scalar("gnorm", sum(norms) / len(norms), weight=len(norms), priority=400, round=3)
            if self.cfg.optimization.clip_norm > 0:
                share = sum(norm > self.cfg.optimization.clip_norm for norm in norms) / len(norms)
                metrics.log_scalar("clip", 100 * share, weight=len(norms), priority=500, round=1)
        if self.skipped_updates:
            metrics.log_scalar("skipped", self.skipped_updates, weight=0, priority=710, round=0)
        if few_masked:
            metrics.log_scalar("few_masked", few_masked, priority=720, round=0)
        shares.log_contents(counted, self.task.sample_rate)
        counters = shares.log_machine(self.device, self.host_memory)
        alarm = self.compile_alarm.check(counters, updates)
        if alarm is not None and self.is_data_parallel_master:
            logger.warning(alarm)

    def _report_skipped(self, skipped: list[tuple[int, list[int]]]) -> None:
        self.skipped_updates += len(skipped)
        if skipped:
            self.optimizer.sync_steps()
        for update, indices in skipped:
            names = [self.task.utterance_name(self.cfg.dataset.train_subset, index) for index in indices]
            logger.warning(
                "update %d was skipped: its loss or gradient was not finite. Its utterances: %s",
                update + 1,
                ", ".join(names),
            )

    # -- data ----------------------------------------------------------------------------------------------------------

    def get_train_iterator(self, epoch: int, load_dataset: bool = True) -> EpochBatchIterator:
        """Iterate over the updates of the training set, starting at this epoch (from 1)."""
        subset = self.cfg.dataset.train_subset
        if load_dataset:
            self.task.load_dataset(subset, combine=True)
        return iterators.training_iterator(self.cfg, self.task, self._loader_options(), epoch)

    def get_valid_iterator(self, subset: str) -> EpochBatchIterator:
        """Iterate over the batches of a validation set; the same at every call."""
        return iterators.validation_iterator(self.cfg, self.task, subset, self._loader_options())

    def _loader_options(self) -> LoaderOptions:
        return iterators.loader_options(self.cfg, self.device, self.data_parallel_world_size, self.data_parallel_rank)

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return this process's state without its position in the data; see `TrainingState.collect`.

        All processes may call it; a save combines their results if each holds a shard.
        """
        self.compile_alarm.visit("checkpoint")
        return self.state.collect()

    def only_steps_change(self) -> Iterator[Tensor]:
        """Yield the tensors of the state that a forward pass leaves as they are."""
        return self.state.only_steps_change()

    def load_state_dict(
        self,
        checkpoint: dict[str, Any],
        reset_optimizer: bool = False,
        reset_lr_scheduler: bool = False,
        reset_meters: bool = False,
        optimizer_overrides: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Load a whole state on the CPU, and return its `extra_state`; see `TrainingState.restore`."""
        return self.state.restore(checkpoint, reset_optimizer, reset_lr_scheduler, reset_meters, optimizer_overrides)

    def forget_held_statistics(self) -> None:
        """Drop a checkpoint's partial log interval at the start of an epoch: it belongs to another epoch."""
        self.state.held = None

    @property
    def is_data_parallel_master(self) -> bool:
        return self.data_parallel_rank == 0

    @property
    def data_parallel_world_size(self) -> int:
        return distributed.get_world_size()

    @property
    def data_parallel_rank(self) -> int:
        return distributed.get_rank()

    def get_num_updates(self) -> int:
        return self.state.num_updates

    def set_num_updates(self, num_updates: int) -> None:
        """Set the count of updates, and the learning rate of the next one."""
        self.state.set_num_updates(num_updates)

    def lr_step_begin_epoch(self, epoch: int) -> float:
        self.lr_scheduler.step_begin_epoch(epoch)
        return self.lr_scheduler.step_update(self.get_num_updates())

    def lr_step(self, epoch: int, val_loss: float | None = None) -> float:
        """Step the schedule at the end of an epoch; some schedules use the validation loss."""
        self.lr_scheduler.step(epoch, val_loss)
        return self.lr_scheduler.step_update(self.get_num_updates())

    def get_lr(self) -> float:
        return self.optimizer.get_lr()

    def cumulative_training_time(self) -> float:
        """Seconds trained, over all resumes."""
        return self.state.seconds()

    def is_finished(self) -> bool:
        """Whether the run has reached max_update."""
        max_update = self.cfg.optimization.max_update or math.inf
        if self.get_num_updates() >= max_update:
            logger.info("stopping: num_updates %d reached optimization.max_update", self.get_num_updates())
            return True
        return False
