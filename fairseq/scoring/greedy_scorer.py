"""Error rates of greedy decoding over a validation set, as sums over batches and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq.logging import metrics
from fairseq.logging.meters import safe_round
from fairseq.scoring.wer import best_path, unit_errors, word_errors

EXAMPLES = 3  # (reference, hypothesis) pairs shown per validation

# rate in the log: (numerator, denominator)
_RATES = {"uer": ("c_errors", "c_total"), "wer": ("w_errors", "w_total"), "blanks": ("blanks", "frames")}


class GreedyScorer:
    """Decodes batches greedily and counts errors of units and words.

    Args:
        words: converts unit indices to the text of words.
        blank: index of the blank.
        num_symbols: V.
        num_special: number of special symbols at the start of the dictionary, which no text has.
    """

    def __init__(self, words: Callable[[Iterable[int]], str], blank: int, num_symbols: int, num_special: int) -> None:
        self.words = words
        self.blank = blank
        self.num_symbols = num_symbols
        self.num_special = num_special
        self.examples: list[tuple[str, str]] = []  # the first (reference, hypothesis) pairs; see `take_examples`
        self.watched: frozenset[int] = frozenset()  # utterances whose hypotheses are kept
        self.seen: dict[int, tuple[str, str]] = {}  # of these: (reference, hypothesis); see `take_seen`

    def blanks(self, path: Tensor, input_lengths: Tensor, counts: Tensor) -> dict[str, Tensor]:
        """Count frames and blank frames, without a device synchronisation; all arguments are on the device.

        Args:
            path: most likely symbol of each frame, B x T.
            input_lengths: frames per row, B.
            counts: 1 for rows that count, else 0, B.
        """
        inside = (torch.arange(path.size(1), device=path.device) < input_lengths.unsqueeze(1)) * counts.unsqueeze(1)
        return {"frames": inside.sum(), "blanks": (inside * (path == self.blank)).sum()}

    def score(
        self,
        path: Tensor,
        target: Tensor,
        input_lengths: Tensor,
        target_lengths: Tensor,
        counts: Tensor,
        corpora: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Count the errors of a batch; this waits for the device.

        Args:
            path: most likely symbol of each frame, B x T.
            target: B x U.
            input_lengths: frames per row, B.
            target_lengths: units per row, B.
            counts: 1 for rows that count, else 0, B.
            corpora: B x K, on the host; see `Batch`. Adds the same counts for each corpus, K, named corpus_c_errors ...
            ids: indices of the utterances, B, on the host; None: no hypotheses are kept.
        Returns:
            0-dim sums on the path's device: c_errors and c_total of units, w_errors and w_total of words; and `used`,
            1-dim: how often each symbol except the special ones was predicted.
        """
        rows, labels = path.cpu().numpy(), target.cpu().numpy()
        frames, units = input_lengths.tolist(), target_lengths.tolist()
        counted = [row for row, count in enumerate(counts.tolist()) if count > 0]
        heard = [best_path(rows[row, : frames[row]], self.blank) for row in counted]
        said = [labels[row, : units[row]] for row in counted]
        references, hypotheses = [self.words(row) for row in said], [self.words(row) for row in heard]
        self.examples.extend(list(zip(references, hypotheses, strict=True))[: EXAMPLES - len(self.examples)])
        if ids is not None and self.watched:
            keys = [int(key) for key in ids[counted].tolist()]
            pairs = zip(references, hypotheses, strict=True)
            self.seen.update((key, pair) for key, pair in zip(keys, pairs, strict=True) if key in self.watched)
        by_unit, by_word = unit_errors(said, heard), word_errors(references, hypotheses)
        numbers = {
            "c_errors": by_unit.errors,
            "c_total": by_unit.total,
            "w_errors": by_word.errors,
            "w_total": by_word.total,
        }
        used = np.bincount(
            np.concatenate([*heard, np.zeros(0, dtype=np.int64)]).astype(np.int64), minlength=self.num_symbols
        )
        return {
            **{name: torch.tensor(float(value), device=path.device) for name, value in numbers.items()},
            **self._by_corpus(corpora, counted, (said, heard, references, hypotheses), path.device),
            "used": torch.from_numpy(used[self.num_special :].astype(np.float32)).to(path.device),
        }

    @staticmethod
    def _by_corpus(
        corpora: Tensor | None,
        counted: list[int],
        pairs: tuple[list[np.ndarray], list[np.ndarray], list[str], list[str]],
        device: torch.device,
    ) -> dict[str, Tensor]:
        """Count errors of the rows `counted` for each corpus.

        Args:
            pairs: units said and recognised, and words said and recognised, of these rows.
        """
        if corpora is None:
            return {}
        table = np.zeros((4, corpora.size(1)), dtype=np.float32)
        own = corpora.numpy()[counted]
        for number in range(corpora.size(1)):
            members = np.flatnonzero(own[:, number])
            said, heard, references, hypotheses = pairs
            by_unit = unit_errors([said[row] for row in members], [heard[row] for row in members])
            by_word = word_errors([references[row] for row in members], [hypotheses[row] for row in members])
            table[:, number] = [*by_unit, *by_word]
        names = ("c_errors", "c_total", "w_errors", "w_total")
        return {f"corpus_{name}": torch.from_numpy(row).to(device) for name, row in zip(names, table, strict=True)}

    def take_examples(self) -> list[tuple[str, str]]:
        """Return the first (reference, hypothesis) pairs since the last call."""
        taken, self.examples = self.examples, []
        return taken

    def take_seen(self) -> dict[int, tuple[str, str]]:
        """Return the (reference, hypothesis) pairs of the watched utterances since the last call, by index."""
        taken, self.seen = self.seen, {}
        return taken


def summed(logging_outputs: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Sum logging outputs by name; values are numbers, 0-dim tensors, or vectors."""
    total: dict[str, np.ndarray] = {}
    for log in logging_outputs:
        for name, value in log.items():
            array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
            total[name] = total[name] + array if name in total else array.astype(np.float64)
    return total


def log_rates(total: Mapping[str, np.ndarray]) -> None:
    """Log rates in per cent from these sums: uer, wer, blanks (of frames), symbols_used (of the dictionary)."""
    for name, (part, whole) in _RATES.items():
        if whole in total:
            metrics.log_scalar(f"_{part}", float(total[part]))
            metrics.log_scalar(f"_{whole}", float(total[whole]))
            metrics.log_derived(name, Rate(f"_{part}", f"_{whole}"))
    if "frames" in total:
        metrics.log_derived("blank_share", Rate("_blanks", "_frames"))  # the name of `blanks` in fairseq.doctor
    if "used" in total and total["used"].size:
        metrics.log_scalar("symbols_used", 100 * float((total["used"] > 0).mean()), round=1)


class Rate:
    """One meter's sum as a share of another's.

    Args:
        factor: 100: in per cent, with 3 digits; 1: with 5 digits.
    """

    def __init__(self, part: str, whole: str, factor: float = 100) -> None:
        self.part, self.whole, self.factor = part, whole, factor

    def __call__(self, meters: Any) -> float:
        whole, digits = meters[self.whole].sum, 3 if self.factor == 100 else 5
        return safe_round(self.factor * meters[self.part].sum / whole, digits) if whole > 0 else float("nan")
