"""Learning rate schedules against their closed forms, over epochs, and over a resume."""

from __future__ import annotations

import math

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from fairseq.optim import build_optimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, build_lr_scheduler


def schedule(name, lr=(1e-3,), **settings):
    optimizer = build_optimizer(OmegaConf.create({"_name": "adam", "lr": list(lr)}), [nn.Parameter(torch.zeros(1))])
    return build_lr_scheduler(OmegaConf.create({"_name": name, "lr": list(lr), **settings}), optimizer)


def rates(sched, updates):
    found = []
    for n in updates:
        returned = sched.step_update(n)
        assert returned == sched.optimizer.get_lr()
        found.append(returned)
    return found


def test_polynomial_decay():
    sched = schedule("polynomial_decay", warmup_updates=10, total_num_update=30, end_learning_rate=1e-4, power=2.0)
    expected = [0.0, 5e-4, 1e-3, 9e-4 * 0.25 + 1e-4, 1e-4, 1e-4]
    assert rates(sched, [0, 5, 10, 20, 30, 31]) == pytest.approx(expected, abs=1e-15)
    assert schedule("polynomial_decay", warmup_updates=10, total_num_update=30).optimizer.get_lr() == pytest.approx(
        1e-4
    )


def test_polynomial_decay_takes_a_rate_per_epoch_and_anneals():
    settings = {"lr": (1.0, 2.0, 4.0), "warmup_updates": 0, "total_num_update": 100, "force_anneal": 3}
    sched = schedule("polynomial_decay", **settings)
    assert sched.step_begin_epoch(1) == 2.0  # as upstream: the list is read from its second entry
    assert sched.step_begin_epoch(2) == 4.0
    assert sched.step_update(50) == 2.0
    sched.step_begin_epoch(3)
    assert sched.step_update(50) == 1.0  # from the rate reached
    sched.step_begin_epoch(3)
    assert sched.step_update(50) == 1.0  # beginning the same epoch again changes nothing

    resumed = schedule("polynomial_decay", **settings)
    resumed.load_state_dict(sched.state_dict())
    resumed.step_begin_epoch(3)
    assert rates(resumed, [50, 60, 75]) == rates(sched, [50, 60, 75])


def test_polynomial_decay_keeps_the_epoch_of_a_run_that_resumes_after_its_last_update():
    sched = schedule("polynomial_decay", warmup_updates=10, total_num_update=30)
    sched.step_begin_epoch(2)
    resumed = schedule("polynomial_decay", warmup_updates=10, total_num_update=30)
    resumed.load_state_dict(sched.state_dict())
    assert resumed.state_dict() == sched.state_dict()


def test_fixed_over_epochs_and_resume():
    settings = {"lr": (1.0, 0.5), "lr_shrink": 0.1, "force_anneal": 4, "warmup_updates": 4}
    sched = schedule("fixed", **settings)
    assert rates(sched, [0, 1, 3, 4]) == [0.25, 0.5, 1.0, 1.0]
    assert [sched.step_begin_epoch(epoch) for epoch in (1, 2, 3)] == [1.0, 0.5, 0.5]
    assert [sched.step_begin_epoch(epoch) for epoch in (4, 5)] == pytest.approx([0.05, 0.005])
    sched.step(5, val_loss=3.0)
    sched.step(5, val_loss=4.0)
    resumed = schedule("fixed", **settings)
    resumed.load_state_dict(sched.state_dict())
    resumed.step_begin_epoch(5)
    assert resumed.best == 3.0 and resumed.step_update(10) == pytest.approx(0.005)


def test_tri_stage():
    sched = schedule(
        "tri_stage", warmup_steps=10, hold_steps=10, decay_steps=20, init_lr_scale=0.1, final_lr_scale=0.01
    )
    expected = [1e-4, 5.5e-4, 1e-3, 1e-3, 1e-3, 1e-4, 1e-5, 1e-5]
    assert rates(sched, [0, 5, 10, 19, 20, 30, 40, 100]) == pytest.approx(expected, rel=1e-12)
    shares = schedule("tri_stage", phase_ratio=[0.1, 0.4, 0.5], max_update=100)
    assert (shares.warmup_steps, shares.hold_steps, shares.decay_steps) == (10, 40, 50)
    assert schedule("tri_stage", warmup_steps=2, hold_steps=2).step_update(100) == pytest.approx(1e-5)


