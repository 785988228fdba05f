"""Explain a high error rate or empty hypotheses: find the known causes that fit the measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from fairseq.evaluation.facts import Facts
from fairseq.scoring.wer import word_errors

_BAD_WER = 50.0  # per cent; no explanation below this


class Explanation(NamedTuple):
    """A cause that fits the measurements."""

    cause: str
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.cause}: {self.evidence}. {self.advice}"


def explain(facts: Facts) -> list[Explanation]:
    """Return the causes that fit, root causes first.

    The list is empty if the error rate needs no explanation or no known cause fits.
    """
    if facts.references and facts.wer < _BAD_WER:
        return []
    if facts.references and not any(text.split() for text in facts.references):
        return [
            empty_references(facts)
        ]  # without references the other causes, which need error rates, cannot be tested
    found = [cause(facts) for cause in CAUSES]
    return [explanation for explanation in found if explanation is not None]


# -- causes in the data ------------------------------------------------------------------------------------------------


def empty_references(facts: Facts) -> Explanation:
    return Explanation(
        "empty references",
        f"all {len(facts.references)} references are empty, so errors cannot be counted",
        "Check the label file: its lines must be the transcripts, in the manifest's order",
    )


def unreadable_audio(facts: Facts) -> Explanation | None:
    if not facts.errors:
        return None
    return Explanation(
        "unreadable audio",
        f"{len(facts.errors)} of {len(facts.texts)} utterances could not be read, for example: {facts.errors[0]}",
        "Repair or remove these files; each counts as an empty hypothesis",
    )


def silent_audio(facts: Facts) -> Explanation | None:
    if facts.audio.files == 0 or facts.audio.quiet < 0.5 * facts.audio.files:
        return None
    return Explanation(
        "silent audio",
        f"{facts.audio.quiet} of {facts.audio.files} checked files have no sample louder than 0.001 of full scale",
        "Check how the files were converted",
    )


def sample_rate(facts: Facts) -> Explanation | None:
    others = {rate: count for rate, count in facts.audio.own_rates.items() if rate < facts.sample_rate}
    narrow = facts.audio.above_half < 1e-5 and facts.audio.quiet < facts.audio.files
    if not others and not narrow:
        return None
    rates = (
        ", ".join(f"{count} files at {rate} Hz" for rate, count in sorted(others.items()))
        or f"files at {facts.sample_rate} Hz"
    )
    share = f"{100 * facts.audio.above_half:.4f} % of their energy is above {facts.sample_rate // 4} Hz"
    return Explanation(
        "sample rate",
        f"{rates} for a model of {facts.sample_rate} Hz; {share}",
        "Audio with a lower sample rate lacks the high frequencies that the model expects: fine-tune on such audio, "
        "and check that the headers have the true sample rate",
    )


def dictionary_case(facts: Facts) -> Explanation | None:
    unknown, swapped, total = _unknown_units(facts)
    if unknown == 0 or swapped < 0.5 * unknown:
        return None
    return Explanation(
        "dictionary case",
        f"{unknown} of {total} units of the references are not in the dictionary, and {swapped} of them differ only in "
        "case",
        "Convert the labels to the dictionary's case (tr a-z A-Z), and use the dictionary from fine-tuning",
    )


def other_dictionary(facts: Facts) -> Explanation | None:
    unknown, swapped, total = _unknown_units(facts)
    if total == 0 or unknown < 0.1 * total or swapped >= 0.5 * unknown:
        return None
    return Explanation(
        "another dictionary",
        f"{unknown} of {total} units of the references are not in the checkpoint's dictionary",
        "The labels belong to another dictionary or kind of unit: check --labels, and make them again with the "
        "dictionary from fine-tuning",
    )


def _unknown_units(facts: Facts) -> tuple[int, int, int]:
    """Count (units missing from the dictionary, those of them that differ only in case, all units)."""
    known = set(facts.tokens.symbols)
    units = [unit for line in facts.unit_references for unit in line.split()]
    unknown = [unit for unit in units if unit not in known]
    return len(unknown), sum(unit.swapcase() in known for unit in unknown), len(units)


def text_case(facts: Facts) -> Explanation | None:
    plain = word_errors([text.lower() for text in facts.references], [text.lower() for text in facts.texts]).rate()
    if not facts.references or plain > 0.7 * facts.wer:
        return None
    return Explanation(
        "case of the text",
        f"WER {facts.wer:.1f} % falls to {plain:.1f} % if case is ignored",
        "Write references, lexicon and language model in the dictionary's case",
    )


def word_ends(facts: Facts) -> Explanation | None:
    if not facts.references or facts.cer > 0.6 * facts.wer or facts.wer < 80:
        return None
    said = sum(len(text.split()) for text in facts.texts)
    meant = sum(len(text.split()) for text in facts.references)
    if 0.5 * meant < said < 2 * meant:
        return None
    return Explanation(
        "word ends",
        f"CER is {facts.cer:.1f} % but WER {facts.wer:.1f} %: {said} words recognised, {meant} in the references",
        "Fine-tuning used labels without '|' between words, or the wrong kind of unit: make the labels with "
        "fairseq-prepare-labels",
    )


# -- causes in the model and its settings ------------------------------------------------------------------------------


def normalize_mismatch(facts: Facts) -> Explanation | None:
    differs = facts.pretraining_normalize is not None and facts.pretraining_normalize != facts.normalize
    flipped = facts.flipped_wer is not None and facts.flipped_wer[1] < 0.8 * facts.flipped_wer[0]
    if not differs and not flipped:
        return None
    evidence = []
    if differs:
        evidence.append(f"task.normalize is {facts.normalize}, but was {facts.pretraining_normalize} in pre-training")
    if flipped and facts.flipped_wer is not None:
        evidence.append(
            "WER of a sample of utterances falls from {:.1f} to {:.1f} % with the other setting".format(
                *facts.flipped_wer
            )
        )
    return Explanation(
        "normalize",
        "; ".join(evidence),
        "Fine-tune with the task.normalize of pre-training: false for base, true for large",
    )


def untrained_head(facts: Facts) -> Explanation | None:
    if bool(facts.head_bias.any()):
        return None
    return Explanation(
        "untrained head",
        "all biases of the output layer are exactly 0, their initial value",
        "The output layer was never trained: load the checkpoint that fine-tuning wrote",
    )


def too_few_updates(facts: Facts) -> Explanation | None:
    updates = facts.num_updates
    if not updates:
        return None
    unfrozen = updates - facts.freeze_updates
    if unfrozen > 0 and (facts.max_update <= 0 or updates >= 0.25 * facts.max_update):
        return None
    evidence = f"{updates} of {facts.max_update or 'an unknown number of'} updates"
    if facts.freeze_updates > 0:
        evidence += f"; the first {facts.freeze_updates} (model.freeze_finetune_updates) train only the output layer"
    return Explanation(
        "too few updates",
        f"{evidence}; {100 * facts.blank_share:.1f} % of the frames are blank",
        "Continue training: models predict only blanks at first, and words after a few thousand updates",
    )


def letters_at_masks(facts: Facts) -> Explanation | None:
    if facts.masked_letters is None:
        return None
    plain, masked, meant = facts.masked_letters
    if masked < 1.5 * plain or masked < 0.3 * meant:
        return None
    return Explanation(
        "letters at masks",
        f"in a sample of utterances with {meant} letters, {plain} are recognised, but {masked} if frames are masked as "
        "in fine-tuning",
        "The model learned to predict letters at the mask embedding, as small pre-trained models can: fine-tune with "
        "model.mask_prob=0.0; channel masks can stay",
    )


def blank_collapse(facts: Facts) -> Explanation | None:
    if facts.blank_share < 0.97:
        return None
    return Explanation(
        "blank collapse",
        f"the blank has the highest probability in {100 * facts.blank_share:.2f} % of {facts.outputs.frames} frames; "
        f"the mean of the highest probability is {facts.outputs.confidence / max(1, facts.outputs.frames):.2f}",
        "The model learned to predict only blanks: lower optimization.lr, train for more updates, check that the "
        "labels match the audio (one shifted line is enough), and check the pre-trained checkpoint",
    )


def symbol_collapse(facts: Facts) -> Explanation | None:
    used, known = facts.outputs.used(facts.tokens.silent), len(facts.tokens.symbols) - len(facts.tokens.silent)
    if facts.blank_share >= 0.97 or used > max(3, 0.2 * known):
        return None
    return Explanation(
        "few symbols",
        f"only {used} of the dictionary's {known} symbols are ever predicted",
        "Training has barely started or has collapsed: train for more updates, or lower optimization.lr",
    )


def language_model_weight(facts: Facts) -> Explanation | None:
    if facts.greedy_wer is None or facts.greedy_wer > 0.8 * facts.wer:
        return None
    return Explanation(
        "weights of the beam",
        f"WER is {facts.wer:.1f} % with beam search and {facts.greedy_wer:.1f} % with greedy decoding",
        "Lower --lm-weight, raise --word-score, or let --tune find both on a development set",
    )


def lexicon_coverage(facts: Facts) -> Explanation | None:
    words = sum(len(text.split()) for text in facts.references)
    if not facts.lexicon_misses or len(facts.lexicon_misses) < 0.2 * words:
        return None
    return Explanation(
        "lexicon",
        f"{len(facts.lexicon_misses)} of {words} words in the references are not in the lexicon, for example "
        f"{facts.lexicon_misses[0]}",
        "Add them: a word that is not in the lexicon cannot be recognised",
    )


CAUSES: Sequence[Callable[[Facts], Explanation | None]] = (
    unreadable_audio,
    silent_audio,
    dictionary_case,
    other_dictionary,
    text_case,
    normalize_mismatch,
    sample_rate,
    untrained_head,
    too_few_updates,
    letters_at_masks,
    blank_collapse,
    symbol_collapse,
    language_model_weight,
    lexicon_coverage,
    word_ends,
)
