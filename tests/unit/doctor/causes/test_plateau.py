"""InfoNCE at chance."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq.doctor.causes.plateau import plateau
from tests.unit.doctor.causes.made_runs import PRETRAINING, changed, healthy, of, rates


def test_a_run_that_has_not_left_yet_is_a_note_with_both_reasons_measured():
    found = plateau(of(healthy(6)))
    assert found is not None and found.severity == "note" and found.begin == 20 and found.end == 120
    evidence = " ".join(found.evidence)
    assert "101 candidates costs 6.658" in evidence and "35 s of audio, 0.0061 of the paper's" in evidence
    assert "between updates 76 and 416" in evidence  # 0.03 = 0.0005 * (76 - 16)


def test_a_run_that_has_left_and_one_without_the_column_say_nothing():
    assert plateau(of(healthy(20))) is None
    assert plateau(of({"accuracy": np.full(9, 0.01)})) is None
    assert plateau(of({"loss": np.full(9, 6.658)}, {"model": {"_name": "wav2vec_ctc"}})) is None


def test_chance_counts_all_negatives():
    config = changed(PRETRAINING, model={"num_negatives": 10, "cross_sample_negatives": 5})
    found = plateau(of({"loss_0": np.full(4, 4.0)}, config))
    assert found is not None and "16 candidates costs 4.000" in found.evidence[0]


@pytest.mark.parametrize("lr", [0.0, 1e-7])
def test_a_rate_that_cannot_leave_is_an_error_at_once(lr: float):
    config = changed(PRETRAINING, optimization={"lr": [lr]})
    found = plateau(of(healthy(3, lr=rates(3, config)), config))
    assert found is not None and found.severity == "error" and "optimization.lr" in found.change


def test_far_too_little_audio_is_an_error_and_one_card_with_the_base_config_is_a_note_at_first():
    much = changed(PRETRAINING, optimization={"lr": [0.01]})
    found = plateau(of(healthy(3, lr=rates(3, much), audio_s_per_update=np.full(3, 1.0)), much))
    assert found is not None and found.severity == "error" and "optimization.update_freq" in found.change
    base = changed(PRETRAINING, model={"encoder_embed_dim": 768}, optimization={"max_update": 400_000})
    one_card = healthy(3, audio_s_per_update=np.full(3, 87.5))
    found = plateau(of(one_card, base))
    assert found is not None and found.severity == "note" and "optimization.update_freq" in found.change
    assert any("8 times that of the paper's recipe" in line for line in found.evidence)


def test_a_plateau_that_lasts_too_long_becomes_a_warning_then_an_error():
    config = changed(PRETRAINING, optimization={"max_update": 100_000}, lr_scheduler={"warmup_updates": 0})
    at_chance = {"loss_0": np.full(200, 6.658), "lr": np.full(200, 0.0005), "audio_s_per_update": np.full(200, 5000.0)}

    def severity(count: int) -> str:
        found = plateau(of({name: column[:count] for name, column in at_chance.items()}, config))
        assert found is not None
        return found.severity

    assert [severity(count) for count in (40, 60, 160)] == ["note", "warning", "error"]


def test_what_was_learned_and_lost_is_an_error():
    columns = healthy(20)
    columns["loss_0"] = [*columns["loss_0"][:12], *([6.66] * 8)]
    columns["accuracy"] = [*columns["accuracy"][:12], *([0.01] * 8)]
    found = plateau(of(columns))
    assert found is not None and found.severity == "error" and found.begin == 20 * 14  # a median of three rows
    assert "update 240" in found.evidence[0]


def test_most_of_what_was_learned_lost_is_an_error_before_the_curve_is_back_at_chance():
    """A rate that jumped: 6.14 bits at best, then 6.51, 6.61, 6.63 and 6.64 (planted_runs, seed 7)."""
    after = [6.14, 6.512, 6.614, 6.626, 6.645, 6.65]
    columns = healthy(20)
    columns["loss_0"] = [*columns["loss_0"][:12], *after, 6.65, 6.65]
    columns["accuracy"] = [*columns["accuracy"][:12], 0.06, *([0.02] * 7)]
    severities = [plateau(of({name: column[:rows] for name, column in columns.items()})) for rows in (14, 15, 17, 18)]
    assert [found and found.severity for found in severities] == [None, None, None, "error"]
