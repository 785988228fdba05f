"""What must hold between a config and the device that it names."""

from __future__ import annotations

import os
from collections.abc import Iterator

from omegaconf import DictConfig

from fairseq.dataclass.findings import Finding, named, odd, wrong
from fairseq.device import hpu_environment


def gaudi(cfg: DictConfig) -> Iterator[Finding]:
    """One device, a mode that fits what is compiled, and mixed precision by op lists."""
    common = cfg.common
    if common.hpu and common.cpu:
        yield wrong("common.hpu and common.cpu are both true: set one of them to false (common.cpu=false).")
    if common.hpu and common.device not in (None, "hpu"):
        yield wrong(f"common.hpu is true but common.device is {common.device}: leave one of them at its default.")
    on_hpu = common.hpu or common.device == "hpu"
    lazy = hpu_environment.is_lazy({hpu_environment.LAZY_MODE: "1" if common.hpu_lazy_mode else "0", **os.environ})
    if common.hpu_compile != "none" and not on_hpu:
        yield odd(f"common.hpu_compile is {common.hpu_compile} and has no effect: this run is not on HPU.")
    elif common.hpu_compile == "hpu_graphs" and not lazy:
        yield wrong(
            "common.hpu_compile is hpu_graphs, which lazy mode alone has: set common.hpu_lazy_mode=true, or "
            "hpu_compile=compile."
        )
    elif common.hpu_compile == "compile" and lazy:
        yield wrong(
            "common.hpu_compile is compile, which eager mode alone has: set common.hpu_lazy_mode=false, or "
            "hpu_compile=hpu_graphs."
        )
    if (
        on_hpu
        and common.hpu_compile != "none"
        and named(cfg.model, "wav2vec2")
        and cfg.model.logit_temp_start is not None
    ):
        yield wrong(
            f"model.logit_temp_start is {cfg.model.logit_temp_start} and common.hpu_compile is "
            f"{common.hpu_compile}: kept graphs would hold the temperature of their first update. Set "
            "common.hpu_compile=none or model.logit_temp_start=null."
        )
    if on_hpu and common.hpu_compile != "none" and cfg.model.get("checkpoint_activations"):
        yield wrong(
            f"common.hpu_compile is {common.hpu_compile} and model.checkpoint_activations is true: a kept graph "
            "draws new dropout seeds at each replay, so the recomputed activations would have other masks than the "
            "first pass, and the gradients would silently be wrong. Set common.hpu_compile=none or "
            "model.checkpoint_activations=false."
        )
    if common.hpu_compiled_autograd and (common.hpu_compile != "compile" or not on_hpu):
        yield odd("common.hpu_compiled_autograd is true and has no effect without common.hpu_compile=compile on HPU.")
    if common.hmp and common.hmp_opt_level == "O2":
        yield wrong(
            "common.hmp_opt_level is O2: it belonged to Habana's own mixed precision, which ended with release 1.13 "
            "of its software; autocast, which runs in its place, knows op lists only. Set common.hmp_opt_level=O1, "
            "with common.hmp_bf16 and hmp_fp32."
        )
    elif common.hmp and common.hmp_opt_level != "O1":
        yield wrong(f"common.hmp_opt_level is {common.hmp_opt_level!r}: it may be O1.")
    if common.hmp and not on_hpu and (common.hmp_bf16 or common.hmp_fp32):
        yield odd(
            "common.hmp runs bfloat16 autocast on this device too, by torch's own list of operators: the op lists "
            "are for HPU."
        )


def lazy_device(cfg: DictConfig) -> Iterator[Finding]:
    """torch's lazy-tensor device has no autocast."""
    keys = ("fp16", "bf16", "amp", "hmp", "memory_efficient_fp16", "memory_efficient_bf16")
    asked = [f"common.{key}" for key in keys if cfg.common[key]]
    if cfg.common.device == "lazy" and asked:
        off = " ".join(f"{key}=false" for key in asked)
        yield wrong(
            f"common.device is lazy, which computes in fp32 only, but {' and '.join(asked)} is true: set {off}."
        )


def op_lists(cfg: DictConfig) -> Iterator[Finding]:
    """The operators of mixed precision on HPU."""
    if not (cfg.common.hmp and (cfg.common.hpu or cfg.common.device == "hpu")):
        return
    for key in ("hmp_bf16", "hmp_fp32"):
        if cfg.common[key]:
            try:
                hpu_environment.read_op_list(hpu_environment.find_op_list(cfg.common[key]))
            except ValueError as error:
                yield wrong(f"common.{key} is {error}")
