"""Align all utterances of a manifest, or one recording, with texts from a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fairseq.alignment.spelling import Spelling, UnknownCharacters, spell, words_of_units
from fairseq.data.audio.manifest import Manifest
from fairseq.decoding.tokens import Tokens
from fairseq.inference.alignment import Alignment, align_outputs
from fairseq.inference.audio import Audio
from fairseq.inference.model import SpeechModel
from fairseq.inference.progress import Progress
from fairseq.inference.recognise import emissions, ticking
from fairseq.inference.windows import WindowSettings
from fairseq.text_files import MissingFileError, read_lines

_TOGETHER = 256  # utterances whose results wait for each other: batches have similar lengths, results the given order
MAX_TOKENS = 3_200_000  # samples per batch
LABELS = (".wrd", ".ltr")  # beside a manifest, in this order


class Utterance(NamedTuple):
    """Audio with its text."""

    name: str  # for outputs
    audio: Audio
    size: int  # in any unit
    spelling: Spelling | str  # or why there is none


class SpellingSettings(NamedTuple):
    """How texts are spelled; see `spell`."""

    missing: str = "error"
    star: bool = False


def recording(audio: str, text: str, tokens: Tokens, settings: SpellingSettings) -> list[Utterance]:
    """Return one recording, whose text is a whole file.

    Raises:
        ValueError: the text cannot be read or spelled.
    """
    lines = _lines(text, tokens)
    return [Utterance(audio, audio, 0, spell(lines, tokens, settings.missing, settings.star, text))]


def utterances(manifest: Manifest, text: str | None, tokens: Tokens, settings: SpellingSettings) -> list[Utterance]:
    """Return the utterances of a manifest, each with its line of a label file.

    Args:
        text: words or, in a file with the ending .ltr, units; None: the .wrd or .ltr beside the manifest.
    Raises:
        ValueError: the text cannot be read, has another number of lines, or characters that the dictionary lacks.
    """
    path = _beside(manifest.path) if text is None else text
    lines = _lines(path, tokens)
    if len(lines) != len(manifest):
        raise ValueError(
            f"{path} has {len(lines)} lines, but {manifest.path} has {len(manifest)} utterances. Write one line of "
            "text per utterance, in the manifest's order."
        )
    found = []
    for number, line in enumerate(lines):
        place = f"{path}, line {number + 1}"
        try:
            spelling: Spelling | str = spell([line], tokens, settings.missing, settings.star, place)
        except UnknownCharacters:
            raise
        except ValueError as error:
            spelling = str(error)
        found.append(
            Utterance(manifest.utterance(number), manifest.audio(number), int(manifest.sizes[number]), spelling)
        )
    return found


def _beside(manifest: str) -> str:
    stem = manifest.removesuffix(".gz").removesuffix(".tsv")
    found = next((stem + ending for ending in LABELS if Path(stem + ending).is_file()), None)
    if found is None:
        raise MissingFileError(
            f"there is no text for {manifest}: neither {stem}.wrd nor {stem}.ltr exists. Give a file with one line per "
            "utterance as the second argument."
        )
    return found


def _lines(path: str, tokens: Tokens) -> list[str]:
    lines = read_lines(path, "the text")
    return [words_of_units(line, tokens) for line in lines] if path.endswith(".ltr") else lines


def align_all(
    model: SpeechModel,
    items: Sequence[Utterance],
    windows: WindowSettings,
    progress: Progress,
) -> Iterator[Alignment]:
    """Yield the alignment of each utterance, in order; an error is stored in the result."""
    for begin in range(0, len(items), _TOGETHER):
        part = items[begin : begin + _TOGETHER]
        results: dict[int, Alignment] = {}
        sizes = [item.size for item in part]
        for emission in emissions(model, [item.audio for item in part], sizes, windows, MAX_TOKENS):
            item = part[emission.index]
            problem = emission.error if isinstance(item.spelling, Spelling) else item.spelling
            if problem is None and isinstance(item.spelling, Spelling):
                try:
                    pieces = ticking(emission.pieces, progress)
                    results[emission.index] = align_outputs(
                        model, item.name, item.spelling, emission.num_samples, pieces
                    )
                    continue
                except (ValueError, OSError) as error:
                    problem = str(error)
            results[emission.index] = Alignment(item.name, error=problem)
        yield from (results[number] for number in range(len(part)))
