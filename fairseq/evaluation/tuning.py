"""Tune the weights of the language model and of words on a development set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fairseq.decoding.beam import BeamDecoder, BeamSettings
from fairseq.inference.progress import Progress

logger = logging.getLogger(__name__)

_LM_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
_WORD_SCORES = (-2.0, -1.0, 0.0, 1.0, 2.0)
_FINER = (0.5, 0.25)  # steps of the search around the best point of the grid


def tune(
    decoder: BeamDecoder, log_probs: Sequence[np.ndarray], count_errors: Callable[[list[str]], int]
) -> BeamSettings:
    """Search lm_weight and word_score: a grid, then around its best point.

    Args:
        decoder: decoder with lexicon or language model; it keeps the settings that are returned.
        log_probs: of the development set's utterances, T x V each.
        count_errors: counts the errors in the decoded texts.
    Returns:
        The decoder's settings with the best weights; ties go to the smaller weights.
    """
    base = decoder.settings
    tried: dict[tuple[float, float], int] = {}

    def errors(lm_weight: float, word_score: float) -> int:
        if (lm_weight, word_score) not in tried:
            decoder.configure(replace(base, lm_weight=lm_weight, word_score=word_score))
            tried[lm_weight, word_score] = count_errors([text_of(utterance) for utterance in log_probs])
            progress.advance()
        return tried[lm_weight, word_score]

    def text_of(utterance: np.ndarray) -> str:
        progress.tick()
        return decoder.decode(utterance)[0].text

    has_model, has_lexicon = decoder.guidance.model is not None, bool(decoder.guidance.entries)
    weights = _LM_WEIGHTS if has_model else (base.lm_weight,)
    scores = _WORD_SCORES if has_lexicon else (base.word_score,)
    points = [(weight, score) for weight in weights for score in scores]
    finer = len(_FINER) * (3 if has_model else 1) * (3 if has_lexicon else 1)
    with Progress("tuning", len(points) + finer, "settings") as progress:
        best = min(points, key=lambda point: (errors(*point), abs(point[0]), abs(point[1])))
        for step in _FINER:
            near_weights = [max(0.0, best[0] + shift) for shift in (-step, 0, step)] if has_model else [best[0]]
            near_scores = [best[1] + shift for shift in (-step, 0, step)] if has_lexicon else [best[1]]
            near = [(weight, score) for weight in near_weights for score in near_scores]
            best = min(near, key=lambda point: (errors(*point), abs(point[0]), abs(point[1])))
    settings = replace(base, lm_weight=best[0], word_score=best[1])
    decoder.configure(settings)
    logger.info("tuned: lm_weight %g, word_score %g, %d errors (%d settings tried)", *best, tried[best], len(tried))
    return settings
