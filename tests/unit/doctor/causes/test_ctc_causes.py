"""CTC that predicts only blanks, few symbols, or wrong words."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.causes.ctc import blanks_only, few_symbols, wer_flat
from tests.unit.doctor.causes.made_runs import CTC, PRETRAINING, changed, of

LOSS = np.linspace(30.0, 8.0, 20)


def test_blanks_are_normal_at_first_and_an_error_after_half_of_the_run():
    columns = {"loss": LOSS, "blanks": np.full(20, 100.0)}
    for name in ("blanks", "blank_share"):
        named = {"loss": LOSS, name: columns["blanks"]}
        early = blanks_only(of({key: value[:8] for key, value in named.items()}, CTC))
        late = blanks_only(of(named, CTC))
        assert early is not None and early.severity == "note" and early.metric == name
        assert late is not None and late.severity == "error"
    assert blanks_only(of(columns, PRETRAINING)) is None
    assert blanks_only(of({**columns, "blanks": np.linspace(100, 60, 20)}, CTC)) is None


def test_a_frozen_encoder_gives_time():
    columns = {"loss": LOSS[:12], "blanks": np.full(12, 100.0)}
    found = blanks_only(of(columns, changed(CTC, model={"freeze_finetune_updates": 200})))
    assert found is not None and found.severity == "note"


def test_a_fall_back_is_a_warning_at_once():
    blanks = [100, 90, 80, 70, 60, 60, 100, 100, 100]
    from_random_weights = blanks_only(of({"loss": LOSS[:9], "blanks": blanks}, CTC))
    assert from_random_weights is not None and from_random_weights.severity == "note"
    back = blanks_only(of({"loss": [30, 20, 10, 8, 8, 8, 20, 25, 25], "blanks": blanks}, CTC))
    assert back is not None and back.severity == "warning" and back.begin == 160


def test_few_symbols_late_in_a_run_with_many_errors():
    def found(used: list[float], errors: list[float], blanks: float = 80.0):
        return few_symbols(
            of({"loss": LOSS}, CTC, {"symbols_used": used, "uer": errors, "blanks": [blanks] * len(used)})
        )

    assert found([10, 10], [90, 85]) is not None
    assert found([10], [90]) is None and found([10, 90], [90, 85]) is None
    assert found([10, 10], [90, 20]) is None  # a large dictionary
    assert found([10, 10], [90, 85], blanks=100.0) is None  # blanks-only says it


def test_words_that_stay_wrong_while_units_get_right():
    valid = {"wer": [100.0] * 5, "uer": [80.0, 60.0, 40.0, 30.0, 20.0], "blanks": [80.0] * 5}
    found = wer_flat(of({"loss": LOSS}, CTC, valid))
    assert found is not None and "criterion.post_process" in found.change and found.begin == 100
    assert wer_flat(of({"loss": LOSS}, CTC, {**valid, "blanks": [100.0] * 5})) is None
    assert wer_flat(of({"loss": np.full(20, 9.0)}, CTC, valid)) is None
    assert wer_flat(of({"loss": LOSS}, CTC, {**valid, "wer": [100.0, 95.0, 80.0, 60.0, 50.0]})) is None
