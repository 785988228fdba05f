"""The lazy-tensor device: the operators added to torch's backend, the counts, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from fairseq import device as device_layer
from fairseq.dataclass.initialize import resolve_config
from fairseq.dataclass.validate import find_problems
from fairseq.device.graph_counts import CutFinder, graph_counts
from fairseq.device.lazy import LazyDevice

pytestmark = pytest.mark.needs("lazy")


@pytest.fixture(scope="module")
def lazy() -> LazyDevice:
    device = LazyDevice()
    device.claim()
    return device


X = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
Y = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
CALLS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "where.self": lambda x, y: torch.where(x > 0, x, y),
    "where.self, sides of less dimensions": lambda x, y: torch.where(x > 0, x[0, 0], 2.0),
    "where.self, integers": lambda x, y: torch.where(x > 0, 0, -100),
    "where.self, what is not taken is not seen": lambda x, y: (
        torch.where(x > 0, x, y / 0).sum() + torch.where(x > 0, x, float("nan"))
    ),
    "bitwise_not": lambda x, y: (~(x > 0), ~(10 * x).int()),
    "copy": lambda x, y: (x * 1).copy_(y[0]),
    "expm1": lambda x, y: torch.expm1(x * torch.logspace(-8, 0, 5).to(x.device)),
    "linalg_vector_norm": lambda x, y: (
        torch.linalg.vector_norm(x),
        F.normalize(x, dim=-1),
        torch.stack(torch._foreach_norm([x, y])),
    ),
    "_weight_norm_interface": lambda x, y: torch._weight_norm(x, y[:1, :1] * 1, 2),
    "argmax": lambda x, y: (x.argmax(1), x.argmax(-1, keepdim=True)),
    "argmin": lambda x, y: x.argmin(1),
    "any.dim": lambda x, y: ((x > 1).any(dim=1), (x > 1).any(dim=-1, keepdim=True)),
    "floor_divide": lambda x, y: (100 * x).int() // 7,
    "lerp.Scalar": lambda x, y: (torch.lerp(x, y, 0.3), (x * 1).lerp_(y, 0.3)),
    "numbers with 0-dim tensors": lambda x, y: ((2 - x.sum()) * 0.1 / 3 + 1).expand(4, 4) @ x[0],
}


def values_and_gradients(call: Callable[[Tensor, Tensor], Any], kind: str) -> tuple[list[Tensor], list[Tensor]]:
    x, y = (value.clone().to(kind).requires_grad_() for value in (X, Y))
    found = call(x, y)
    found = found if isinstance(found, tuple) else (found,)
    smooth = [value.sum() for value in found if value.requires_grad]
    grads = torch.autograd.grad(sum(smooth), [x, y], allow_unused=True) if smooth else ()
    return [value.detach().cpu() for value in found], [grad.cpu() for grad in grads if grad is not None]


@pytest.mark.parametrize("name", CALLS)
def test_added_operators_equal_the_cpus_and_are_recorded(lazy: LazyDevice, name: str) -> None:
    """Values and gradients; nothing falls back to running by itself."""
    before = graph_counts()
    ours = values_and_gradients(CALLS[name], "lazy")
    assert graph_counts().since(before).fallbacks == {}
    theirs = values_and_gradients(CALLS[name], "cpu")
    assert [value.dtype for value in ours[0]] == [value.dtype for value in theirs[0]]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_exponential_numbers_are_those_of_its_distribution(lazy: LazyDevice) -> None:
    lazy.seed(1)
    drawn = torch.empty(200_000, device="lazy").exponential_(2.0).cpu()
    assert torch.isfinite(drawn).all() and (drawn >= 0).all()
    assert drawn.mean().item() == pytest.approx(0.5, rel=0.02)
    assert (drawn > 0.5).float().mean().item() == pytest.approx(torch.exp(torch.tensor(-1.0)).item(), rel=0.02)


def test_a_changed_number_is_no_new_graph_and_a_changed_shape_is(lazy: LazyDevice) -> None:
    def run(number: float, length: int) -> int:
        before = graph_counts()
        x = torch.ones(length).to("lazy")
        kept = (x * number + x.sum() * number).exp()
        lazy.mark_step()
        assert kept.cpu()[0].item() == pytest.approx(torch.tensor(number * (1 + length)).exp().item(), rel=1e-5)
        return graph_counts().since(before).compiled

    assert run(0.1, 7) == 1
    assert run(0.2, 7) == 0
    assert run(0.2, 8) == 1


def test_cuts_are_found_by_line_and_mark_steps_are_none(lazy: LazyDevice) -> None:
    x = torch.ones(5).to("lazy")
    before = graph_counts()
    with CutFinder() as finder:
        y = x * 2
        lazy.mark_step()
        z = y + 1
        z.sum().item()  # a cut, for a value
        torch.sort(z.cpu())  # a read, of what is there
        w = torch.erfinv(z)  # an operator that is not recorded
        lazy.mark_step()
    counts = graph_counts().since(before)
    assert counts.steps >= 1 and counts.cuts >= 1 and counts.ran == counts.steps + counts.cuts
    lines = {(place.line, place.operator) for place in finder.places if place.file == __file__}
    first = test_cuts_are_found_by_line_and_mark_steps_are_none.__code__.co_firstlineno
    assert lines == {(first + 7, "item"), (first + 8, "cpu"), (first + 9, "erfinv")}
    assert "aten::erfinv" in counts.fallbacks and w.device.type == "lazy"


def test_what_was_recorded_runs_before_a_new_seed(lazy: LazyDevice) -> None:
    """Numbers are drawn when the graph runs: seeding must not reach back to what was recorded before it."""
    lazy.seed(1)
    first = torch.rand(4, device="lazy")
    lazy.seed(2)
    second = torch.rand(4, device="lazy")
    lazy.seed(1)
    again = torch.rand(4, device="lazy")
    assert torch.equal(first.cpu(), again.cpu()) and not torch.equal(first.cpu(), second.cpu())


def test_other_precisions_are_one_error(lazy: LazyDevice) -> None:
    with pytest.raises(ValueError, match="fp32 only"):
        lazy.autocast(torch.bfloat16)
    cfg = resolve_config(OmegaConf.create({"common": {"device": "lazy", "bf16": True, "hmp": True}}))
    errors = find_problems(cfg, check_paths=False).errors
    assert [error for error in errors if "common.bf16=false common.hmp=false" in error]


def test_one_process_only(lazy: LazyDevice) -> None:
    assert device_layer.count(OmegaConf.create({"device": "lazy", "cpu": False})) == 1
