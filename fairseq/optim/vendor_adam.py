"""Adam with a device vendor's kernel and the state of `Adam`: checkpoints are the same on all devices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from fairseq.optim.adam_update import Adam, gradient_of


class _Alike(NamedTuple):
    """Parameters of one group with the same step count, for one launch of the kernel."""

    group: dict[str, Any]  # their param group, for its settings
    params: list[Tensor]
    taken: Tensor  # updates taken on the device, 0-dim float; the `step` of every member is this tensor

    def not_empty(self) -> list[Tensor]:
        """The members with elements: a shard can have none, and the kernel need not accept that."""
        return [p for p in self.params if p.numel()]


class VendorAdam(Adam):
    """`Adam` with the update by another optimizer's kernel, such as Habana's FusedAdamW, with the same formula.

    The state is `Adam`'s; the kernel works on its averages. The kernel has one `step` per group, while here each
    parameter has its own: it is set before each launch, and parameters with equal steps are launched together. So
    checkpoints need no conversion on any device. Results differ from `Adam`'s by rounding: 1e-6 of a weight's size
    after 50 updates on CPU.

    The kernel cannot skip an update. Weights and averages are copied before it and restored by `torch.where`, which
    temporarily needs three times the parameters' memory. Zeroing gradients instead would not work: momentum and decay
    apply without a gradient too. The kernel's `step` is a number on the host: after a skipped update it is too high
    until `sync_steps`, as in `Adam`.

    Args:
        kernel: class of a torch optimizer with the arguments lr, betas, eps and weight_decay, and a counter `step` in
            its param groups.
    """

    def __init__(self, params: Iterable[Any], kernel: Callable[..., torch.optim.Optimizer], **settings: Any) -> None:
        super().__init__(params, fused=False, **settings)
        self._kernel_class = kernel
        self._kernel: torch.optim.Optimizer | None = None
        self._parts: list[_Alike] = []

    def _update(self, found_inf: Optional[Tensor], grad_scale: Optional[Tensor]) -> None:
        """See Adam.step; `grad_scale` divides the gradients in place."""
        self._arrange()
        if not self._parts:
            return
        params = [p for part in self._parts for p in part.params]
        if grad_scale is not None:
            torch._foreach_div_(  # pyright: ignore[reportPrivateImportUsage]
                [gradient_of(p) for p in params], grad_scale
            )
        moving = [*params, *(self.state[p][key] for p in params for key in ("exp_avg", "exp_avg_sq"))]
        before = [tensor.clone() for tensor in moving] if found_inf is not None else []
        self._launch()
        if found_inf is not None:
            for tensor, old in zip(moving, before, strict=True):
                tensor.copy_(torch.where(found_inf > 0, old, tensor))
        for part in self._parts:
            part.taken.add_(1 if found_inf is None else 1 - found_inf)

    def _arrange(self) -> None:
        """Partition the parameters that have gradients by group and step count, if it has changed."""
        found: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for number, group in enumerate(self.param_groups):
            for p in group["params"]:
                if p.grad is not None:
                    self._prepare(p)
                    found[number, self._host_steps[p]].append(p)
        if self._kernel is not None and [list(map(id, members)) for members in found.values()] == [
            list(map(id, part.params)) for part in self._parts
        ]:
            return
        self._parts = []
        for (number, _), members in found.items():
            taken = self.state[members[0]]["step"].clone()
            for p in members:
                self.state[p]["step"] = taken
            self._parts.append(_Alike(self.param_groups[number], members, taken))
        groups = [{"params": part.not_empty()} for part in self._parts if part.not_empty()]
        self._kernel = self._kernel_class(groups, lr=0.0) if groups else None

    def _launch(self) -> None:
        if self._kernel is not None:
            launched = [part for part in self._parts if part.not_empty()]
            for part, group in zip(launched, self._kernel.param_groups, strict=True):
                group.update(
                    {key: part.group[key] for key in ("betas", "eps", "weight_decay")},
                    lr=float(part.group["lr"]),
                    step=self._host_steps[part.params[0]],
                )
                for p in part.not_empty():
                    self._kernel.state[p] = {
                        "step": 0,
                        "exp_avg": self.state[p]["exp_avg"],
                        "exp_avg_sq": self.state[p]["exp_avg_sq"],
                    }
            self._kernel.step()
        for part in self._parts:
            for p in part.params:
                self._host_steps[p] += 1

    def sync_steps(self) -> None:
        super().sync_steps()
        self._kernel = None  # counts that were equal can differ now

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._kernel = None
