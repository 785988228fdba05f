"""Codebook collapse and dead codewords."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.causes.codebook import codebook_collapse, dead_codes
from fairseq.doctor.records import INTERVAL, Records, Rows
from tests.unit.doctor.causes.made_runs import PRETRAINING, changed, healthy, of

FALLING = 2 + 100 * 0.5 ** np.arange(12.0)  # 102, 52, 27 ... 2.05


def test_a_collapsed_codebook_stops_a_run():
    found = codebook_collapse(of(healthy(12, code_perplexity=FALLING)))
    assert found is not None and found.severity == "error" and found.has_collapsed and found.begin == 20 * 10
    assert "It was 102 at update 20." in found.evidence


def test_the_trend_is_a_warning_with_the_update_at_which_it_is_complete():
    found = codebook_collapse(of(healthy(7, code_perplexity=FALLING[:7])))
    assert found is not None and found.severity == "warning" and not found.has_collapsed
    [line] = [line for line in found.evidence if "complete at about update" in line]
    assert 160 < int(line.rstrip(".").split()[-1]) < 220


def test_a_base_model_that_starts_low_and_rises_is_healthy():
    """fairseq issues 2981 and 3391: 18 and 26 of 640 with an accuracy of 0.49."""
    config = changed(PRETRAINING, model={"latent_vars": 320})
    low = [180, 110, 40, 25, 18, 18, 20, 26, 40]
    for count in range(2, len(low) + 1):
        assert codebook_collapse(of(healthy(count, code_perplexity=low[:count]), config)) is None


def test_without_a_diversity_term_half_of_the_codes_is_enough():
    falls = [68, 68, 65, 60, 50, 40, 30, 28]
    config = changed(PRETRAINING, criterion={"loss_weights": [0, 10]})
    found = codebook_collapse(of(healthy(8, code_perplexity=falls), config))
    assert found is not None and found.severity == "warning" and "loss_weights=[0.1,10]" in found.change
    assert codebook_collapse(of(healthy(8, code_perplexity=falls))) is None


def test_dead_features_are_a_collapse_although_all_codes_are_equally_likely():
    """fairseq issue 3330: probabilities 602.7 of 640, codes 23.8."""
    config = changed(PRETRAINING, model={"latent_vars": 320})
    columns = healthy(4, prob_perplexity=[602.7] * 4, code_perplexity=[23.8] * 4, loss_2=[0.3, 0.0, 0.0, 0.0])
    assert codebook_collapse(of({**columns, "loss_2": np.full(4, 0.02)}, config)) is None  # few frames in a batch
    found = codebook_collapse(of(columns, config))
    assert found is not None and found.has_collapsed and "features have died" in found.title


def test_one_code_from_the_beginning_points_to_the_audio():
    found = codebook_collapse(of(healthy(3, code_perplexity=[2.0] * 3)))
    assert found is not None and "from the beginning" in found.title and "fairseq-data-report" in found.change


def epoch(update: int, dead: int, per_code: int = 200, split: str = "train") -> dict[str, object]:
    counts = [[0] * dead + [per_code] * (64 - dead), [per_code] * 64]
    return {"num_updates": update, "epoch": 1, "split": split, "counts": counts}


def test_dead_codes_of_an_epoch():
    columns = healthy(20)
    many = changed(PRETRAINING, model={"latent_vars": 64})
    assert dead_codes(of(columns, many)) is None
    assert dead_codes(of(columns, many, codes=[epoch(200, 8)])) is None
    found = dead_codes(of(columns, many, codes=[epoch(100, 40), epoch(200, 40), epoch(210, 64, split="valid")]))
    assert found is not None and found.severity == "note" and found.evidence[0].startswith("40 of 128 codewords")
    worse = [{**epoch(update, 50), "counts": [[0] * 50 + [400] * 14] * 2} for update in (100, 200)]
    found = dead_codes(of(columns, many, codes=worse))
    assert found is not None and found.severity == "warning" and (found.begin, found.end) == (100, 200)


def test_an_epoch_of_few_frames_does_not_say():
    assert dead_codes(of(healthy(20), codes=[epoch(200, 60, per_code=3)])) is None


def test_a_few_updates_with_one_code_are_no_collapse():
    columns = {"code_perplexity": [60.0, 60.0, 60.0, 2.0, 2.0, 2.0]}
    values = enumerate(columns["code_perplexity"])
    rows = Rows({"num_updates": 40 + place, "epoch": 1, "code_perplexity": value} for place, value in values)
    assert codebook_collapse(Records({INTERVAL: rows}, PRETRAINING)) is None
    found = codebook_collapse(of(columns))
    assert found is not None and found.has_collapsed


def test_dead_codes_are_not_said_of_a_codebook_that_has_collapsed():
    counts = [[200_000, *([0] * 319)]] * 2
    codes = [{"split": "train", "num_updates": 1000, "counts": counts}]
    assert dead_codes(of({"code_perplexity": [60.0] * 50}, codes=codes)) is not None
    assert dead_codes(of({"code_perplexity": [60.0, *([2.0] * 49)]}, codes=codes)) is None
