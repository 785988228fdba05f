"""What `fairseq-segment` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from fairseq.corpora.cuts.detector import RATE

RELEASE = 0.15  # speech ends where the probability falls this far below the threshold; silero-vad's own margin
_MAX = (3.0, 600.0)  # seconds; a plan's memory grows with it
_ROOM = 2.0  # seconds; pieces of speech without a pause are up to this long


@dataclass(frozen=True)
class CutSettings:
    """Lengths of segments, and what counts as speech.

    Raises:
        ValueError: the lengths contradict each other, or a value is out of range.
    """

    shortest: float = 2.0  # seconds; --min
    longest: float = 25.0  # seconds; --max
    target: float | None = None  # seconds; None: 0.6 of the longest
    pad: float = 0.1  # seconds kept before and after the speech of a segment
    join: float = 1.0  # seconds; a longer pause is always cut
    threshold: float = 0.4  # probability from which a frame is speech

    def __post_init__(self) -> None:
        if not _MAX[0] <= self.longest <= _MAX[1] or not 0 < self.shortest < self.longest:
            raise ValueError(
                f"--min is {self.shortest:g} s and --max {self.longest:g} s. --max must be from {_MAX[0]:g} to "
                f"{_MAX[1]:g} s, and --min above 0 and below --max."
            )
        if not self.shortest <= self.target_seconds <= self.longest:
            raise ValueError(
                f"--target is {self.target:g} s. It must be from --min, {self.shortest:g} s, to --max, "
                f"{self.longest:g} s."
            )
        if not 0 <= 2 * self.pad < min(self.shortest, self.longest - _ROOM):
            raise ValueError(
                f"--pad is {self.pad:g} s. It must be at least 0, and less than half of --min, {self.shortest:g} s, "
                f"and of --max less {_ROOM:g} s, {self.longest - _ROOM:g} s."
            )
        if self.join < 0:
            raise ValueError(f"--join is {self.join:g} s. It must be at least 0.")
        if not RELEASE < self.threshold < 1:
            raise ValueError(f"--threshold is {self.threshold:g}. It must be above {RELEASE:g} and below 1.")

    @property
    def target_seconds(self) -> float:
        """The length that most segments should have."""
        return max(self.shortest, 0.6 * self.longest) if self.target is None else self.target


def samples(seconds: float) -> int:
    """Convert seconds to samples at 16 kHz."""
    return round(seconds * RATE)
