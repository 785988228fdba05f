"""Transcribe audio while it arrives, with a bounded delay: windows with context on both sides, decoded greedily.

samples   |------- left -------|- step -|- right -|
                                decoded   waits for the next window
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from fairseq.decoding.tokens import WORD_START, Tokens
from fairseq.frames import receptive_field
from fairseq.inference.model import SpeechModel


@dataclass
class LiveSettings:
    """Seconds of audio around what is decoded, and when a word is complete.

    A word appears at most `step` + `right` + `pause` after its last letter, and the time to compute a window.

    Raises:
        ValueError: a number is negative, or the step or the pause is not positive.
    """

    step: float = 0.5  # decoded at once
    left: float = 4.0  # context before it
    right: float = 0.5  # context after it
    pause: float = 1.0  # without a letter: the word is complete, though the next one has not begun

    def __post_init__(self) -> None:
        for name, value in (("step", self.step), ("pause", self.pause)):
            if not value > 0:
                raise ValueError(f"the {name} of the stream is {value} s; it must be above 0")
        for name, value in (("left", self.left), ("right", self.right)):
            if not value >= 0:
                raise ValueError(f"the {name} context of the stream is {value} s; it must be at least 0")


class LiveWords:
    """Merge the most likely tokens of consecutive frames into words, given out as soon as they are complete.

    Args:
        pause: frames without a letter after which a word is complete.
    """

    def __init__(self, tokens: Tokens, pause: int) -> None:
        self._tokens, self._last, self._word = tokens, tokens.blank, ""
        self._pause, self._quiet = pause, 0

    def feed(self, path: np.ndarray) -> list[str]:
        """Take the next frames' tokens; returns the words that they complete."""
        done = []
        for token in path.tolist():
            is_letter = token not in self._tokens.silent and token != self._tokens.delimiter
            self._quiet = 0 if is_letter else self._quiet + 1
            if self._quiet == self._pause:
                done.append(self.finish())
            if token == self._last:
                continue
            self._last = token
            if token in self._tokens.silent:
                continue
            symbol = self._tokens.symbols[token]
            if token == self._tokens.delimiter or symbol.startswith(WORD_START) or self._tokens.kind == "none":
                done.append(self.finish())
            if token != self._tokens.delimiter:
                self._word += symbol.removeprefix(WORD_START)
        return [word for word in done if word]

    def finish(self) -> str:
        """Return the word that has begun, which may be empty."""
        word, self._word = self._word, ""
        return word


class LiveTranscriber:
    """Transcribe a waveform that arrives in pieces of any size.

    Args:
        model: a fine-tuned model.
        settings: length of a step, its context, and the pause that ends a word.
    """

    def __init__(self, model: SpeechModel, settings: LiveSettings) -> None:
        self._model = model
        self._field, self._stride = receptive_field(model.conv_layers)
        self._step, self._left, self._right, pause = (
            round(seconds * model.sample_rate / self._stride)
            for seconds in (settings.step, settings.left, settings.right, settings.pause)
        )
        self._step = max(self._step, 1)
        self._words = LiveWords(model.dictionary(), max(pause, 1))
        self._wave = np.zeros(0, dtype=np.float32)
        self._first = 0  # frame of the stream that is the first of `_wave`
        self._done = 0  # frames decoded

    def feed(self, wave: np.ndarray) -> list[str]:
        """Take the next samples, float32 in [-1, 1]; returns the words that are complete."""
        self._wave = np.concatenate([self._wave, wave.astype(np.float32, copy=False)])
        words = []
        while self._available() - self._done >= self._step + self._right:
            words += self._decode(self._done + self._step, self._done + self._step + self._right)
        return words

    def finish(self) -> list[str]:
        """Decode what is left; returns the remaining words."""
        words = self._decode(self._available(), self._available()) if self._available() > self._done else []
        return [word for word in [*words, self._words.finish()] if word]

    def _available(self) -> int:
        return self._first + max(0, (len(self._wave) - self._field) // self._stride + 1)

    def _decode(self, end: int, last: int) -> list[str]:
        """Decode frames up to `end`, seeing frames up to `last`, and forget what no later window needs."""
        samples = (last - self._first - 1) * self._stride + self._field
        log_probs = self._model.log_probs([self._wave[:samples]])[0]
        words = self._words.feed(log_probs[self._done - self._first : end - self._first].argmax(axis=1))
        self._done = end
        gone = max(0, end - self._left - self._first)
        self._first, self._wave = self._first + gone, self._wave[gone * self._stride :]
        return words


def pcm(stream: BinaryIO, num_samples: int) -> Iterator[np.ndarray]:
    """Yield the samples of raw 16-bit little-endian mono audio as they arrive, at most `num_samples` at a time."""
    rest = b""
    # a pipe's read1 returns what is there; other streams have only read
    read = getattr(stream, "read1", stream.read)
    while piece := read(2 * num_samples):
        content = rest + piece
        even = len(content) // 2 * 2
        rest = content[even:]
        yield np.frombuffer(content[:even], dtype="<i2").astype(np.float32) / 32768
