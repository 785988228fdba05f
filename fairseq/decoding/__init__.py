"""Decode a CTC model's log-probabilities to words, greedily or by beam search with a lexicon and language model.

    log_probs T x V  ->  path (one token per frame)  ->  units (runs, without blanks)  ->  words (frames and confidence)

V is the size of the dictionary here. This package works on host arrays and does not depend on models.
"""

from fairseq.decoding.greedy import GreedyDecoder
from fairseq.decoding.hypothesis import Hypothesis, Word
from fairseq.decoding.tokens import Tokens

__all__ = ["GreedyDecoder", "Hypothesis", "Tokens", "Word"]
