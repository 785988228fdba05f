"""What `--explain-key` says."""

from __future__ import annotations

import re

import pytest

import fairseq.criterions
import fairseq.models
import fairseq.optim
import fairseq.tasks  # noqa: F401
from fairseq_cli.explain_key import explain


def test_a_key_with_its_default_and_what_the_yaml_says() -> None:
    text = explain("optimization.update_freq", {"optimization": {"update_freq": [64]}}, "mine")
    assert text.splitlines()[0] == "optimization.update_freq"
    assert "  takes: a list of whole numbers, such as [1]\n  default: [1]\n  in mine: [64]" in text
    assert explain("update_freq", {}, "") == explain("optimization.update_freq=[2]", {}, "") != text


def test_keys_of_one_name_in_several_classes() -> None:
    text = explain("model.dropout", {}, "")
    assert (
        re.search(r"^model.dropout \(model wav2vec2\b", text, re.MULTILINE)
        and "model.dropout (model wav2vec_ctc, hubert_ctc)" in text
    )
    assert "task audio_pretraining, audio_finetuning" in explain("task.data", {}, "")


def test_nested_keys_groups_and_what_is_not_offered() -> None:
    assert "default: 1.0" in explain("task.augment.speed", {}, "")
    assert "  optimization.max_update=0  " in explain("optimization", {}, "")
    assert "Not offered: train on CPU or CUDA." in explain("common.tpu", {}, "")
    assert "common.tpu" not in explain("common", {}, "")


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("optimization.update_frq", "optimization.update_freq"),
        ("dataset.update_freq", "optimization.update_freq"),
        ("optimisation", "optimization"),
    ],
)
def test_a_key_that_is_not_there(key: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"there is no such key. Did you mean '{near}'"):
        explain(key, {}, "")