def test_cosine_in_one_period():
    sched = schedule("cosine", warmup_updates=10, min_lr=1e-5, max_update=110)
    assert rates(sched, [0, 10, 60]) == pytest.approx([1e-5, 1e-3, (1e-3 + 1e-5) / 2], abs=1e-15)
    assert schedule("cosine", min_lr=1.0, max_update=10).step_update(5) == 1e-3  # never above lr


def test_cosine_in_growing_periods():
    sched = schedule("cosine", lr=(1.0,), lr_period_updates=10, t_mult=2.0, lr_shrink=0.5, max_update=0)
    assert rates(sched, [0, 5, 10, 20, 30]) == pytest.approx([1.0, 0.5, 0.5, 0.25, 0.25], abs=1e-12)
    same = schedule("cosine", lr=(1.0,), lr_period_updates=10, lr_shrink=0.5, max_update=0)
    assert rates(same, [0, 5, 10, 15, 20]) == pytest.approx([1.0, 0.5, 0.5, 0.25, 0.25], abs=1e-12)


def test_inverse_sqrt():
    sched = schedule("inverse_sqrt", warmup_updates=100, warmup_init_lr=1e-4)
    assert rates(sched, [0, 50, 100, 400]) == pytest.approx([1e-4, 5.5e-4, 1e-3, 5e-4], rel=1e-12)
    assert schedule("inverse_sqrt", warmup_updates=100).step_update(0) == 0.0


def test_every_schedule_is_a_function_of_the_update():
    """Stepping through all updates, or jumping to one after a resume, gives the same rate."""
    settings = {
        "polynomial_decay": {"warmup_updates": 4, "total_num_update": 40},
        "fixed": {"warmup_updates": 4},
        "tri_stage": {"warmup_steps": 4, "hold_steps": 8, "decay_steps": 20},
        "cosine": {"warmup_updates": 4, "max_update": 40},
        "inverse_sqrt": {"warmup_updates": 4},
    }
    for name, values in settings.items():
        walked = schedule(name, **values)
        walked.step_begin_epoch(1)
        path = rates(walked, range(45))
        assert len(set(path)) > 3
        for n in (0, 1, 4, 5, 17, 44):
            jumped = schedule(name, **values)
            jumped.load_state_dict(walked.state_dict())
            jumped.step_begin_epoch(1)
            assert jumped.step_update(n) == path[n] and math.isfinite(path[n]), name


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("polynomial_decay", {"total_num_update": 0}, "Set optimization.max_update"),
        ("cosine", {"max_update": 10, "warmup_updates": 10}, "no updates to decay over"),
        ("cosine", {"max_update": 10, "t_mult": 0.5}, "t_mult"),
        ("cosine", {"lr": (1.0, 2.0), "max_update": 10}, "takes one learning rate"),
        ("inverse_sqrt", {"warmup_updates": 0}, "warmup_updates is 0"),
        ("tri_stage", {}, "phase_ratio"),
        ("tri_stage", {"phase_ratio": [0.1, 0.4, 0.4], "max_update": 10}, "sum to 1"),
        ("tri_stage", {"phase_ratio": [0.1, 0.4, 0.5], "max_update": 0}, "optimization.max_update"),
        (
            "tri_stage",
            {"phase_ratio": [0.1, 0.4, 0.5], "max_update": 1},
            r"optimization\.max_update is 1: .* Set it to 2 or more",
        ),
        ("tri_stage", {"decay_steps": 10, "final_lr_scale": 0.0}, "final_lr_scale"),
    ],
)
def test_mistakes_are_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        schedule(name, **settings)


def test_a_schedule_drives_a_fairseq_optimizer():
    with pytest.raises(ValueError, match="SGD"):
        FairseqLRScheduler(None, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0))
