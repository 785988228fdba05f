"""All checks of a run, in the order in which they need each other's results."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fairseq import device as device_layer
from fairseq import optim, tasks
from fairseq.dataclass.configs import CommonConfig
from fairseq.dataclass.validate import find_named, unrelated
from fairseq.device.stand_in import StandIn
from fairseq.distributed.costs import weights_of
from fairseq.distributed.place import Place, cards_of_a_node
from fairseq.logging import sinks
from fairseq.preflight import batches, card, corpus, device, host, plan, scaling, steps, tiny
from fairseq.preflight.heartbeat import silent
from fairseq.preflight.memory import MemoryMeter
from fairseq.preflight.plan import Launch, Shape, Split
from fairseq.preflight.report import Report, Section
from fairseq.tasks.task import Task
from fairseq.training.precision import Precision

STEPS = ("tiny", "full", "none")
_VISITED = 8  # most shapes per mode (training, validation) that steps run on


class Options(NamedTuple):
    """Options of a check, besides the run's config."""

    nodes: int = 1
    # per node, as started by a launcher; None: distributed_training.distributed_world_size
    processes: int | None = None
    speed: float | None = None  # seconds of audio per second, all cards together
    card: str | None = None  # a key of host.CARDS
    steps: str = "tiny"  # one of STEPS
    cards: tuple[int, ...] = (1, 8, 32, 256)  # numbers of cards in the table of strategies
    card_memory: tuple[int, ...] | None = None  # GB; None: those of the device's usual cards


def check(
    cfg: DictConfig, config_problems: list[str], options: Options, progress: Callable[[str], None] = silent
) -> Report:
    """Check a run.

    Args:
        cfg: the whole config, resolved.
        config_problems: problems with its keys and types.
        progress: called with the name of each part when it begins.
    """
    progress("checking the config")
    asked = options.processes or cfg.distributed_training.distributed_world_size
    launch = Launch(options.nodes, asked)
    report = Report(_headline(cfg, launch))
    report.sections.append(_config(cfg, config_problems, options))
    if report.problems:
        report.sections[0].notes.append(
            "this config would stop the run at its start, so data and steps were not checked."
        )
        return report
    data = Section("Data")
    progress("building the model and reading the manifests")
    try:
        task = tasks.setup_task(cfg.task)
        criterion = task.build_criterion(cfg.criterion)
        meter = _meter(cfg, task, criterion, data)
        splits = plan.load(cfg, task, launch)
    except ValueError as error:
        data.problem("data", str(error), "")
        report.sections.append(data)
        return report
    progress("planning batches")
    report.sections.append(corpus.describe(cfg, splits, launch, options.speed))
    report.sections[-1].notes += data.notes
    for split in splits:
        tiny.hear_noise(split)
    tools = host.ask_tools()
    progress("measuring the memory of each batch shape")
    largest = _batches(report, cfg, meter, splits, launch, options, tools.card)
    report.sections.insert(2, host.memory(cfg, splits, largest, launch))
    host.add_tools(report.sections[2], tools)
    if not is_static(cfg):
        report.sections[-1].notes.append(
            "this run is not on HPU: operators, graphs and reads of the device were not checked."
        )
    elif options.steps != "none":
        progress(f"running steps on the CPU instead of the card (--steps {options.steps})")
        report.sections.append(_device(cfg, splits, report, full=options.steps == "full"))
    return report


def is_static(cfg: DictConfig) -> bool:
    """Whether the run's device compiles graphs of fixed shapes."""
    return device_layer.of_config(cfg.common).graphs_are_static


def _headline(cfg: DictConfig, launch: Launch) -> str:
    model = cfg.model._name if isinstance(cfg.model, DictConfig) else "no model"
    mode = (
        f"HPU, {'lazy' if cfg.common.hpu_lazy_mode else 'eager'} mode"
        if cfg.common.hpu
        else device_layer.asked_for(cfg.common)
    )
    nodes = "1 node" if launch.nodes == 1 else f"{launch.nodes} nodes"
    cards = "1 card" if launch.processes == 1 else f"{launch.processes} cards"
    return f"{model} on {mode}, {nodes} x {cards}, update_freq {list(cfg.optimization.update_freq)}"


def _config(cfg: DictConfig, config_problems: list[str], options: Options) -> Section:
    """Findings of the checks that every run makes at its start, and of those of a launcher's line."""
    section = Section("Config")
    for text in config_problems:
        section.problem("config", text, "")
    for text in sinks.problems(cfg.common):
        section.problem("destinations", text, "")
    for finding in unrelated(find_named(cfg), config_problems):
        if finding.stops:
            section.problem(finding.name, finding.text, "")
        else:
            section.notes.append(finding.text)
    if options.processes is not None:
        place = Place(0, 0, options.nodes * options.processes, options.processes)
        strict = device_layer.of_config(cfg.common).world_size_is_strict
        odd = cards_of_a_node(cfg.distributed_training, place, list(cfg.optimization.update_freq), strict)
        if odd is not None and strict:
            section.problem("cards-of-a-node", odd, "")
        elif odd is not None:
            section.notes.append(odd)
    return section


def _device(cfg: DictConfig, splits: list[Split], report: Report, full: bool) -> Section:
    """Run steps of the run's twin. If they fail, that is a problem: the run would fail too."""
    shapes = [shape for split in splits for shape in plan.shapes(split)]
    visited = [shape for mode in (True, False) for shape in _spread([s for s in shapes if s.training is mode])]
    trace = graphs = watch = None
    try:
        trace, watch = steps.trace_operators(cfg, visited)
        graphs = steps.run_graphs(cfg, visited, full) if steps.supported() else None
    except Exception as error:  # a user's model may raise anything, and this command reports it
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        section = device.describe(trace, watch, None, len(visited), None)
        section.problem(
            "step-fails",
            f"a step of a small twin of this run failed with {type(error).__name__}: {_first_line(error)}",
            "Set HYDRA_FULL_ERROR=1 to see the traceback.",
        )
        return section
    sent = report.values("to_device")
    return device.describe(
        trace, watch, graphs, len(visited), None if sent is None else sent * cfg.optimization.update_freq[-1]
    )


