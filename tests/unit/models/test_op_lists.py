"""Mixed precision by op lists: the bridge's autocast, written for the CPU, and the dtype that every operator of a
step gets.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from small_model import masked_batch, small_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq import device as device_layer
from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion
from fairseq.dataclass.configs import CommonConfig
from fairseq.device import hpu_environment
from fairseq.models.wav2vec import Wav2Vec2Model, wav2vec2

pytestmark = pytest.mark.needs("override")

KEY = torch._C.DispatchKey.AutocastCPU
FIRST_ARGUMENT_ONLY = ("layer_norm", "group_norm", "instance_norm", "batch_norm")  # weights stay fp32
# release 1.19, hpu_ops/autocast_helpers.h, the names that aten has
BRIDGE = (
    [
        "addmm",
        "addbmm",
        "batch_norm",
        "baddbmm",
        "bmm",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "dot",
        "dropout",
        "feature_dropout",
        "group_norm",
        "instance_norm",
        "layer_norm",
        "leaky_relu",
        "linear",
        "matmul",
        "mean",
        "mm",
        "mul",
        "mv",
        "softmax",
        "log_softmax",
        "scaled_dot_product_attention",
    ],
    [
        "acos",
        "addcdiv",
        "asin",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "cdist",
        "cosine_similarity",
        "cross_entropy_loss",
        "dist",
        "div",
        "embedding",
        "exp",
        "expm1",
        "huber_loss",
        "kl_div",
        "l1_loss",
        "log",
        "log10",
        "log1p",
        "log2",
        "logsumexp",
        "mse_loss",
        "nll_loss",
        "pow",
        "reciprocal",
        "rsqrt",
        "smooth_l1_loss",
        "softplus",
        "topk",
        "true_divide",
    ],
)


@contextmanager
def autocast_by_lists(lower: list[str], upper: list[str]) -> Iterator[None]:
    """Within, torch.autocast("cpu") casts by these lists and no others, as the bridge does on HPU: lower before
    upper.
    """
    library = torch.library.Library("aten", "IMPL")
    listed = dict.fromkeys(upper, torch.float32) | dict.fromkeys(lower, torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each registration says that it replaces torch's own
        for name in torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCPU"):
            if name.startswith("aten::") and name.removeprefix("aten::").split(".")[0] not in listed:
                library.impl(
                    name.removeprefix("aten::"), torch.library.fallthrough_kernel, "AutocastCPU", allow_override=True
                )
        for name, dtype in listed.items():
            packet = getattr(torch.ops.aten, name, None)  # iadd: in place, which autocast leaves alone
            for overload in packet.overloads() if packet is not None else []:
                if "out" not in overload:
                    full = name if overload == "default" else f"{name}.{overload}"
                    library.impl(full, _casting(getattr(packet, overload), dtype), "AutocastCPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()


def _casting(operator: Any, dtype: torch.dtype) -> Callable[..., Any]:
    first_only = operator.overloadpacket.__name__ in FIRST_ARGUMENT_ONLY

    def cast(value: Any) -> Any:
        return (
            value.to(dtype) if isinstance(value, Tensor) and value.dtype in (torch.float32, torch.bfloat16) else value
        )

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(KEY)):
            args = (cast(args[0]), *args[1:]) if first_only else tuple(cast(value) for value in args)
            return operator(*args, **(kwargs if first_only else {key: cast(value) for key, value in kwargs.items()}))

    return run


class Dtypes(TorchDispatchMode):
    """The float dtypes that went into each operator, by the region of the step that ran it."""

    def __init__(self) -> None:
        super().__init__()
        self.region = "loss"
        self.seen: dict[str, dict[str, set[torch.dtype]]] = defaultdict(lambda: defaultdict(set))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name not in ("_to_copy", "detach", "copy_", "empty", "empty_like"):  # they move numbers and compute none
            for value in torch.utils._pytree.tree_leaves((args, kwargs)):
                if isinstance(value, Tensor) and value.is_floating_point():
                    self.seen[self.region][name].add(value.dtype)
        return func(*args, **(kwargs or {}))

    def within(self, region: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            before, self.region = self.region, region
            try:
                return function(*args, **kwargs)
            finally:
                self.region = before

        return run

    def in_bf16(self, region: str) -> set[str]:
        return {name for name, dtypes in self.seen[region].items() if torch.bfloat16 in dtypes}


def record(
    monkeypatch: pytest.MonkeyPatch, lower: list[str], upper: list[str], infonce: bool = True
) -> tuple[Dtypes, Wav2Vec2Model]:
    """A step of a small model on the stand-in's device under these lists."""
    device = device_layer.select(OmegaConf.structured(CommonConfig(hpu=True, hmp=True)))
    model = small_model(dropout=0.1, attention_dropout=0.1, feature_grad_mult=0.5).train()
    criterion = Wav2vecCriterion(None, infonce, [0.1, 10], ["prob_perplexity", "code_perplexity", "temp"])
    batch = masked_batch(model, [4000, 2900], [13, 9])
    dtypes = Dtypes()
    for module, region in (
        (model.feature_extractor, "extractor"),
        (model.encoder, "encoder"),
        (model.quantizer, "quantizer"),
    ):
        monkeypatch.setattr(module, "forward", dtypes.within(region, module.forward))
    monkeypatch.setattr(model, "_contrast", dtypes.within("contrast", model._contrast))
    monkeypatch.setattr(wav2vec2, "mean_of_frames", dtypes.within("penalty", wav2vec2.mean_of_frames))
    monkeypatch.setattr(model, "forward", dtypes.within("model", model.forward))
    with autocast_by_lists(lower, upper):
        with dtypes, device.autocast(torch.bfloat16):
            loss, sample_size, log = criterion(model, {"net_input": batch})
        loss.backward()
    assert loss.dtype == sample_size.dtype == torch.float32 and loss.isfinite()
    assert all(value.dtype == torch.float32 for value in log.values() if isinstance(value, Tensor))
    return dtypes, model


