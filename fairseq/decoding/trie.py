"""A lexicon as a trie in arrays, so that a search can expand all its hypotheses at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

ROOT = 0


class Trie:
    """Spellings as a tree of units; the children of a node are consecutive nodes, and the root is node 0.

    Args:
        spellings: (spelling as outputs of the model, number of the word).
    """

    def __init__(self, spellings: Iterable[tuple[Sequence[int], int]]) -> None:
        children: list[dict[int, int]] = [{}]
        words: list[list[int]] = [[]]
        for spelling, word in spellings:
            node = ROOT
            for unit in spelling:
                following = children[node].get(unit)
                if following is None:
                    following = children[node][unit] = len(children)
                    children.append({})
                    words.append([])
                node = following
            words[node].append(word)
        order, self._level_ends = _breadth_first(children)
        number_of = np.empty(len(order), dtype=np.int64)
        number_of[order] = np.arange(len(order))
        self.unit = np.full(len(order), -1, dtype=np.int64)
        self._parent = np.full(len(order), -1, dtype=np.int64)
        for old, below in enumerate(children):
            for unit, child in below.items():
                self.unit[number_of[child]], self._parent[number_of[child]] = unit, number_of[old]
        self.num_children = np.array([len(children[old]) for old in order], dtype=np.int64)
        self.first_child = np.cumsum(self.num_children) - self.num_children + 1
        self.words = [words[old] for old in order]
        self.has_words = np.array([bool(found) for found in self.words])

    def __len__(self) -> int:
        return len(self.unit)

    def smear(self, value: Callable[[int], float]) -> np.ndarray:
        """Return the largest value of a word at or below each node, one per node; 0 for the root.

        Args:
            value: of a word's number.
        """
        best = np.array([max((value(word) for word in found), default=-np.inf) for found in self.words])
        for begin, end in reversed(list(zip(self._level_ends, self._level_ends[1:], strict=False))):
            np.maximum.at(best, self._parent[begin:end], best[begin:end])
        best[ROOT] = 0.0
        return best


def _breadth_first(children: list[dict[int, int]]) -> tuple[list[int], list[int]]:
    """Order nodes level by level; also return where each level ends, beginning with the root's."""
    order, ends, begin = [ROOT], [1], 0
    while begin < len(order):
        begin, level = len(order), order[begin:]
        for old in level:
            order.extend(children[old].values())
        ends.append(len(order))
    return order, ends
