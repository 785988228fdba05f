"""What guides a beam search: a lexicon, a language model and hot words, read and checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from fairseq.decoding.hotwords import check_spellable
from fairseq.decoding.language_model import LanguageModel, check_letters, check_words, read_language_model
from fairseq.decoding.lexicon import Entry, read_lexicon, spell
from fairseq.decoding.tokens import Tokens

_SHOWN = 5  # lines listed in a message
HOMOPHONES = 6  # words per spelling in flashlight's trie; it silently drops more


class Guidance(NamedTuple):
    """What guides a search, read and checked once, with warnings about it."""

    entries: list[Entry]  # empty: no lexicon
    model: LanguageModel | None
    of_units: bool  # the language model's words are the dictionary's units
    warnings: list[str]
    hotwords: Mapping[str, float]  # boost of each hot word; empty: none


def read_guidance(
    tokens: Tokens, lexicon: str | None, language_model: str | None, hotwords: Mapping[str, float] | None = None
) -> Guidance:
    """Read a lexicon and a language model, and check them and the hot words against the dictionary and each other.

    Without a lexicon, a word model's own words become the lexicon, spelled by their letters. Hot words that the lexicon
    lacks are added to it, spelled by their letters.

    Raises:
        ValueError: none of the three is given, one cannot be read, or they do not match; the message names the lines.
    """
    hotwords = hotwords or {}
    if lexicon is None and language_model is None and not hotwords:
        raise ValueError(
            "a beam search needs a lexicon, a language model, or hot words. Without them, use greedy decoding, which "
            "finds the same text"
        )
    entries = [] if lexicon is None else read_lexicon(lexicon, tokens)
    model, of_units, warnings = None, False, []
    if language_model is not None:
        model = read_language_model(language_model)
        of_units = model.is_of_units(tokens)
        if not of_units and lexicon is not None:
            warnings = check_words(model, entries, lexicon)
        elif not of_units:
            entries = spell(model.vocabulary.items(), tokens)
            warnings = check_letters(model, entries, tokens)
    known = {entry.word for entry in entries}
    check_spellable(hotwords, known, tokens)
    if entries:
        entries += spell([(word, 0) for word in hotwords if word not in known], tokens)
    return Guidance(entries, model, of_units, warnings, hotwords)


def most_likely_homophones(
    entries: Sequence[Entry], likelihood: Callable[[str], float]
) -> tuple[list[Entry], list[Entry]]:
    """Split a lexicon into the entries that the search can hold and those that it cannot.

    Args:
        likelihood: score of a word; ties keep the lexicon's order.
    Returns:
        At most `HOMOPHONES` entries per spelling, in the lexicon's order; and the remaining entries.
    """
    words: dict[tuple[str, ...], dict[str, Entry]] = {}
    for entry in entries:
        words.setdefault(entry.spelling, {}).setdefault(entry.word, entry)
    dropped: list[Entry] = []
    for same in words.values():
        if len(same) > HOMOPHONES:
            ranked = sorted(same.values(), key=lambda entry: -likelihood(entry.word))
            dropped += ranked[HOMOPHONES:]
    gone = set(dropped)
    return [entry for same in words.values() for entry in same.values() if entry not in gone], dropped


def describe_dropped(dropped: Sequence[Entry]) -> str:
    """Return a warning that lists the words that `most_likely_homophones` dropped."""
    lines = "; ".join(f"line {entry.line}: {entry.word} ({' '.join(entry.spelling)})" for entry in dropped[:_SHOWN])
    more = f" (and {len(dropped) - _SHOWN} more)" if len(dropped) > _SHOWN else ""
    return (
        f"dropped lines of the lexicon: {len(dropped)}. The search holds at most {HOMOPHONES} words per spelling, and "
        f"these are the least likely: {lines}{more}. Remove rare homophones from the lexicon, or change their "
        "spelling"
    )
