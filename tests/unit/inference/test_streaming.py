"""Decoding window by window gives what decoding at once gives."""

from __future__ import annotations

import numpy as np
import pytest

from fairseq.decoding import GreedyDecoder, Hypothesis, Tokens
from fairseq.inference.streaming import GreedyStream, SegmentStream, pause, stream

TOKENS = Tokens.from_symbols(["<s>", "<pad>", "</s>", "<unk>", "|", "A", "B", "C"])


def emit(path: str) -> np.ndarray:
    probabilities = np.full((len(path), 8), 0.1 / 7)
    for frame, symbol in enumerate(path):
        probabilities[frame, 0 if symbol == "-" else TOKENS.symbols.index(symbol)] = 0.9
    return np.log(probabilities).astype(np.float32)


def test_greedy_in_any_pieces_is_greedy_at_once() -> None:
    log_probs = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32)
    expected = GreedyDecoder(TOKENS).decode(log_probs)
    for pieces in ([200], [1] * 200, [3, 0, 100, 97]):
        reading = stream(GreedyDecoder(TOKENS))
        assert isinstance(reading, GreedyStream)
        for part in np.split(log_probs, np.cumsum(pieces)[:-1]):
            reading.feed(part)
        assert reading.finish() == expected


def test_segments_end_between_words_and_their_frames_are_counted_on() -> None:
    spoken = "-AB|--CA|-" * 6
    reading = SegmentStream(GreedyDecoder(TOKENS), segment_frames=17)
    for part in np.split(emit(spoken), 7 if len(spoken) % 7 == 0 else 6):
        reading.feed(part)
    (found,) = reading.finish()
    (expected,) = GreedyDecoder(TOKENS).decode(emit(spoken))
    assert found.text == expected.text
    assert [(w.first, w.last) for w in found.words] == [(w.first, w.last) for w in expected.words]
    assert found.score == pytest.approx(expected.score, rel=1e-5)


def test_one_segment_keeps_all_hypotheses() -> None:
    class Two:
        tokens = TOKENS

        def decode(self, log_probs: np.ndarray) -> list[Hypothesis]:
            return [Hypothesis([], [], 1.0), Hypothesis([], [], float(-len(log_probs)))]

    reading = stream(Two())
    reading.feed(emit("AB"))
    reading.feed(emit("C"))
    assert [hypothesis.score for hypothesis in reading.finish()] == [1.0, -3.0]
    assert [hypothesis.score for hypothesis in stream(Two()).finish()] == [1.0, 0.0]


def test_where_to_cut() -> None:
    # a pause with a word's end, though another is longer
    assert pause(emit("A" * 15 + "A--|-AA-------B"), TOKENS) == 18
    assert pause(emit("A" * 9 + "AAA---ABB"), TOKENS) == 14  # none: the middle of the longest run of blanks
    assert pause(emit("ABABABAB"), TOKENS) == 8  # nowhere: at the end
