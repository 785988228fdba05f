"""The torch optimizer behind `adam`: fairseq's formula by torch's fused AdamW or plain operations; can skip updates."""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Optional

import torch
from torch import Tensor
from torch.optim.adamw import adamw


class _Uncompiled(torch.optim.Optimizer):
    """torch's optimizer without the wrappers that hide its methods from torch.compile.

    The first call of such a wrapper imports the compiler, which takes 2 s of every start. Only models are
    compiled here.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class Adam(_Uncompiled):
    """Adam in the parameters' precision (fp32 in training: autocast does not change them).

    One update; t is the number of updates in which this parameter had a gradient::

        p -= lr * weight_decay * p
        m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2
        p -= lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps)

    On CPU and CUDA this is torch's fused AdamW, which adds eps after the bias correction of v; with eps / sqrt(1 -
    beta2^t) it computes the same. That t is counted on the host, which does not know yet if the device has just skipped
    an update: until `sync_steps` it is too high, in this factor only (which is above 0.98 after 200 updates with beta2
    0.98). Averages and bias corrections use the device's count.

    Args:
        params: parameters or groups of them.
        fused: use torch's fused kernel, which exists for CPU and CUDA.
    """

    skips_on_device = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        fused: bool = True,
    ) -> None:
        self._settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, dict(self._settings))
        self.fused = fused
        self._host_steps: dict[Tensor, int] = defaultdict(int)

    @torch.no_grad()
    def step(
        self,
        closure: Optional[Callable[[], Any]] = None,
        found_inf: Optional[Tensor] = None,
        grad_scale: Optional[Tensor] = None,
    ) -> Any:
        """Take one step with gradients divided by `grad_scale`, or none if `found_inf` is 1.

        Args:
            closure: called first; its result is returned.
            found_inf: 0-dim, on the device.
            grad_scale: 0-dim, on the device.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update(found_inf, grad_scale)
        return loss

    def _update(self, found_inf: Optional[Tensor], grad_scale: Optional[Tensor]) -> None:
        """Update the parameters that have gradients; see `step`."""
        for group in self.param_groups:
            alike: dict[tuple[int, torch.device], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:  # a frozen parameter keeps its weights, averages and step count
                    self._prepare(p)
                    self._host_steps[p] += 1
                    alike[self._host_steps[p], p.device].append(p)
            for (count, device), params in alike.items():
                # another device than the parameters' if those are offloaded to the host
                skip = None if found_inf is None else found_inf.to(device)
                divide_by = None if grad_scale is None else grad_scale.to(device)
                if self.fused:
                    self._fused_update(params, group, count, skip, divide_by)
                else:
                    for p in params:
                        self._plain_update(p, group, skip, divide_by)

    def _prepare(self, p: Tensor) -> None:
        if not self.state[p]:
            step = torch.zeros((), dtype=torch.float32, device=p.device)
            self.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    def _fused_update(
        self,
        params: list[Tensor],
        group: dict[str, Any],
        count: int,
        found_inf: Optional[Tensor],
        grad_scale: Optional[Tensor],
    ) -> None:
        states = [self.state[p] for p in params]
        beta1, beta2 = group["betas"]
        adamw(
            params,
            [_laid_out_as(gradient_of(p), p) for p in params],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            found_inf=found_inf,
            grad_scale=grad_scale,
            amsgrad=False,
            maximize=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"] / math.sqrt(1 - beta2**count),
        )

    def _plain_update(
        self, p: Tensor, group: dict[str, Any], found_inf: Optional[Tensor], grad_scale: Optional[Tensor]
    ) -> None:
        state, (beta1, beta2), lr = self.state[p], group["betas"], group["lr"]
        grad = gradient_of(p) if grad_scale is None else gradient_of(p) / grad_scale
        step = state["step"] + 1
        exp_avg = state["exp_avg"] * beta1 + grad * (1 - beta1)
        exp_avg_sq = state["exp_avg_sq"] * beta2 + grad * grad * (1 - beta2)
        # 1 - beta^t as -expm1(t log beta): a difference of fp32 numbers has only three correct digits at t = 1
        correction = torch.sqrt(_one_minus_power(beta2, step)) / _one_minus_power(beta1, step)
        moved = p * (1 - lr * group["weight_decay"]) - exp_avg / (exp_avg_sq.sqrt() + group["eps"]) * (correction * lr)
        for old, new in (
            (p, moved),
            (state["step"], step),
            (state["exp_avg"], exp_avg),
            (state["exp_avg_sq"], exp_avg_sq),
        ):
            old.copy_(new if found_inf is None else torch.where(found_inf > 0, old, new))

    def sync_steps(self) -> None:
        """Read the device's step counts (one transfer). Call this when skipped updates are detected."""
        self._host_steps.update(zip(self.state, self._device_steps(), strict=True))

    def _device_steps(self) -> list[int]:
        steps = [state["step"] for state in self.state.values()]
        return [int(step) for step in torch.stack(steps).tolist()] if steps else []

    def state_dict(self) -> dict[str, Any]:
        """State in torch's form, keyed by parameter index, with integer steps as in fairseq's files.

        `host_step` is added if the host's count differs from a step, so that a resumed run computes the same numbers.
        """
        packed = super().state_dict()
        counts = dict(zip(self.state, self._device_steps(), strict=True))
        order = [p for group in self.param_groups for p in group["params"]]
        state = {}
        for index, entry in sorted(packed["state"].items()):
            count, host_count = counts[order[index]], self._host_steps[order[index]]
            state[index] = {**entry, "step": count, **({} if host_count == count else {"host_step": host_count})}
        return {"state": state, "param_groups": packed["param_groups"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state: ours, fairseq's (also the single flat one of its fp16 training) or that of torch's AdamW.

        Raises:
            ValueError: the number or the shapes of the parameters differ.
        """
        params = [p for group in self.param_groups for p in group["params"]]
        state_dict = _reference_layout(_per_parameter(state_dict, self.param_groups), params)
        _check_fits(state_dict, params)
        super().load_state_dict({"state": state_dict["state"], "param_groups": state_dict["param_groups"]})
        # only our settings, without amsgrad, differentiable ...: states of one run keep the same keys
        for group in self.param_groups:
            own = {key: group.get(key, value) for key, value in self._settings.items()}
            members = group["params"]
            group.clear()
            group.update(own, params=members)
        self._host_steps.clear()
        for p in params:
            if p in self.state:  # parameters that have been frozen so far have none, also in fairseq's checkpoints
                step = int(self.state[p]["step"])
                self._host_steps[p] = self.state[p].pop("host_step", step)
                self.state[p]["step"] = torch.tensor(float(step), dtype=torch.float32, device=p.device)


def _one_minus_power(beta: float, step: Tensor) -> Tensor:
    return -torch.expm1(step * math.log(beta)) if beta > 0 else torch.ones_like(step)


def gradient_of(p: Tensor) -> Tensor:
    """The gradient of a parameter, which must have one."""
    assert p.grad is not None
    return p.grad


def _laid_out_as(grad: Tensor, p: Tensor) -> Tensor:
    """The gradient in the parameter's memory layout, which the fused kernel requires."""
    return grad if grad.stride() == p.stride() else torch.empty_like(p).copy_(grad)


def _per_parameter(state_dict: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Split the state to one entry per parameter: fairseq's fp16 training has all parameters in one flat vector."""
    params = [p for group in groups for p in group["params"]]
    flat = state_dict["state"].get(0)
    if flat is None or len(state_dict["state"]) != 1 or len(params) < 2 or len(groups) != 1:
        return state_dict
    if flat["exp_avg"].dim() != 1 or flat["exp_avg"].numel() != sum(p.numel() for p in params):
        return state_dict
    sizes = [p.numel() for p in params]
    averages = {key: flat[key].split(sizes) for key in ("exp_avg", "exp_avg_sq")}
    state = {
        i: {"step": flat["step"], **{key: parts[i].view_as(p).clone() for key, parts in averages.items()}}
        for i, p in enumerate(params)
    }
    return {"state": state, "param_groups": [{**state_dict["param_groups"][0], "params": list(range(len(params)))}]}


def _reference_layout(state_dict: dict[str, Any], params: list[Tensor]) -> dict[str, Any]:
    """Reshape averages of the Gaudi fork's convolutions, C' x C x 1 x K, to C' x C x K, like the weights."""

    def entry_for(index: int, entry: dict[str, Any]) -> dict[str, Any]:
        if (
            index >= len(params)
            or entry["exp_avg"].dim() != 4
            or params[index].dim() != 3
            or entry["exp_avg"].size(2) != 1
        ):
            return entry
        return {**entry, **{key: entry[key].squeeze(2) for key in ("exp_avg", "exp_avg_sq")}}

    return {**state_dict, "state": {index: entry_for(index, entry) for index, entry in state_dict["state"].items()}}


def _check_fits(state_dict: dict[str, Any], params: list[Tensor]) -> None:
    way_out = "Set checkpoint.reset_optimizer=true to start with a new optimizer state."
    saved = sum(len(group["params"]) for group in state_dict["param_groups"])
    if saved != len(params):
        raise ValueError(
            f"The checkpoint's optimizer state has {saved} parameters, but this model trains {len(params)}. {way_out}"
        )
    for index, entry in state_dict["state"].items():
        if entry["exp_avg"].shape != params[index].shape:
            shapes = f"{tuple(entry['exp_avg'].shape)}, but the model's parameter has {tuple(params[index].shape)}"
            raise ValueError(f"The checkpoint's optimizer state {index} has shape {shapes}. {way_out}")
