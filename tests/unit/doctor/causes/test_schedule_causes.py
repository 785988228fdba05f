"""The learning rate's schedule."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.causes.schedule import learning_rate_over, warm_up_too_short
from tests.unit.doctor.causes.made_runs import PRETRAINING, changed, healthy, of, rates


def test_a_rate_of_0_to_the_end_is_found_and_one_last_row_of_it_is_healthy():
    assert learning_rate_over(of(healthy(20))) is None  # the last row has a rate of 0
    config = changed(PRETRAINING, lr_scheduler={"total_num_update": 200})
    early = np.concatenate([rates(20)[:9], np.zeros(11)])
    found = learning_rate_over(of(healthy(11, lr=early[:11]), config))
    assert found is not None and found.begin == 200 and "ends at update 200, and the run at 400" in found.evidence[1]
    assert learning_rate_over(of(healthy(12, lr=early))) is not None  # without the config's help, after three rows
    assert learning_rate_over(of(healthy(11, lr=early))) is None


def test_a_rate_that_never_rose_is_not_an_end():
    assert learning_rate_over(of(healthy(9, lr=np.zeros(9)))) is None


def test_a_short_warm_up_is_a_finding_only_where_the_run_broke():
    assert warm_up_too_short(of(healthy(6))) is None
    broken = healthy(6, loss_0=[6.66, 6.8, 7.5, 8.0, 8.0, 8.1])
    found = warm_up_too_short(of(broken))
    assert found is not None and "The warm-up has 32 updates" in found.evidence[1] and found.begin == 80
    enough = changed(PRETRAINING, lr_scheduler={"warmup_updates": 2000})
    assert warm_up_too_short(of(broken, enough)) is None
    collapsed = healthy(6, code_perplexity=[100, 60, 10, 2, 2, 2])
    found = warm_up_too_short(of(collapsed))
    assert found is not None and found.evidence[0] == "Code perplexity fell from 100 to 2.0 by update 100."


def test_a_loss_above_chance_from_the_start_is_no_rise():
    """Random weights can be worse than guessing; a run that comes down from there is not broken."""
    coming_down = warm_up_too_short(of(healthy(9, loss_0=np.linspace(8.4, 7.3, 9))))
    config = changed(PRETRAINING, lr_scheduler={"warmup_updates": 1})
    assert coming_down is None and warm_up_too_short(of(healthy(9, loss_0=np.linspace(8.4, 7.3, 9)), config)) is None
    going_up = warm_up_too_short(of(healthy(9, loss_0=np.linspace(6.7, 8.4, 9)), config))
    assert going_up is not None
