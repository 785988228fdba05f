"""An accuracy that is too good."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.causes.leak import accuracy_near_1
from tests.unit.doctor.causes.made_runs import PRETRAINING, changed, healthy, of

HIGH = [0.02, 0.3, 0.8, 0.95, 0.97, 0.98]


def test_a_high_accuracy_in_validation_too_means_copies_in_both():
    found = accuracy_near_1(of(healthy(6, accuracy=HIGH), valid={"accuracy": [0.96]}))
    assert found is not None and found.severity == "warning" and "training and validation alike" in found.title
    assert "Accuracy on valid is 0.960." in found.evidence


def test_a_low_accuracy_in_validation_means_learned_by_heart():
    found = accuracy_near_1(of(healthy(6, accuracy=HIGH), valid={"accuracy": [0.1]}))
    assert found is not None and "by heart" in found.title


def test_one_code_for_all_frames_means_silence():
    found = accuracy_near_1(of(healthy(6, accuracy=HIGH, code_perplexity=np.full(6, 2.2))))
    assert found is not None and found.severity == "error" and "silence" in found.title


def test_the_same_accuracy_is_too_good_early_and_fine_after_many_hours():
    good = np.linspace(0.02, 0.66, 12)
    assert accuracy_near_1(of(healthy(12, accuracy=good))) is not None
    assert accuracy_near_1(of(healthy(12, accuracy=good, audio_s_per_update=np.full(12, 5760.0)))) is None
    continued = changed({**PRETRAINING, "checkpoint": {}}, checkpoint={"continue_pretraining": True})
    assert accuracy_near_1(of(healthy(12, accuracy=good), continued)) is None
    assert accuracy_near_1(of(healthy())) is None
