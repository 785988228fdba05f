#!/usr/bin/env python3
"""Random sentences for the demo's corpus, from a word list and templates.

The vocabulary is small and closed, so a fine-tuned model has few words to learn. As a script, it prints further
sentences in upper case, one per line, as text for a language model.

    python sentences.py [--count 3000] [--seed 2]
"""

from __future__ import annotations

import argparse
import re

import numpy as np

SLOTS: dict[str, tuple[str, ...]] = {
    "person": (
        "the teacher",
        "a farmer",
        "my mother",
        "her brother",
        "our neighbor",
        "the old captain",
        "his sister",
        "the young doctor",
        "a tall painter",
        "the baker",
        "my uncle",
        "the singer",
    ),
    "people": ("the children", "two sailors", "our friends", "the students", "many people", "the dancers"),
    "did": (
        "found",
        "carried",
        "painted",
        "washed",
        "opened",
        "sold",
        "bought",
        "lost",
        "watched",
        "moved",
        "repaired",
        "wanted",
    ),
    "went": ("walked", "travelled", "waited", "worked", "slept", "played", "sang", "stopped"),
    "color": ("red", "blue", "green", "yellow", "white", "black", "brown", "golden"),
    "size": ("small", "large", "heavy", "broken", "warm", "cold", "quiet", "simple"),
    "thing": (
        "boat",
        "basket",
        "window",
        "letter",
        "apple",
        "table",
        "lamp",
        "coat",
        "bottle",
        "drum",
        "map",
        "ladder",
        "stone",
        "chair",
        "picture",
        "clock",
        "hat",
        "wheel",
    ),
    "things": ("boats", "horses", "letters", "apples", "birds", "flowers", "books", "candles", "potatoes", "shoes"),
    "place": (
        "river",
        "market",
        "station",
        "forest",
        "village",
        "kitchen",
        "school",
        "harbor",
        "mountain",
        "garden",
        "bridge",
        "church",
    ),
    "by": ("near", "behind", "beside", "under", "across from", "outside"),
    "when": (
        "in the morning",
        "at night",
        "last week",
        "before breakfast",
        "after the storm",
        "on monday",
        "every summer",
        "at seven",
        "yesterday",
        "for an hour",
    ),
    "number": ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twenty"),
    "weather": ("rain", "snow", "wind", "sun", "fog", "thunder"),
    "how": ("slowly", "quickly", "carefully", "together", "again", "alone"),
}
TEMPLATES = (
    "{person} {did} the {color} {thing} {by} the {place}",
    "{when} {person} {did} {number} {things}",
    "{people} {went} {how} {by} the {place}",
    "the {weather} came {when} and {people} {went} {by} the {place}",
    "{person} {did} a {size} {color} {thing} {how}",
    "there were {number} {size} {things} {by} the {place}",
    "{when} the {size} {thing} was {by} the {color} {thing}",
    "{person} and {person} {went} {when}",
)
_SLOT = re.compile(r"\{(\w+)\}")


def vocabulary() -> list[str]:
    """Return all words that can occur in a sentence, sorted."""
    words = {word for choices in SLOTS.values() for phrase in choices for word in phrase.split()}
    for template in TEMPLATES:
        words.update(_SLOT.sub(" ", template).split())
    return sorted(words)


def make_sentence(rng: np.random.Generator) -> list[str]:
    """Return the words of one random sentence, in lower case."""
    template = TEMPLATES[rng.integers(len(TEMPLATES))]

    def choose(slot: re.Match[str]) -> str:
        choices = SLOTS[slot.group(1)]
        return choices[rng.integers(len(choices))]

    return _SLOT.sub(choose, template).split()


def main() -> None:
    parser = argparse.ArgumentParser(description="Print random sentences, one per line.")
    parser.add_argument("--count", type=int, default=3000, help="number of sentences (default: 3000)")
    parser.add_argument("--seed", type=int, default=2, help="seed, different from the corpus's (default: 2)")
    args = parser.parse_args()
    rng = np.random.default_rng([args.seed])
    for _ in range(args.count):
        print(" ".join(make_sentence(rng)).upper())


if __name__ == "__main__":
    main()
