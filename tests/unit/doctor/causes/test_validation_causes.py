"""Validation compared with training."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.causes.validation import overfit, validation_unlike_training
from fairseq.doctor.records import Records
from tests.unit.doctor.causes.made_runs import CTC, PRETRAINING, changed, healthy, of

FALLING = 6.0 - 0.1 * np.arange(25)  # of training, to 3.6 bits


def run(valid: list[float], train: np.ndarray = FALLING, epochs: float = 1, config: object = None) -> Records:
    records = of(healthy(25, loss_0=train), config if isinstance(config, dict) else None, {"loss_0": valid})
    for row in records.training.rows:
        assert isinstance(row, dict)
        row["epoch"] = epochs
    return records


def test_validation_that_gets_worse_is_an_overfit_from_its_best_on():
    found = overfit(run([5.5, 5.2, 5.0, 5.4, 5.6]))
    assert found is not None and (found.begin, found.end) == (300, 500) and found.split == "valid"
    assert overfit(run([5.5, 5.2, 5.0, 5.4])) is None  # one bad validation
    assert overfit(run([5.5, 5.2, 5.0, 5.05, 5.1])) is None  # of 1.6 bits learned
    assert overfit(run([5.5, 5.2, 5.0, 5.4, 5.6], train=FALLING[::-1])) is None  # training gets worse as well


def test_a_falling_temperature_of_the_logits_is_no_overfit():
    config = changed(PRETRAINING, model={"logit_temp_start": 1.0, "logit_temp_updates": 300})
    assert overfit(run([5.0, 5.2, 5.4, 5.4, 5.3], config=config)) is None


def test_words_decide_in_ctc():
    valid = {"loss": [3.0, 2.0, 2.5, 3.0, 4.0], "wer": [90.0, 60.0, 55.0, 53.0, 52.0]}
    columns = {"loss": FALLING}
    assert overfit(of(columns, CTC, valid)) is None
    found = overfit(of(columns, CTC, {**valid, "wer": [90.0, 50.0, 55.0, 60.0, 62.0]}))
    assert found is not None and found.metric == "wer"


def test_a_gap_from_the_beginning_is_other_audio_and_after_many_epochs_an_overfit():
    valid = [6.6, 6.55, 6.5, 6.5, 6.5]
    found = validation_unlike_training(run(valid))
    assert found is not None and found.severity == "warning" and overfit(run(valid)) is None
    found = overfit(run(valid, epochs=200))
    assert found is not None and "epoch 200" in found.evidence[1]
    assert validation_unlike_training(run(valid, epochs=200)) is None


def test_other_features_from_the_beginning_are_other_audio():
    columns = healthy(20, loss_2=np.full(20, 0.02))
    quiet = {"loss_0": [6.658, 6.4, 6.2, 6.0], "loss_2": [0.001] * 4, "code_perplexity": [60.0] * 4}
    found = validation_unlike_training(of(columns, None, quiet))
    assert found is not None and "feature penalty is 0.001 in validation and 0.02 in training" in found.evidence[0]
    alike = {**quiet, "loss_2": [0.018] * 4}
    assert validation_unlike_training(of(columns, None, alike)) is None
    later = {**quiet, "loss_2": [0.018, 0.001, 0.001, 0.001]}  # it is the model that changed
    assert validation_unlike_training(of(columns, None, later)) is None


def test_a_run_that_has_learned_nothing_does_not_overfit():
    """Noise of a small validation set around chance, and a training loss that falls by as little."""
    columns = healthy(20, loss_0=np.linspace(6.66, 6.60, 20))
    assert overfit(of(columns, valid={"loss_0": [6.65, 6.70, 6.75, 6.80]})) is None
    words = {"wer": [100.0, 105.0, 110.0, 112.0], "uer": [100.0] * 4}
    assert overfit(of({"loss": np.linspace(300, 100, 20)}, CTC, words)) is None
