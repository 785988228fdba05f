"""From a CTC model's log-probabilities to words: greedy, or by beam with a lexicon, a language model, or both.

    log_probs T x V  ->  path (one token a frame)  ->  units (runs without blanks)  ->  words, each with frames and
    confidence

The letter V is the size of the dictionary here. Everything in this package works on arrays of the host and knows
nothing of models.
"""

from fairseq.decoding.greedy import GreedyDecoder
from fairseq.decoding.hypothesis import Hypothesis, Word
from fairseq.decoding.tokens import Tokens

__all__ = ["GreedyDecoder", "Hypothesis", "Tokens", "Word"]
