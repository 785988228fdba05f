"""The tables of Gaudi's operators, and how operators are looked up in them."""

from __future__ import annotations

import pytest
import torch

from fairseq.preflight import kernels, operators
from fairseq.preflight.operators import Call

aten = torch.ops.aten


def test_tables_are_whole_and_name_their_source() -> None:
    assert len(kernels.operators()) == 1144
    for table in ("hpu_ops", "hpu_dtypes"):
        text = (kernels.TABLES / f"{table}_{kernels.RELEASE}.txt").read_text(encoding="utf-8")
        assert "Source: HabanaAI/gaudi-pytorch-bridge" in text
    for name, limit in kernels.dtype_limits().items():
        assert hasattr(aten, name) or hasattr(torch, name), name
        assert limit.instead and all(isinstance(getattr(torch, dtype), torch.dtype) for dtype in limit.dtypes)


@pytest.mark.parametrize(
    ("operator", "there"),
    [
        (aten.mm.default, True),
        (aten.where.self, True),
        (aten.add_.Tensor, True),
        (aten.special_i0e.default, False),
        (aten._foreach_norm.Scalar, False),  # not registered: made of linalg_vector_norm
    ],
)
def test_lookup(operator: torch._ops.OpOverload, there: bool) -> None:
    assert kernels.has_kernel(operator) is there


def test_a_structured_operator_counts_by_the_form_that_writes() -> None:
    """torch makes the other forms of these by that one."""
    registered = kernels.operators()
    assert "silu_backward" not in registered and "silu_backward.grad_input" in registered
    assert kernels.has_kernel(aten.silu_backward.default)


def test_composite_operators_are_resolved_before_they_are_looked_up() -> None:
    x = torch.randn(3, 4)
    with operators.tracing() as trace:
        torch._foreach_norm([x, x])
        torch.zeros_like(x)
    assert trace.operators["linalg_vector_norm"] == 2 and "_foreach_norm.Scalar" not in trace.operators
    assert not trace.missing


def test_values_are_the_same_under_the_trace() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    with operators.tracing():
        traced = torch.nn.functional.normalize(x).exp().sum()
        traced.backward()
    grad, x.grad = x.grad, None
    torch.nn.functional.normalize(x).exp().sum().backward()
    assert torch.equal(grad, x.grad)


def test_a_missing_kernel_is_told_with_its_line_forward_and_backward() -> None:
    x = torch.randn(3, requires_grad=True)
    with operators.tracing() as trace:
        y = torch.special.i0e(x).sum()
        y.backward()
    line = test_a_missing_kernel_is_told_with_its_line_forward_and_backward.__code__.co_firstlineno + 3
    places = {missing.operator: missing.place for missing in trace.missing}
    here = "tests/unit/preflight/test_kernels.py"
    assert places == {"special_i0e": f"{here}:{line}", "special_i1e": f"{here}:{line} (backward)"}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: torch.ones(3, dtype=torch.int16) + torch.ones(3, dtype=torch.int16), ("add.Tensor", "int16")),
        # promoted before it is computed
        (lambda: torch.ones(3, dtype=torch.int16) + torch.ones(3, dtype=torch.int64), None),
        (lambda: torch.ones(3, dtype=torch.bool).cumsum(0), ("cumsum", "bool")),
        (lambda: torch.ones(3).cumsum(0), None),
        (lambda: torch.arange(3).sort(), None),
        (lambda: torch.arange(3, dtype=torch.int32).sort(), ("sort", "int32")),
    ],
)
def test_dtypes_without_a_kernel(call: object, told: tuple[str, str] | None) -> None:
    with operators.tracing() as trace:
        call()
    assert {(missing.operator, missing.dtype) for missing in trace.missing} == ({told} if told else set())


def test_shapes_that_depend_on_numbers() -> None:
    x = torch.randn(5)
    with operators.tracing() as trace:
        x[x > 0]
        x.masked_select(x > 0)
        x[torch.tensor([1, 2])]
    assert {operator.split(".")[0] for operator, _ in trace.dynamic} >= {"index", "masked_select"}
    assert len({place for _, place in trace.dynamic}) == 2


def test_where_two_steps_part() -> None:
    one = [Call("mm", (1,), "a.py:1"), Call("slice.Tensor", (3,), "a.py:2")]
    other = [one[0], Call("slice.Tensor", (4,), "a.py:2")]
    assert operators.first_difference(one, one) is None
    assert operators.first_difference(one, other) == "slice.Tensor at a.py:2"
    assert operators.first_difference(one, one[:1]) == "slice.Tensor at a.py:2"
