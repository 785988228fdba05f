"""The share of masked frames."""

from __future__ import annotations

import numpy as np

from fairseq.doctor.causes.masking import masked_share
from tests.unit.doctor.causes.made_runs import CTC, PRETRAINING, changed, healthy, of


def test_the_expected_share_is_healthy():
    assert masked_share(of(healthy(5))) is None  # 750 of 35 s: 43 %, as tiny.yaml has
    assert masked_share(of(healthy(5), CTC)) is None and masked_share(of(healthy(5), {})) is None


def test_fewer_masks_are_found_from_masked_frames_and_seconds():
    found = masked_share(of(healthy(5, wpb=np.full(5, 210.0))))
    assert found is not None and found.evidence[0].startswith("12 % of the frames are masked; 43 % are expected")
    assert found.metric == "wpb" and found.title.startswith("Far fewer")


def test_the_measured_share_is_used_where_it_is_recorded():
    found = masked_share(of(healthy(5, masked_share=np.full(5, 80.0))))
    assert found is not None and found.metric == "masked_share" and found.title.startswith("Far more")


def test_other_settings_have_other_expectations():
    config = changed(PRETRAINING, model={"mask_prob": 0.15})
    assert masked_share(of(healthy(5, wpb=np.full(5, 210.0)), config)) is None
    assert masked_share(of(healthy(5), config)) is not None


def test_few_utterances_say_nothing_about_the_share_of_masks():
    columns = {"audio_s_per_update": [5.0] * 9, "bsz": [0.5] * 9, "wpb": [5.0] * 9}
    assert masked_share(of(columns)) is None
    assert masked_share(of({**columns, "audio_s_per_update": [50.0] * 9, "bsz": [5.0] * 9})) is not None
