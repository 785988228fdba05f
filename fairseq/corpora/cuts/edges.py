"""Where speech begins and ends, by loudness: the detector hears the hiss of an F or S late, or not at all.

So an edge moves out, into the pause, up to where the sound is hardly louder than the pause. It never moves further in
than the model's own delay at an end: quiet sounds of a word are worth more than exact edges.
"""

from __future__ import annotations

import numpy as np

from fairseq.corpora.cuts.detector import STEP

BLOCK = 128  # samples whose loudness is measured together: 8 ms
PER_STEP = STEP // BLOCK
AROUND = 32  # frames before and after an edge that are looked at: 1 s
_SMOOTH = 5  # blocks: 40 ms
_QUIETEST = 1e-10  # power of digital silence: -100 dB
_SPEECH = 10 * PER_STEP  # blocks on the side of the speech that say how loud it is
_OUT = 10 * PER_STEP  # blocks that an edge can move: 0.32 s
_GAP = 15  # blocks of quiet that end speech: 0.12 s, longer than the closure of a P, T or K
_RANGE = 36.0  # dB: what is further below the speech is silence
_CLEAR = 8.0  # dB between speech and pause; with less, loudness says nothing
_LIMIT = 0.25  # share of the way from the pause's loudness to that of the speech
_LATE = PER_STEP  # blocks by which the model's answer is late at an end, measured on synthetic speech


def loudness(window: np.ndarray) -> np.ndarray:
    """Return the power of blocks of 8 ms.

    Args:
        window: float32, a multiple of 128 samples.
    """
    blocks = window.reshape(-1, BLOCK)
    return np.einsum("bs,bs->b", blocks, blocks) / BLOCK + _QUIETEST


def smoothed(power: np.ndarray) -> np.ndarray:
    """Average power over 40 ms, along the last axis; without the two blocks at each end."""
    return np.lib.stride_tricks.sliding_window_view(power, _SMOOTH, axis=-1).mean(axis=-1)


def outwards(speech: np.ndarray, pause: np.ndarray, late: bool) -> int:
    """Return how many blocks an edge moves into the pause; negative: into the speech.

    Args:
        speech, pause: power of the blocks on both sides, each in order from the edge away.
        late: whether the edge is an end.
    """
    shift = -min(_LATE, len(speech)) if late else 0
    if len(pause) < _SMOOTH or len(speech) < _SMOOTH:
        return shift
    inner = min(len(speech), _SPEECH)
    line = np.concatenate([speech[:inner][::-1], pause])
    levels = 10 * np.log10(np.convolve(np.pad(line, _SMOOTH // 2, "edge"), np.full(_SMOOTH, 1 / _SMOOTH), "valid"))
    loud = 10 * float(np.log10(speech[:inner].mean()))
    floor = max(float(np.quantile(levels[inner:], 0.2)), loud - _RANGE)
    if loud - floor < _CLEAR:
        return shift
    above = (levels[inner : inner + _OUT] > floor + _LIMIT * (loud - floor)).tolist()
    quiet = 0
    for block, is_loud in enumerate(above):
        quiet = 0 if is_loud else quiet + 1
        if quiet == _GAP:
            break
        shift = shift if quiet else block + 1
    return shift
