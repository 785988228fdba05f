"""Write what belongs to the shards: manifest, labels, sidecar, what was left out, checksums."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from fairseq.corpora.pack.record import Record, belongs, to_line
from fairseq.corpora.pack.shards import UNFINISHED, put_in_place, unfinished
from fairseq.corpora.pack.source import Json
from fairseq.corpora.pack.survey import LabelRules
from fairseq.data.dictionary import Dictionary
from fairseq.data.transcripts import dictionary_of, letters

SUMS = "SHA256SUMS"
LETTERS, WORDS = "dict.ltr.txt", "dict.wrd.txt"
_BLOCK = 1 << 20


def write_all(record: Record, rules: LabelRules | None, dictionary: Path | None) -> dict[str, Json]:
    """Write all files next to the shards of a record, and the record's last line.

    Args:
        record: all its shards are finished.
        rules: how to make labels; None: no labels.
        dictionary: a file to copy as the dictionary of letters; None: make dictionaries from these labels, if there are
            any.
    Returns:
        The numbers to report.
    """
    dest, name = record.dest, record.name
    written = [
        _write(dest / f"{name}.tsv", _manifest(record)),
        _write(dest / f"{name}.jsonl", (to_line(facts, "replace") for facts in _packed(record))),
        _write(dest / f"{name}.left_out.tsv", _left_out(record)),
    ]
    removed: Counter[str] = Counter()
    if rules is not None:
        cleaned = (rules.words(_text(facts), removed) for facts in _packed(record))
        words = _write(dest / f"{name}.wrd", (f"{line}\n".encode() for line in cleaned))
        written.append(words)
        written.append(_write(dest / f"{name}.ltr", (f"{letters(line)}\n".encode() for line in _lines(words))))
        if dictionary is None:
            written.append(_save(dest / LETTERS, dictionary_of(map(letters, _lines(words)))))
            written.append(_save(dest / WORDS, dictionary_of(_lines(words))))
        elif dictionary != dest / LETTERS:
            written.append(_write(dest / LETTERS, [dictionary.read_bytes()]))
    _write_sums(record, written)
    result = _numbers(record)
    result["removed"] = dict(removed.most_common(20))
    record.finish(result)
    return result


def _lines(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def _text(facts: dict[str, Json]) -> str | None:
    text = facts.get("text")
    return None if text is None else str(text)


def _packed(record: Record) -> Iterator[dict[str, Json]]:
    for line in record.lines():
        facts = line.get("facts")
        if isinstance(facts, dict):
            yield facts


def _manifest(record: Record) -> Iterator[bytes]:
    yield os.fsencode(os.path.realpath(record.dest)) + b"\n"
    for line in record.lines():
        facts = line.get("facts")
        if isinstance(facts, dict):
            yield f"{line['shard']}:{line['offset']}:{line['length']}\t{facts['frames']}\n".encode()


def _left_out(record: Record) -> Iterator[bytes]:
    for line in record.lines():
        if "left_out" in line:
            origin = str(line["origin"]).translate({9: "\\t", 10: "\\n", 13: "\\r"})
            yield f"{origin}\t{line['left_out']}\n".encode(errors="backslashreplace")


def _write(path: Path, parts: Iterable[bytes]) -> Path:
    """Write a file under an unfinished name, flush it to disk and put it in place."""

    def write(file: IO[bytes]) -> None:
        file.writelines(parts)

    return _written(path, write)


def _written(path: Path, write: Callable[[IO[bytes]], None]) -> Path:
    with open(unfinished(path), "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    put_in_place(path)
    return path


def _save(path: Path, dictionary: Dictionary) -> Path:
    dictionary.save(str(unfinished(path)))
    put_in_place(path)
    return path


def _write_sums(record: Record, written: list[Path]) -> None:
    """Write SHA256SUMS: this pack's files, and the lines of other packs in the folder that are there already."""
    own = {shard.file: shard.sha256 for shard in record.shards} | {file.name: _sha256(file) for file in written}
    folder = os.open(record.dest, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)  # packs of other names may end now, too
        sums: dict[str, str] = {}
        path = record.dest / SUMS
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                checksum, _, file = line.partition("  ")
                if not belongs(file, record.name):
                    sums[file] = checksum
        sums.update(own)
        _write(path, (f"{sums[file]}  {file}\n".encode() for file in sorted(sums)))
    finally:
        os.close(folder)


def _sha256(path: Path) -> str:
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
    return checksum.hexdigest()


def _numbers(record: Record) -> dict[str, Json]:
    seconds, count, clipped, left_out, dropped = 0.0, 0, 0, 0, 0
    rates: Counter[int] = Counter()
    first: str | None = None
    for line in record.lines():
        facts = line.get("facts")
        if isinstance(facts, dict):
            frames, rate = facts["frames"], facts["sample_rate"]
            assert isinstance(frames, int) and isinstance(rate, int)
            seconds += frames / rate
            rates[rate] += 1
            clipped += "clipped" in facts
            count += 1
        elif line.get("dropped"):
            dropped += 1
        else:
            left_out += 1
            first = first or f"{line['origin']}: {line['left_out']}"
    return {
        "utterances": count,
        "hours": round(seconds / 3600, 4),
        "shards": len(record.shards),
        "bytes": sum(shard.size for shard in record.shards),
        "rates": {str(rate): number for rate, number in sorted(rates.items())},
        "clipped": clipped,
        "left_out": left_out,
        "dropped": dropped,
        "first_left_out": first,
    }


def remove_unfinished(dest: Path, name: str) -> None:
    """Remove files that a killed command had not finished; the record's own file of utterances stays."""
    for file in dest.glob(f"{name}*{UNFINISHED}"):
        if belongs(file.name, name) and not file.name.endswith(f".utterances{UNFINISHED}"):
            file.unlink()
