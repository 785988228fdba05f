"""Drifts towards divergence, and what is not trained."""

from __future__ import annotations

import time

import numpy as np

from fairseq.doctor.causes.divergence import feature_penalty_drift, frozen, gradient_drift
from fairseq.doctor.records import INTERVAL, Records, Rows
from fairseq.doctor.trends import drift
from tests.unit.doctor.causes.made_runs import CTC, PRETRAINING, changed, healthy, noisy, of

STEPS = np.arange(40)
RISING = noisy(0.5 * np.where(STEPS < 30, 1.0, 1.5 ** (STEPS - 29)), 0.1)  # from row 30 on
LEARNING = {"loss_0": 5.0 - 0.02 * STEPS, "lr": np.full(40, 0.0005)}


def test_a_drift_begins_at_its_first_row_and_a_spike_is_none():
    found = drift(RISING)
    assert found is not None and 28 <= found.begin <= 31 and found.factor > 20
    spiky = noisy(np.where(STEPS == 37, 50.0, 0.5), 0.1)
    assert drift(spiky) is None and drift(np.ones(5)) is None and drift(np.ones(100)) is None


def test_an_ended_drift_is_none():
    steps = np.arange(80)
    assert drift(noisy(np.where((steps > 30) & (steps < 45), 5.0, 0.5), 0.1)) is None


def test_a_norm_that_rises_while_the_loss_rises_is_found_where_it_began():
    loss = np.where(STEPS < 30, 5.0 - 0.02 * STEPS, 4.4 + 0.05 * (STEPS - 30))
    found = gradient_drift(of(healthy(40, gnorm=RISING, loss_0=loss, lr=LEARNING["lr"])))
    assert found is not None and found.severity == "error" and 20 * 29 <= found.begin <= 20 * 32
    early = gradient_drift(of(healthy(37, gnorm=RISING, loss_0=loss, lr=LEARNING["lr"])))
    assert early is not None and early.begin == found.begin  # before the loss has risen much


def test_a_norm_that_rises_while_the_model_learns_is_healthy():
    assert gradient_drift(of(healthy(40, gnorm=RISING, **LEARNING))) is None
    for count in range(2, 21):
        assert gradient_drift(of(healthy(count))) is None


def test_growing_features_are_found():
    penalty = noisy(0.03 * np.where(STEPS < 25, 1.0, 1.4 ** (STEPS - 24)), 0.1)
    found = feature_penalty_drift(of(healthy(40, loss_2=penalty)))
    assert found is not None and found.metric == "loss_2" and 20 * 25 <= found.begin <= 20 * 28
    assert feature_penalty_drift(of(healthy(30, loss_2=penalty))) is None  # 0.2 bits do not matter yet
    for count in range(2, 21):
        assert feature_penalty_drift(of(healthy(count))) is None


def test_without_a_diversity_term_the_penalty_is_the_first_extra_loss():
    penalty = noisy(0.03 * np.where(STEPS < 25, 1.0, 1.4 ** (STEPS - 24)), 0.1)
    config = changed(PRETRAINING, criterion={"loss_weights": [0, 10]})
    found = feature_penalty_drift(of(healthy(40, loss_1=penalty), config))
    assert found is not None and found.metric == "loss_1"


def test_no_gradient_is_an_error():
    found = frozen(of(healthy(6, gnorm=[1, 1, 0, 0, 0, 0], loss=np.full(6, 6.658))))
    assert found is not None and found.severity == "error" and found.begin == 20 * 4  # 3 and 4 of two rows
    assert frozen(of(healthy(6))) is None
    assert frozen(of(healthy(6, gnorm=np.zeros(6), loss=np.linspace(6.6, 6.4, 6)))) is None  # rounded to 0


def test_a_feature_extractor_with_random_weights_is_an_error():
    config = changed(PRETRAINING, model={"feature_grad_mult": 0.0})
    found = frozen(of(healthy(6, loss_2=np.full(6, 1.15)), config))
    assert found is not None and "feature_grad_mult=0.1" in found.change and found.begin == 20
    continued = {**config, "checkpoint": {"finetune_from_model": "base.pt"}}
    assert frozen(of(healthy(6), continued)) is None


def test_an_encoder_that_is_frozen_to_the_end_is_a_warning():
    columns = {"loss": np.full(6, 3.0), "gnorm": np.full(6, 1.0)}
    found = frozen(of(columns, changed(CTC, model={"freeze_finetune_updates": 10000})))
    assert found is not None and found.severity == "warning" and "10,000" in found.evidence[0]
    assert frozen(of(columns, CTC)) is None


def test_a_trial_that_ends_before_the_encoder_is_trained_is_no_finding():
    few = changed(CTC, model={"freeze_finetune_updates": 10_000}, optimization={"max_update": 60})
    assert frozen(of({"loss": np.linspace(30, 20, 3)}, few)) is None


def test_a_gradient_of_0_for_a_few_updates_is_not_frozen():
    rows = Rows({"num_updates": 50 + i, "epoch": 1, "gnorm": 0.0, "loss": 5.0} for i in range(10))
    assert frozen(Records({INTERVAL: rows}, PRETRAINING)) is None


def test_of_a_long_run_the_newest_rows_are_looked_at():
    values = noisy(np.full(400_000, 0.5), 0.1)
    values[-20:] *= 1.3 ** np.arange(20)
    began = time.process_time()
    found = drift(values)
    assert time.process_time() - began < 0.5  # 3 s for all of them
    assert found is not None and 399_980 <= found.begin < 399_990
    assert drift(np.append(values[:-20], np.full(5000, 9.0))) is None  # it was seen at its time


def test_features_that_grow_soon_after_their_steep_fall_are_found_early():
    """A row every 10 updates; they grow from the 13th row on, and the 14th is above the rest (planted_runs, seed 7)."""
    fall = [3.2, 1.2, 0.26, 0.1, 0.06, 0.047, 0.037, 0.036, 0.033, 0.03, 0.029, 0.026]
    rise = [0.05, 0.157, 0.402, 0.993, 2.393, 5.492]
    found = feature_penalty_drift(of(healthy(18, loss_2=[*fall, *rise])))
    assert found is not None and found.begin == 20 * 14
    assert feature_penalty_drift(of(healthy(14, loss_2=[*fall, *rise][:14]))) is None
