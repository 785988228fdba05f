"""The bridge's rule: which numbers are part of a graph's key, and which operators are the card's.

Source of the rule: gaudi-pytorch-bridge 1.19, lazy_graph_hash_builder.cpp, lazy_kernels.cpp, hpu_op.yaml (op_frontend).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fairseq.preflight import operators
from fairseq.preflight.graph_keys import CARD, Call, Change, Compiled, Recorder


def graphs_of(step: Callable[[Tensor, float], object], *numbers: float) -> tuple[Compiled, list[Change]]:
    """Compile what a step makes of a tensor on the card, once for each number."""
    compiled, changes = Compiled(), []

    def ended(calls: list[Call]) -> None:
        changes.append(compiled.add(calls))

    recorder = Recorder(ended)
    with operators.tracing(recorder=recorder):
        x = torch.arange(6.0).view(2, 3).to(CARD)
        recorder.cut()
        for number in numbers:
            step(x, number)
            recorder.cut()
    return compiled, [change for change in changes if change is not None]


CONSTANT = {
    "fill_": lambda x, n: x.fill_(n),
    "full_like": lambda x, n: torch.full_like(x, n),
    "full on the card": lambda x, n: x + torch.full((3,), n, device=x.device),
    "clamp": lambda x, n: x.clamp(min=n),
    "pow": lambda x, n: x.pow(n),
    "rsub": lambda x, n: n - x,
    "masked_fill": lambda x, n: x.masked_fill(x > 0, n),
    "where": lambda x, n: torch.where(x > 0, x, n),
    "_foreach_mul_": lambda x, n: torch._foreach_mul_([x], n),
    "a slice's bound": lambda x, n: x[:, : int(n)],
    "a dropout probability": lambda x, n: torch.native_dropout(x, n / 10, True),
}
INPUT = {
    "mul": lambda x, n: x * n,
    "add": lambda x, n: x + n,
    "sub": lambda x, n: x - n,
    "div": lambda x, n: x / n,
    "div_.Scalar": lambda x, n: torch.ops.aten.div_.Scalar(x, n),
    "div by 0-dim": lambda x, n: x / torch.tensor(n),
    "gt": lambda x, n: x > n,
    "bitwise_and": lambda x, n: x.int() & int(n),
    "alpha of add_": lambda x, n: x.add_(x, alpha=n),
    "alpha of sub": lambda x, n: x.sub(x, alpha=n),
    "value of addcdiv_": lambda x, n: x.addcdiv_(x, x, value=n),
    "copy_ from the host": lambda x, n: x.copy_(torch.tensor(n)),
    "copy_ of a tensor that the host filled": lambda x, n: x.copy_(torch.full((3,), n)),
    "sent from the host": lambda x, n: x * torch.tensor(n).to(CARD),
    "what the host computes": lambda x, n: x * (torch.ones(3) * n).clamp(max=n).to(CARD),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_a_scalar_argument_is_part_of_the_key(name: str) -> None:
    compiled, changes = graphs_of(CONSTANT[name], 2.0, 3.0, 2.0)
    assert len(compiled) == 2 and len(changes) == 2


@pytest.mark.parametrize("name", INPUT)
def test_a_number_that_becomes_data_is_not(name: str) -> None:
    compiled, _ = graphs_of(INPUT[name], 2.0, 3.0, 2.5)
    assert len(compiled) <= 1  # none where nothing but a copy happens


def test_alpha_1_is_left_out_of_the_graph() -> None:
    assert len(graphs_of(INPUT["alpha of add_"], 1.0, 2.0, 3.0)[0]) == 2


def test_the_place_and_the_number_are_named() -> None:
    _, changes = graphs_of(CONSTANT["fill_"], 2.0, 3.5)
    line = CONSTANT["fill_"].__code__.co_firstlineno
    assert changes[1] == Change(
        "fill_.Scalar", f"tests/unit/preflight/test_graph_keys.py:{line}", "value was 2.0, then 3.5"
    )
    assert str(changes[1]).startswith("fill_.Scalar at tests/unit")


def test_shapes_and_dtypes_are_part_of_the_key() -> None:
    calls = [lambda x: x[:1] * 2, lambda x: x * 2, lambda x: x.double() * 2, lambda x: x * 2]
    assert len(graphs_of(lambda x, n: calls[int(n)](x), 0, 1, 2, 3)[0]) == 3


def test_what_the_host_does_for_itself_is_no_graph() -> None:
    compiled, _ = graphs_of(lambda x, n: torch.zeros(4).fill_(n).clamp(min=n).sum(), 1.0, 2.0)
    assert len(compiled) == 0


def test_a_read_ends_the_graph() -> None:
    ended: list[list[str]] = []
    recorder = Recorder(lambda calls: ended.append([call.operator for call in calls]))
    with operators.tracing(recorder=recorder):
        x = torch.ones(2).to(CARD)
        (x * 2).sum().item()
        x + 1
        recorder.cut()
        recorder.cut()  # nothing to hand over
    assert ended == [["mul.Tensor", "sum"], ["add.Tensor"]]


def test_the_graph_most_like_a_new_one_is_compared_with_it() -> None:
    def calls(*names: str, number: float = 0.0) -> list[Call]:
        return [Call(name, (("value", number if name == "fill_" else None),), f"{name}.py:1") for name in names]

    compiled = Compiled()
    assert compiled.add(calls("mm", "sum")).operator == "mm"
    assert compiled.add(calls("fill_", "mm")).place == "fill_.py:1"
    assert compiled.add(calls("mm", "sum")) is None
    assert compiled.add(calls("fill_", "mm", number=1.0)).difference == "value was 0.0, then 1.0"
    assert compiled.add(calls("mm", "sum", "exp")) == Change(
        "exp", "exp.py:1", "the graph continues, but the earlier one ended"
    )
    assert compiled.add(calls("mm")) == Change("mm", "mm.py:1", "the graph ends, but the earlier one continued")
    assert compiled.add(calls("mm", "cos")) == Change("cos", "cos.py:1", "the earlier graph called sum")