def _spread(shapes: list[Shape]) -> list[Shape]:
    """Choose at most 8 shapes, evenly from the smallest to the largest."""
    if len(shapes) <= _VISITED:
        return shapes
    return [shapes[round(i * (len(shapes) - 1) / (_VISITED - 1))] for i in range(_VISITED)]


# -- memory ------------------------------------------------------------------------------------------------------------


def dtype_of(common: CommonConfig) -> torch.dtype | None:
    """Dtype that the run computes in; None for fp32."""
    if common.hpu and common.hmp:
        return torch.bfloat16
    return Precision(common, StandIn(), updates_per_window=1).dtype


def _meter(cfg: DictConfig, task: Task, criterion: nn.Module, section: Section) -> MemoryMeter | None:
    """Return the model on fake tensors; None if that fails, after building a real one for the task's sake."""
    model = OmegaConf.create(OmegaConf.to_container(cfg.model))
    if "checkpoint_activations" in model:
        model.checkpoint_activations = True  # memory is counted with and without it
    try:
        return MemoryMeter(lambda: task.build_model(model), criterion)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        section.notes.append(
            f"memory was not measured: the model cannot be built on fake tensors ({_first_line(error)})."
        )
        task.build_model(cfg.model)
        return None


def _batches(
    report: Report,
    cfg: DictConfig,
    meter: MemoryMeter | None,
    splits: list[Split],
    launch: Launch,
    options: Options,
    found_card: str | None,
) -> int:
    """Add the sections on shapes and memory; return the bytes of the largest batch as a worker makes it.

    Args:
        found_card: the card that hl-smi shows, a key of host.CARDS.
    """
    shapes = [shape for split in splits for shape in plan.shapes(split)]
    training = [shape for shape in shapes if shape.training]
    dtype = dtype_of(cfg.common)
    measured: list[batches.Measured] = []
    if meter is not None:
        try:
            with _as_on_the_device(cfg):
                measured = batches.measure(meter, splits[0], training, dtype)
        except Exception as error:  # a user's model may raise anything on fake tensors, and still train
            report.sections[-1].notes.append(
                f"memory was not measured: the model does not run on fake tensors ({_first_line(error)})."
            )
    demand = _demand(cfg, meter, measured, launch) if meter is not None and measured else None
    needs = {m.shape.key: m.held(demand.recomputes) + demand.own.on_device for m in measured} if demand else {}
    report.sections.append(batches.describe(shapes, needs, is_static(cfg), report.values("updates")["padding"]))
    if demand is not None:
        model = options.card or found_card
        memory = options.card_memory or (tuple(host.CARDS.values()) if is_static(cfg) else host.GPUS)
        limit = host.CARDS[model] if model else max(memory)
        report.sections.append(
            card.describe(measured, demand, dtype, memory, limit, cfg.dataset.max_tokens, _negatives(cfg))
        )
        report.sections.append(scaling.describe(demand, options.cards, memory))
        return max(m.on_host for m in measured)
    largest = max(training, key=lambda shape: shape.rows * shape.samples)
    return largest.rows * largest.samples * 5  # a float and a padding flag per sample


def _as_on_the_device(cfg: DictConfig) -> AbstractContextManager[None]:
    """Choose the forms of computation that the run's device has, which decide what autograd keeps."""
    if is_static(cfg):
        return device_layer.stood_in(StandIn())
    if cfg.common.cpu or cfg.common.device == "cpu":
        return device_layer.forced()
    # a GPU, which this machine need not have. With dropout, torch's attention on the CPU keeps the weights, and that of
    # a GPU does not; the blockwise one is nearer
    attention = "sdpa" if cfg.model.get("attention_dropout") == 0 else None
    return device_layer.forced(conv_form="conv1d", pos_conv_form="conv1d", attention_form=attention)


def _demand(cfg: DictConfig, meter: MemoryMeter, measured: list[batches.Measured], launch: Launch) -> scaling.Demand:
    recomputes = bool(cfg.model.get("checkpoint_activations"))
    return scaling.Demand(
        weights_of(meter.model),
        bool(cfg.ema.store_ema),
        round(_optimizer_share(cfg)),
        cfg.distributed_training,
        launch.world,
        launch.world * cfg.optimization.update_freq[-1],
        card.largest(measured, recomputes).kept,
        recomputes,
    )


def _optimizer_share(cfg: DictConfig) -> float:
    """Bytes of optimizer state per byte of parameters, from one step of the run's optimizer on a small parameter."""
    parameter = nn.Parameter(torch.zeros(4096))
    try:
        optimizer = optim.build_optimizer(cfg.optimizer, [parameter])
    except (ValueError, AssertionError):
        return 2.0  # composite: its groups need the model's own parameters; they use Adam
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer.optimizer.state[parameter]
    return (
        sum(value.nbytes for value in state.values() if isinstance(value, torch.Tensor) and value.dim())
        / parameter.nbytes
    )


def _negatives(cfg: DictConfig) -> tuple[int, int] | None:
    model = cfg.model
    if cfg.criterion._name != "wav2vec" or "num_negatives" not in model:
        return None
    return (
        model.num_negatives + model.cross_sample_negatives,
        model.final_dim if model.final_dim > 0 else model.encoder_embed_dim,
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
