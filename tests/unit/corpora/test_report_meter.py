"""Measurements of decoded audio: right values, the same for any blocks, and one rule for each fault."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq.corpora.report.meter import Meter
from fairseq.corpora.report.records import Sound
from fairseq.corpora.report.sound_rules import SOUND_RULES
from tests.planted import lowpass
from tests.unit.corpora.signals import RATE, speech


def measured(wave: np.ndarray, block: int = 1 << 18, rate: int = RATE) -> tuple[Sound, Meter]:
    samples = np.asarray(wave, dtype=np.float32).reshape(len(wave), -1)
    meter = Meter(rate, samples.shape[1])
    for start in range(0, len(samples), block):
        meter.feed(samples[start : start + block])
    return meter.result(), meter


def raised(sound: Sound) -> dict[str, str]:
    hits = SOUND_RULES.no_hits()
    SOUND_RULES.apply(0, sound, hits)
    return {name: found.first[0][1] for name, found in hits.items() if found.count}


def test_a_tone() -> None:
    time = np.arange(2 * RATE) / RATE
    sound, _ = measured(0.5 * np.sin(2 * np.pi * 440 * time) + 0.125)
    assert sound.seconds == 2 and sound.dc == pytest.approx(0.125, abs=1e-5)
    assert sound.peak == pytest.approx(0.625, abs=1e-3)
    assert sound.level == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert sound.loud == sound.floor == round(sound.level)


def test_speech_has_no_fault() -> None:
    for seed in range(5):
        assert raised(measured(speech(4, seed))[0]) == {}


RNG = np.random.default_rng(3)
SPEECH = speech(4)
TONE = np.sin(2 * np.pi * 300 * np.arange(3 * RATE) / RATE)
FAULTS = {
    "silence": np.full(RATE, 0.25),
    "steady-sound": 0.1 * TONE,
    "clipping": np.clip(8 * SPEECH, -0.9, 0.9),
    "dc-offset": SPEECH + 0.03,
    "narrow-band": np.round(lowpass(SPEECH, 3600) * 32768) / 32768,
    "noisy": SPEECH + 1.2 * SPEECH.std() * RNG.standard_normal(len(SPEECH)),
    "quiet": np.round(SPEECH / np.abs(SPEECH).max() * 0.012 * 32768) / 32768,
    "coarse-samples": np.round(SPEECH * 128) / 128,
    "channels": np.stack([SPEECH, -SPEECH], axis=1),
    "digital-silence": np.concatenate([SPEECH, np.zeros(RATE + 400), SPEECH]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named(name: str) -> None:
    assert list(raised(measured(FAULTS[name])[0])) == [name]


def test_evidence() -> None:
    assert raised(measured(FAULTS["dc-offset"])[0])["dc-offset"] == "mean +0.030 of full scale"
    assert "3.7 kHz in a file of 16,000 Hz" in raised(measured(FAULTS["narrow-band"])[0])["narrow-band"]
    one_sided = np.stack([SPEECH, 0 * SPEECH], axis=1)
    assert raised(measured(one_sided)[0])["channels"] == "channel 2 is empty beside channel 1"


def test_every_rule_is_tested() -> None:
    assert {rule.name for rule in SOUND_RULES.rules} == {*FAULTS, "undecodable"}
    assert raised(Sound("it ends early")) == {"undecodable": "it ends early"}


@pytest.mark.parametrize("block", [16000, 51200])
def test_blocks_change_nothing_that_matters(block: int) -> None:
    wave = np.concatenate([speech(6), np.zeros(20000, dtype=np.float32)])
    (whole, first), (parts, second) = measured(wave), measured(wave, block)
    assert first.digest() == second.digest()
    assert (first.anchors.hashes, first.anchors.places) == (second.anchors.hashes, second.anchors.places)
    assert parts._replace(level=whole.level, dc=whole.dc) == whole
    assert parts.level == pytest.approx(whole.level, abs=1e-3) and parts.dc == pytest.approx(whole.dc, abs=1e-6)
    assert whole.constant == pytest.approx(1.24, abs=0.03)  # in whole frames


def test_clipping_that_starts_late_counts() -> None:
    wave = np.concatenate([0.3 * SPEECH, np.clip(8 * SPEECH, -0.9, 0.9)])
    whole, parts = measured(wave)[0], measured(wave, 16000)[0]
    assert whole.clipped > 0.01 and parts.clipped == pytest.approx(whole.clipped, rel=0.05)
