"""HPU graphs: lazy mode only, static shapes, one graph per set of input shapes, new seeds at each replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from habana_frameworks import mode, overwrites, recorder


class HPUGraph:
    def __init__(self) -> None:
        mode.lazy_only("HPUGraph")


class ModuleCacher:
    def __init__(self, max_graphs: int = 10) -> None:
        mode.lazy_only("ModuleCacher")
        self.max_graphs = max_graphs

    def __call__(
        self,
        model: nn.Module,
        use_lfu: bool = False,
        inplace: bool = True,
        allow_unused_input: bool = False,
        asynchronous: bool = False,
        have_grad_accumulation: bool = False,
        log_frequency: int = 100,
        verbose: bool = False,
        disable_tensor_cache: bool = False,
        dry_run: bool = False,
    ) -> nn.Module:
        recorder.note(
            "ModuleCacher",
            max_graphs=self.max_graphs,
            model=model,
            inplace=inplace,
            allow_unused_input=allow_unused_input,
            have_grad_accumulation=have_grad_accumulation,
        )
        if not inplace:
            raise NotImplementedError("this stand-in knows inplace=True")
        shapes: set[tuple[Any, ...]] = set()
        forward = model.forward

        def cached(*args: Any, **kwargs: Any) -> Any:
            key = _shapes(args), _shapes(kwargs), model.training
            if key not in shapes:
                if len(shapes) >= self.max_graphs:
                    recorder.note("graph_evicted")
                    shapes.clear()
                shapes.add(key)
                recorder.note("graph_captured")
                return forward(*args, **kwargs)
            with overwrites.replaying():
                result = forward(*args, **kwargs)
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor) and tensor.requires_grad:
                    tensor.register_hook(_replay_backward())
                    break  # one hook is enough: the results have one backward pass
            return result

        model.forward = cached
        return model


def _replay_backward() -> Callable[[Tensor], None]:
    """Return a hook for a result's gradient, from which on the backward pass is replayed too."""

    def begin(grad: Tensor) -> None:
        overwrites.begin_replay()
        torch.autograd.Variable._execution_engine.queue_callback(overwrites.end_replay)

    return begin


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return tuple((key, _shapes(part)) for key, part in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_shapes(part) for part in value)
    return value


def wrap_in_hpu_graph(
    module: nn.Module,
    asynchronous: bool = False,
    disable_tensor_cache: bool = False,
    dry_run: bool = False,
    max_graphs: int | None = None,
) -> nn.Module:
    mode.lazy_only("wrap_in_hpu_graph")
    if torch.is_grad_enabled() and module.training:
        raise RuntimeError("wrap_in_hpu_graph is for inference")
    recorder.note("wrap_in_hpu_graph", module=module)
    return module


def make_graphed_callables(callables: Callable[..., Any], sample_args: Any, warmup: bool = True) -> Callable[..., Any]:
    mode.lazy_only("make_graphed_callables")
    recorder.note("make_graphed_callables", callables=callables)
    return callables
