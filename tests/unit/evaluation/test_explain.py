"""Each known cause of a bad error rate is found by its facts, and not without them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fairseq.decoding import Tokens
from fairseq.evaluation.explain import explain
from fairseq.evaluation.facts import Facts
from fairseq.evaluation.measurements import AudioFacts, OutputStatistics, measure_audio

TOKENS = Tokens.from_symbols(["<s>", "<pad>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"])


def outputs(blank: float = 0.6, symbols: int = 28) -> OutputStatistics:
    counts = np.zeros(len(TOKENS.symbols), dtype=np.int64)
    counts[4 : 4 + symbols] = 1000
    counts[0] = round(blank / (1 - blank) * counts.sum()) if blank < 1 else 10000
    if blank >= 1:
        counts[1:] = 0
    return OutputStatistics(int(counts.sum()), counts, 0.9 * counts.sum())


def bad() -> Facts:
    """A WER of 100 % with nothing that explains it."""
    return Facts(
        tokens=TOKENS,
        references=["HELLO THERE", "GOOD DAY"],
        unit_references=["H E L L O | T H E R E |", "G O O D | D A Y |"],
        texts=["XX QQQ", "ZZ VVV"],
        errors=[],
        outputs=outputs(),
        audio=AudioFacts({16000: 2}, 0, 2, 0.1),
        sample_rate=16000,
        num_updates=80000,
        freeze_updates=10000,
        max_update=80000,
        head_bias=np.ones(len(TOKENS.symbols)),
        normalize=False,
        pretraining_normalize=False,
        flipped_wer=(100.0, 100.0),
        masked_letters=(16, 18, 18),
    )


CASES: dict[str, dict[str, Any]] = {
    "unreadable audio": {"errors": ["a.flac cannot be read"]},
    "silent audio": {"audio": AudioFacts({16000: 2}, 2, 2, 0.0)},
    "dictionary case": {"unit_references": ["h e l l o | t h e r e |", "g o o d | d a y |"]},
    "another dictionary": {"unit_references": ["HH AH L OW", "G UH D"]},
    "case of the text": {"references": ["hello there", "good day"], "texts": ["HELLO THERE", "GOOD DAY"]},
    "normalize": {"flipped_wer": (100.0, 12.0)},
    "sample rate": {"audio": AudioFacts({8000: 2}, 0, 2, 1e-7)},
    "untrained head": {"head_bias": np.zeros(len(TOKENS.symbols))},
    "too few updates": {"num_updates": 9000},
    "letters at masks": {"masked_letters": (16, 24, 18)},
    "blank collapse": {"texts": ["", ""], "outputs": outputs(blank=1.0)},
    "few symbols": {"outputs": outputs(symbols=2)},
    "weights of the beam": {"greedy_wer": 20.0},
    "lexicon": {"lexicon_misses": ["HELLO", "DAY"]},
    "word ends": {"texts": ["HELLOTHERE", "GOODDAY"]},
}


@pytest.mark.parametrize("cause", CASES)
def test_a_cause_is_found_by_its_facts_alone(cause: str) -> None:
    findings = explain(replace(bad(), **CASES[cause]))
    assert [finding.cause for finding in findings] == [cause]
    assert findings[0].evidence and findings[0].advice


def test_empty_references_explain_themselves() -> None:
    (finding,) = explain(replace(bad(), references=["", " "], unit_references=["|", ""], greedy_wer=float("nan")))
    assert finding.cause == "empty references" and "all 2 references" in finding.evidence


def test_without_a_cause_nothing_is_claimed() -> None:
    assert explain(bad()) == []


def test_letters_at_masks_are_more_than_a_few() -> None:
    assert explain(replace(bad(), masked_letters=(1, 5, 18))) == []


def test_a_good_result_needs_no_explanation() -> None:
    assert explain(replace(bad(), texts=["HELLO THERE", "GOOD DAY"], head_bias=np.zeros(3))) == []


def test_what_the_pretraining_had_is_told() -> None:
    (finding,) = explain(replace(bad(), pretraining_normalize=True))
    assert finding.cause == "normalize" and "was True in pre-training" in finding.evidence


def test_audio_of_half_the_bandwidth_is_measured() -> None:
    class Source:
        def __init__(self, wave: np.ndarray, own_rate: int) -> None:
            self.wave, self.own_rate, self.sample_rate, self.num_samples = wave, own_rate, 16000, len(wave)

        def read(self, start: int, count: int) -> np.ndarray:
            return self.wave[start : start + count]

    rng = np.random.default_rng(1)
    wide = rng.standard_normal(16000).astype(np.float32) * 0.1
    spectrum = np.fft.rfft(wide)
    spectrum[4000:] = 0
    narrow = np.fft.irfft(spectrum).astype(np.float32)
    assert measure_audio([Source(wide, 16000)]).above_half == pytest.approx(0.5, abs=0.05)
    found = measure_audio([Source(narrow, 8000), Source(narrow * 0, 16000), Source(narrow[:0], 16000)])
    assert found.above_half < 1e-5 and found.quiet == 2 and found.own_rates == {8000: 1, 16000: 2}


def test_frames_are_counted_while_they_pass() -> None:
    found = OutputStatistics()
    pieces = [np.log(np.array([[0.8, 0.2], [0.3, 0.7]])), np.log(np.array([[0.6, 0.4]]))]
    assert len(list(found.watch(pieces))) == 2
    assert (found.frames, found.share(0), found.used(frozenset({0}))) == (3, pytest.approx(2 / 3), 1)
    assert found.confidence == pytest.approx(2.1)