def shipped(kind: str) -> tuple[list[str], list[str]]:
    folder = hpu_environment.PACKAGE_FOLDER
    return tuple(hpu_environment.read_op_list(folder / f"ops_{precision}{kind}.txt") for precision in ("bf16", "fp32"))


LISTS = {"recipe": shipped(""), "ours": shipped("_wav2vec2"), "bridge": BRIDGE}


@pytest.mark.parametrize("infonce", [True, False])
@pytest.mark.parametrize("name", LISTS)
def test_losses_codebook_and_similarities_are_fp32_by_any_list(
    fake_habana: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, infonce: bool
) -> None:
    dtypes, model = record(monkeypatch, *LISTS[name], infonce)
    for region, operators in {
        "loss": {"_log_softmax", "nll_loss_forward"} if infonce else {"binary_cross_entropy_with_logits"},
        "quantizer": {"_softmax", "log", "addmm", "exponential_"},
        "contrast": {"bmm", "gather"},
        "penalty": {"mul", "sum", "div"},
    }.items():
        assert dtypes.in_bf16(region) == set(), region
        assert operators <= dtypes.seen[region].keys(), region
    assert dtypes.seen["model"]["mean"] == {torch.float32}  # of each frame's squares
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters()
    )


@pytest.mark.parametrize("name", LISTS)
def test_products_are_bf16(fake_habana: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    dtypes, _ = record(monkeypatch, *LISTS[name])
    for region, operator in (
        ("extractor", "convolution"),
        ("encoder", "convolution"),
        ("encoder", "addmm"),
        ("encoder", "bmm"),
    ):
        assert dtypes.seen[region][operator] == {torch.bfloat16}, (region, operator)


def test_our_lists_keep_norms_and_softmax_in_fp32(fake_habana: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairseq.device.hpu.HpuDevice._attention_form", lambda self, dtype: "matmul")
    dtypes, _ = record(monkeypatch, *LISTS["ours"])
    narrow = set.union(*(dtypes.in_bf16(region) for region in list(dtypes.seen)))
    assert not narrow & {
        "native_layer_norm",
        "native_batch_norm",
        "_softmax",
        "_log_softmax",
        "log",
        "exp",
        "mean",
        "sum",
        "rsqrt",
        "pow",
    }
    assert dtypes.seen["encoder"]["_softmax"] == {torch.float32}


def test_the_bridges_lists_would_not(fake_habana: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the lists of our own are for, and that this file notices it."""
    monkeypatch.setattr("fairseq.device.hpu.HpuDevice._attention_form", lambda self, dtype: "matmul")
    dtypes, _ = record(monkeypatch, *BRIDGE)
    assert {"_softmax", "mul", "native_layer_norm"} <= dtypes.in_bf16("encoder")


@pytest.mark.parametrize("name", LISTS)
def test_the_first_norm_is_fp32_by_any_list(
    fake_habana: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The recipe's list of operators for bf16 has instance_norm, which would cast the fp32 input straight back."""
    dtypes, _ = record(monkeypatch, *LISTS[name])
    assert dtypes.seen["extractor"]["native_batch_norm"] == {torch.float32}
