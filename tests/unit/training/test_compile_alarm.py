"""The warning about graphs that are compiled late: when it comes, what it says, and when it does not."""

from __future__ import annotations

from fairseq.training.compile_alarm import MOST_KINDS, CompileAlarm


def counters(graphs: int, on_host: int = 0) -> dict[str, float]:
    return {"hpu_graph_compilations": graphs, "hpu_compile_seconds": 1.5 * graphs, "hpu_cpu_fallbacks": on_host}


def interval(alarm: CompileAlarm, *kinds: str) -> None:
    for kind in kinds:
        alarm.visit(kind)


def test_it_comes_once_every_kind_was_visited_twice_and_once_an_interval() -> None:
    alarm = CompileAlarm()
    for graphs in (3, 4):
        interval(alarm, "short", "long")
        assert alarm.check(counters(graphs), 2) is None
    interval(alarm, "short", "long", "short")
    told = alarm.check(counters(6), 3)
    assert told is not None and told.startswith(
        "in the last 3 updates 2 graphs were compiled, which took 3.0 s, although each kind"
    )
    assert "fairseq-preflight" in told
    interval(alarm, "short")
    assert alarm.check(counters(6), 1) is None  # it has not risen
    assert alarm.check(counters(7), 1) is not None


def test_operators_on_the_host_are_told_too() -> None:
    alarm = CompileAlarm()
    interval(alarm, "short", "short")
    alarm.check(counters(3), 2)
    interval(alarm, "short")
    assert alarm.check(counters(3, on_host=64), 1) == (
        "in the last 1 updates 64 operators ran on the host, although each kind of step had run twice before. "
        "Something changes between updates: run fairseq-preflight with the same arguments to find the line."
    )


def test_a_new_shape_in_the_interval_may_be_compiled() -> None:
    alarm = CompileAlarm()
    interval(alarm, "short", "short")
    alarm.check(counters(2), 2)
    interval(alarm, "short", "long")
    assert alarm.check(counters(3), 2) is None
    interval(alarm, "long")
    assert alarm.check(counters(4), 1) is None
    interval(alarm, "long")
    assert alarm.check(counters(5), 1) is not None


def test_shapes_that_never_repeat_are_told_though_all_are_new() -> None:
    alarm = CompileAlarm()
    interval(alarm, *map(str, range(MOST_KINDS + 1)))
    told = alarm.check(counters(65), 65)
    assert told is not None and "task.num_batch_buckets=7" in told and "65 kinds of steps" in told


def test_a_device_without_counters_is_never_told_of() -> None:
    alarm = CompileAlarm()
    interval(alarm, "short", "short", "short")
    assert alarm.check({}, 3) is None and alarm.check({}, 3) is None
