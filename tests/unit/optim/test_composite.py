"""Parameter groups with optimizers and schedules of their own."""

from __future__ import annotations

import copy

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from fairseq.optim import build_optimizer
from fairseq.optim.lr_scheduler import build_lr_scheduler

ADAM = {"_name": "adam", "adam_betas": [0.9, 0.98], "weight_decay": 0.1}


def run_config(groups, **optimizer):
    """The optimizer's part of a whole config, so that interpolations have something to refer to."""
    root = OmegaConf.create(
        {
            "common": {"tpu": False},
            "optimization": {"lr": [0.5], "max_update": 100},
            "optimizer": {"_name": "composite", "groups": groups, "lr": "${optimization.lr}", **optimizer},
        }
    )
    return root.optimizer


def parameter(group=None, overrides=None, value=1.0):
    p = nn.Parameter(torch.full((2,), value))
    if group is not None:
        p.param_group = group
    if overrides is not None:
        p.optim_overrides = overrides
    return p


def two_groups():
    fixed = {"_name": "fixed", "warmup_updates": 0}
    cosine = {"_name": "cosine", "warmup_updates": 0, "min_lr": 0.0}
    return {
        "generator": {"lr": [0.004], "lr_float": None, "optimizer": ADAM, "lr_scheduler": cosine},
        "discriminator": {"lr_float": 0.001, "optimizer": {**ADAM, "weight_decay": 0.0}, "lr_scheduler": fixed},
    }


def build(groups, params, **optimizer):
    optimizer = build_optimizer(run_config(groups, **optimizer), params)
    return optimizer, build_lr_scheduler(OmegaConf.create({"_name": "pass_through"}), optimizer)


def test_groups_have_their_own_settings_and_schedules():
    g, d = parameter("generator"), parameter("discriminator")
    optimizer, schedule = build(two_groups(), [g, d])
    schedule.step_begin_epoch(1)
    schedule.step_update(50)
    rates = {key: inner.get_lr() for key, inner in optimizer.optimizers.items()}
    assert rates == {"generator": pytest.approx(0.002), "discriminator": 0.001}
    assert optimizer.get_lr() == rates["generator"]  # no group "default": the first
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    for p in (g, d):
        p.grad = torch.ones(2)
    optimizer.step(found_inf=torch.tensor(1.0))
    assert g.tolist() == d.tolist() == [1.0, 1.0]
    optimizer.sync_steps()
    optimizer.step(found_inf=torch.tensor(0.0), grad_scale=torch.tensor(2.0))
    assert g[0].item() == pytest.approx(1 - 0.002 * 0.1 - 0.002, abs=1e-6)
    assert d[0].item() == pytest.approx(0.999, abs=1e-6)
    optimizer.zero_grad()
    assert g.grad is None and d.grad is None


def test_only_the_named_groups_step():
    g, d = parameter("generator"), parameter("discriminator")
    optimizer, _ = build(two_groups(), [g, d])
    g.grad = d.grad = torch.ones(2)
    optimizer.optimizer.step(groups=["discriminator"])
    assert g[0].item() == 1.0 and d[0].item() < 1.0


def test_state_goes_on_per_group():
    g, d = parameter("generator"), parameter("discriminator")
    optimizer, schedule = build(two_groups(), [g, d])
    for p in (g, d):
        p.grad = torch.ones(2)
    optimizer.step()
    state, schedule_state = copy.deepcopy(optimizer.state_dict()), schedule.state_dict()
    again, again_schedule = build(two_groups(), [parameter("generator"), parameter("discriminator")])
    again.load_state_dict({**state, "loss_scale": 128.0}, {"generator": {"weight_decay": 0.3}})
    again_schedule.load_state_dict(schedule_state)
    assert [group["weight_decay"] for group in again.param_groups] == [0.3, 0.0]
    assert again.state_dict()["generator"]["state"][0]["step"] == 1
    with pytest.raises(ValueError, match="not have group discriminator"):
        again.load_state_dict({"generator": state["generator"]})


def test_lr_of_the_run_where_a_group_names_none():
    optimizer = build_optimizer(run_config({"default": {"optimizer": ADAM}}), [parameter(), parameter()])
    assert optimizer.get_lr() == 0.5
    # one schedule for all groups
    schedule = build_lr_scheduler(OmegaConf.create({"_name": "fixed", "lr": [0.25]}), optimizer)
    schedule.step_update(1)
    assert optimizer.get_lr() == 0.25


def test_overrides_scale_a_group():
    slow = {"optimizer": {"lr_scale": 0.1, "weight_decay_scale": 0.5}}
    groups = {"default": {"lr_float": 1.0, "optimizer": ADAM}}
    params = [parameter(), parameter(overrides=slow), parameter(overrides=slow)]
    optimizer = build_optimizer(run_config(groups, dynamic_groups=True), params)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(1.0, 0.1), (0.1, 0.05)]
    with pytest.raises(ValueError, match="dynamic_groups"):
        build_optimizer(run_config(groups), [parameter(), parameter(overrides=slow)])
    same_for_all = build_optimizer(run_config(groups), [parameter(overrides=slow)])
    assert [group["lr"] for group in same_for_all.param_groups] == [0.1]


def test_mistakes_are_named():
    groups = two_groups()
    with pytest.raises(ValueError, match="group default, which is not in optimizer.groups"):
        build_optimizer(run_config(groups), [parameter("generator"), parameter("discriminator"), parameter()])
    with pytest.raises(ValueError, match="optimizer.groups.discriminator: no parameter"):
        build_optimizer(run_config(groups), [parameter("generator")])
    del groups["discriminator"]["lr_scheduler"]
    with pytest.raises(ValueError, match="discriminator has no lr_scheduler"):
        build_optimizer(run_config(groups), [parameter("generator"), parameter("discriminator")])
    with pytest.raises(ValueError, match="optimizer.groups.default.optimizer must be"):
        build_optimizer(run_config({"default": {"lr_float": 1.0}}), [parameter()])
    with pytest.raises(ValueError, match="lr_scheduler=pass_through"):
        optimizer = build_optimizer(run_config(two_groups()), [parameter("generator"), parameter("discriminator")])
        build_lr_scheduler(OmegaConf.create({"_name": "fixed", "lr": [0.25]}), optimizer)
    with pytest.raises(ValueError, match="optimizer=composite"):
        plain = build_optimizer(OmegaConf.create({**ADAM, "lr": [1.0]}), [parameter()])
        build_lr_scheduler(OmegaConf.create({"_name": "pass_through"}), plain)
