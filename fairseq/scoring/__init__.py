"""Comparing what was recognised with what was said."""

from fairseq.scoring.wer import Errors, character_errors, unit_errors, word_errors

__all__ = ["Errors", "character_errors", "unit_errors", "word_errors"]
