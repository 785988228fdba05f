"""What an update does on a card: operators without a kernel, compiled graphs, reads by the host, and bytes sent."""

from __future__ import annotations

from fairseq.preflight import kernels
from fairseq.preflight.operators import Missing, Trace
from fairseq.preflight.report import Section
from fairseq.preflight.steps import UPDATES, VISITS, WARM_UP, Graphs, Watch

_LISTED = 6
_READ = ("_local_scalar_dense", "nonzero")  # reported as host reads and dynamic shapes


def describe(
    trace: Trace | None, watch: Watch | None, graphs: Graphs | None, num_shapes: int, bytes_per_update: int | None
) -> Section:
    """Describe what an update would do on a card.

    Args:
        trace: of an update through the HPU's branches; None: not traced.
        watch: the graphs of several updates by the bridge's rule.
        num_shapes: number of shapes that `graphs` visited.
        bytes_per_update: bytes copied to each card.
    """
    section = Section(
        "Device: steps of a small twin of the run, on the CPU instead of Gaudi and on torch's lazy-tensor device"
    )
    missing: set[str] = set()
    if trace is not None:
        missing = _operators(section, trace)
    if watch is not None:
        _keys(section, watch)
    if graphs is not None:
        _graphs(section, graphs, num_shapes)
        _reads(section, graphs, trace)
        _only_here(section, graphs, missing)
    if bytes_per_update is not None:
        section.say("copies", f"{bytes_per_update / 2**20:,.0f} MB per update to each card")
        section.values["bytes_to_device_per_update"] = bytes_per_update
    return section


def _operators(section: Section, trace: Trace) -> set[str]:
    """Report operators without a kernel; return their names without overloads."""
    lacking = [m for m in trace.missing if m.dtype is None]
    dtypes = [m for m in trace.missing if m.dtype is not None]
    names = sorted({m.operator for m in lacking})
    bridge = f"Gaudi's bridge {kernels.RELEASE}"
    found = f"without a kernel in {bridge}: {', '.join(names)}" if names else f"all have a kernel in {bridge}"
    section.say("operators", f"{len(trace.operators)} kinds in a step; {found}")
    section.values["operators"] = dict(sorted(trace.operators.items()))
    section.values["no_gaudi_kernel"] = [{**m._asdict(), "calls": times} for m, times in trace.missing.items()]
    for name in names:
        section.problem(
            "no-kernel",
            f"{name} has no Gaudi kernel: it runs on the host, which waits for the card each time. "
            f"{_called(name, lacking)}",
            "Use operators listed in fairseq/preflight/tables/hpu_ops_1.19.txt, or move it to the data-loading worker.",
        )
    for name, dtype in sorted({(m.operator, str(m.dtype)) for m in dtypes}):
        those = [m for m in dtypes if (m.operator, m.dtype) == (name, dtype)]
        section.problem(
            "no-kernel-for-dtype",
            f"{name} has no Gaudi kernel for {dtype}. {_called(name, those)}",
            f"Instead: {those[0].instead}.",
        )
    return {name.split(".")[0] for name in names}


def _called(name: str, those: list[Missing]) -> str:
    where = sorted({m.place for m in those if m.operator == name})
    more = f" and {len(where) - _LISTED} more places" if len(where) > _LISTED else ""
    return f"Called at {', '.join(where[:_LISTED])}{more}."


def _keys(section: Section, watch: Watch) -> None:
    """Report graphs by the bridge's rule, and the places where a graph differs from all earlier ones."""
    late = sum(map(len, watch.changes.values()))
    section.say(
        "graph keys", f"{len(watch.compiled)} graphs in {UPDATES} updates; {late} new after the first {WARM_UP} visits"
    )
    new = {f"{operator} at {place}": len(changes) for (operator, place), changes in watch.changes.items()}
    section.values["graph_keys"] = {"graphs": len(watch.compiled), "new": new}
    for where, changes in zip(new, watch.changes.values(), strict=True):
        section.problem(
            "recompiles",
            f"{len(changes)} graphs in {UPDATES} updates are new after the first {WARM_UP} visits. The first "
            f"difference is in {where}. There, {changes[0].difference}.",
            "Pass a number that changes as data: copy it into a tensor (tensor.copy_(torch.tensor(x))), or use it "
            "where a tensor is accepted (x * number). Keep shapes, slice bounds and dropout probabilities fixed.",
        )


def _graphs(section: Section, graphs: Graphs, num_shapes: int) -> None:
    each = ", ".join(f"{number} in {mode}" for mode, number in graphs.compiled.items())
    late = sum(graphs.again.values())
    section.say(
        "graphs",
        f"{each}, for {num_shapes} shapes visited {VISITS} times; {late} compiled after the first {WARM_UP} visits",
    )
    section.values["graphs"] = {"compiled": graphs.compiled, "compiled_again": graphs.again, "shapes": num_shapes}
    if late:
        shown = ", ".join(f"{shape} ({number})" for shape, number in list(graphs.again.items())[:_LISTED])
        section.problem(
            "recompiles",
            f"{late} graphs were compiled after the first {WARM_UP} visits of their shapes on torch's lazy device: "
            f"{shown}.",
            "A changed shape, slice bound or dropout probability compiles a new graph. Keep them fixed, and select "
            "with torch.where, weights of 0 or an index tensor.",
        )


def _reads(section: Section, graphs: Graphs, trace: Trace | None) -> None:
    """Report reads on the lazy device, and operators whose shapes depend on values, from the CPU's trace."""
    places = dict(graphs.reads)
    each = sum(places.values()) / max(1, graphs.updates)
    section.say("host reads", f"{each:.3g} per update" if places else "none")
    section.values["host_reads_per_update"] = each
    section.values["host_reads"] = places
    for place, times in sorted(places.items()):
        often = f"{times / max(1, graphs.updates):.3g} times per update"
        section.problem(
            "host-read",
            f"{place}, {often}: the host waits until the card has computed it, and the graph is cut there.",
            "Keep the value on the device (torch.where instead of if), or put it into the logging output, which is "
            "fetched once per log interval.",
        )
    reported = {place.split(" at ")[-1] for place in places}
    for operator, place in sorted(trace.dynamic if trace is not None else ()):
        if place not in reported:
            section.problem(
                "dynamic-shape",
                f"{operator} at {place}: its shape depends on values, so the host waits and a new graph is compiled.",
                "Use a mask and torch.where, or a fixed number of positions with weights.",
            )


def _only_here(section: Section, graphs: Graphs, missing: set[str]) -> None:
    """Note operators that torch's lazy backend cannot record but Gaudi's bridge can."""
    names = [name.removeprefix("aten::") for name in graphs.fallbacks]
    here = sorted({name for name in names if name.split(".")[0] not in missing and not name.startswith(_READ)})
    section.values["only_here"] = here
    if here:
        where = ", ".join(list(graphs.only_here)[:_LISTED])
        section.notes.append(
            f"only here: torch's lazy backend cannot record {', '.join(here)}, but Gaudi's bridge can ({where})."
        )
