"""`criterion.wer_args`: how fairseq's older configs ask validation to decode with a language model."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig

from fairseq.dataclass.findings import Finding, named, wrong


def read_wer_args(value: Any) -> tuple[str | None, str | None, float, float]:
    """(wer_kenlm_model, wer_lexicon, wer_lm_weight, wer_word_score).

    Args:
        value: a list or tuple of the four, or the text of one.
    Raises:
        ValueError: it is not four such values.
    """
    try:
        model, lexicon, lm_weight, word_score = ast.literal_eval(value) if isinstance(value, str) else value
        if not all(path is None or isinstance(path, str) for path in (model, lexicon)):
            raise TypeError("paths are strings")
        return model, lexicon, float(lm_weight), float(word_score)
    except (ValueError, SyntaxError, TypeError) as error:
        shown = list(value) if isinstance(value, ListConfig) else value
        raise ValueError(
            f"criterion.wer_args is {shown!r}: it must be a list of language model, lexicon, lm_weight and "
            f"word_score, such as ['lm.bin', 'lexicon.txt', 2.0, -1.0], or a tuple of them in quotes ({error})."
        ) from error


def refuse_wer_args(value: Any) -> None:
    """Raise ValueError where `criterion.wer_args` asks for what validation does not do; None asks for nothing."""
    if value is None:
        return
    model, lexicon, *_ = read_wer_args(value)
    if model or lexicon:
        raise ValueError(
            f"criterion.wer_args names {' and '.join(path for path in (model, lexicon) if path)}: validation "
            "decodes greedily, without a language model or a lexicon. Leave wer_args out, and decode the checkpoint "
            "with fairseq-infer --lm and --lexicon."
        )


def wer_args(cfg: DictConfig) -> Iterator[Finding]:
    """Validation decodes greedily."""
    if named(cfg.criterion, "ctc"):
        try:
            refuse_wer_args(cfg.criterion.wer_args)
        except ValueError as error:
            yield wrong(str(error))
