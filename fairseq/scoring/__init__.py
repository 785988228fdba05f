"""Compare hypotheses with references."""

from fairseq.scoring.wer import Errors, character_errors, unit_errors, word_errors

__all__ = ["Errors", "character_errors", "unit_errors", "word_errors"]
