"""fairseq's name for cutting a line into symbols."""

from fairseq.data.dictionary import tokenize_line

__all__ = ["tokenize_line"]
