"""Mutated labels, dictionaries, lexicons and ARPA files: the right content, or an error that names the file.

    python -m tests.drills.texts [--kind labels|dictionaries|lexicons|arpa] [--tries N] [--seed S]

The expected content is read again here in the simplest way: bytes, split at ASCII whitespace.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import os
import random
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fairseq.data.dictionary import Dictionary
from fairseq.data.labels import read_labels
from fairseq.decoding.beam import BeamSettings, read_beam
from fairseq.decoding.language_model import read_language_model
from fairseq.decoding.lexicon import read_lexicon
from fairseq.decoding.tokens import Tokens
from tests.drills.forked import Tally, attempt

LETTERS = ["|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'", "\u00c4", "\u10d2"]
WORDS = ["HE", "SHE", "YES", "NO", "\u00c4H", "IT'S", "BY", "BUY", "BYE", "HELLO", "WORLD", "\u10d2\u10d2"]
BOM = b"\xef\xbb\xbf"


def good(kind: str, rng: random.Random) -> bytes:
    """Return a valid file with a few lines."""
    if kind == "dictionaries":
        return "".join(f"{letter} {rng.randrange(1, 10**6)}\n" for letter in LETTERS).encode()
    if kind == "labels":
        return "".join(
            " ".join("|".join(rng.choices(WORDS, k=rng.randrange(1, 8)))) + " |\n" for _ in range(rng.randrange(1, 30))
        ).encode()
    if kind == "lexicons":
        return "".join(
            f"{word}\t{' '.join(word)} |\n" for word in rng.sample(WORDS, rng.randrange(1, len(WORDS)))
        ).encode()
    unigrams = ["<unk>", "<s>", "</s>", *WORDS]
    bigrams = [f"{-rng.random():.4f}\t{first} {second}" for first, second in zip(WORDS, WORDS[1:], strict=False)]
    head = f"\\data\\\nngram 1={len(unigrams)}\nngram 2={len(bigrams)}\n\n\\1-grams:\n"
    body = "".join(f"{-rng.random() * 5:.4f}\t{word}\t-0.3\n" for word in unigrams)
    return (head + body + "\n\\2-grams:\n" + "\n".join(bigrams) + "\n\n\\end\\\n").encode()


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Apply one to three changes of any kind."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        content = rng.choice(MUTATIONS)(content, rng)
    return content


def _place(content: bytes, rng: random.Random) -> int:
    return rng.randrange(len(content) + 1)


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 5) if content else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _insert(content: bytes, rng: random.Random) -> bytes:
    place = _place(content, rng)
    return content[:place] + rng.choice(INSERTED) + content[place:]


def _delete(content: bytes, rng: random.Random) -> bytes:
    begin, end = sorted((_place(content, rng), _place(content, rng)))
    return content[:begin] + content[min(end, begin + rng.choice([1, 3, 10**6])) :]


def _lines(content: bytes, rng: random.Random) -> bytes:
    """Duplicate, remove or reorder lines."""
    lines = content.splitlines(keepends=True)
    if not lines:
        return content
    number = rng.randrange(len(lines))
    change = rng.randrange(3)
    if change == 2:
        rng.shuffle(lines)
        return b"".join(lines)
    return b"".join(lines[:number] + [lines[number]] * (0 if change else 2) + lines[number + 1 :])


def _encode(content: bytes, rng: random.Random) -> bytes:
    return content.decode(errors="replace").encode(
        rng.choice(["utf-16", "utf-16-le", "latin-1", "utf-32", "utf-8-sig"]), errors="replace"
    )


INSERTED = [
    BOM,
    b"\r",
    b"\t",
    b" ",
    b"  ",
    b"\n",
    b"\n\n",
    b"\0",
    b"\x0b",
    b"\x0c",
    b"\xff",
    b"\xc3",
    b"\xc2\xa0",
    b"\xe3\x80\x80",
    b"\xe2\x80\xa8",
    b"\xe2\x80\x8b",
    b"\xc2\x85",
    b"-",
    b"nan",
    b"-inf",
    b"1e999",
    b"9" * 5000,
    b"#fairseq:overwrite",
    b"<s>",
    b"<unk>",
    b"\\",
    b"\\end\\",
    b"\\2-grams:",
    b"ngram 1=99999999999",
    b"ngram 7=3\n",
    b"A" * 100_000,
    b" A" * 50_000,
    "\u0661".encode(),
    "\u00b2".encode(),
]
MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    _flip,
    _flip,
    _insert,
    _insert,
    _insert,
    _delete,
    _lines,
    _encode,
    lambda content, rng: content[: _place(content, rng)],
    lambda content, rng: content.replace(b"\n", rng.choice([b"\r\n", b"\r", b" \n", b"\n\n"])),
    lambda content, rng: content.replace(b" ", rng.choice([b"  ", b"\t", b"\xc2\xa0", b""])),
    lambda content, rng: rng.randbytes(rng.randrange(200)),
    lambda content, rng: rng.choice([gzip.compress, bz2.compress])(content)[: rng.choice([20, 10**6, 10**6])],
]


def lines_of(content: bytes) -> list[bytes]:
    """Return lines without BOM and line ends; compressed content is decompressed."""
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    elif content.startswith(b"BZh"):
        content = bz2.decompress(content)
    lines = content.removeprefix(BOM).split(b"\n")
    return [line.removesuffix(b"\r") for line in (lines if lines[-1] else lines[:-1])]


def columns(line: bytes) -> list[str]:
    return [part.decode() for part in re.split(rb"[ \t\r\0]+", line) if part]


def check_dictionary(path: Path, content: bytes) -> str:
    symbols = Dictionary.load(path).symbols[4:]
    lines = [line for line in lines_of(content) if line.strip(b" \t\r")]
    wanted = [re.sub(rb"[ \t]+#fairseq:overwrite[ \t\r]*$", b"", line) for line in lines]
    expected = [re.sub(rb"[ \t]+[+-]?[0-9]+[ \t\r]*$", b"", line).strip(b" \t\r").decode() or " " for line in wanted]
    assert symbols == expected, f"{symbols} instead of {expected}"
    return "read"


def check_labels(path: Path, content: bytes) -> str:
    dictionary = Dictionary()
    for letter in LETTERS:
        dictionary.add_symbol(letter)
    labels = read_labels(path, dictionary)
    lines = content.removeprefix(BOM).split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    expected = [
        [dictionary.indices[unit.decode()] for unit in re.split(rb"[\x00-\x20]+", line) if unit] for line in lines
    ]
    found = [labels[line].tolist() for line in range(len(labels))]
    assert found == expected, f"{found} instead of {expected}"
    return "read"


TOKENS = Tokens.from_symbols(["<s>", "<pad>", "</s>", "<unk>", *LETTERS])


def check_lexicon(path: Path, content: bytes) -> str:
    found = [(entry.word, entry.spelling, entry.line) for entry in read_lexicon(path, TOKENS)]
    expected = []
    for number, line in enumerate(lines_of(content), start=1):
        if parts := columns(line):
            units = [unit for unit in parts[1:] or parts[0] if unit != "|"]
            expected.append((parts[0], (*units, "|"), number))
    assert found == expected, f"{found} instead of {expected}"
    return "read"


def check_arpa(path: Path, content: bytes) -> str:
    """Check the words, then KenLM and the search with them."""
    vocabulary = read_language_model(path).vocabulary
    try:
        lines = lines_of(content)
    except (OSError, EOFError):  # damaged after the unigrams: KenLM, which reads everything, must reject it
        read_beam(TOKENS, None, path, BeamSettings(beam=5))
        raise AssertionError("a damaged compressed file was read") from None
    expected: dict[str, int] = {}
    inside = False
    for number, line in enumerate(lines, start=1):
        bare = line.strip(b" \t\r")
        if inside and bare.startswith(b"\\"):
            break
        if inside and bare:
            expected[columns(line)[1]] = number
        inside = inside or bare == b"\\1-grams:"
    expected = {word: number for word, number in expected.items() if word not in ("<s>", "</s>", "<unk>", "<UNK>")}
    assert vocabulary == expected, f"{vocabulary} instead of {expected}"
    decoder = read_beam(TOKENS, None, path, BeamSettings(beam=5))
    emissions = np.log(np.full((12, len(TOKENS.symbols)), 1 / len(TOKENS.symbols), dtype=np.float32))
    words = decoder.decode(emissions)[0].text.split()
    assert set(words) <= vocabulary.keys(), words
    return "read"


CHECKS = {"labels": check_labels, "dictionaries": check_dictionary, "lexicons": check_lexicon, "arpa": check_arpa}


def drill(kind: str, tries: int, seed: int) -> bool:
    """Run all tries; returns whether there were no faults."""
    tally = Tally(f"mutated {kind}")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(tries):
            rng = random.Random(f"{kind} {seed} {number}")
            content = mutate(good(kind, rng), rng)
            path = Path(folder) / f"{kind}-{number}.txt"
            path.write_bytes(content)

            def action(path: Path = path, content: bytes = content) -> str:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # KenLM prints its progress
                return CHECKS[kind](path, content)

            outcome = attempt(action, path.name)
            tally.add(f"try {number}, {content[:80]!r}", outcome)
            path.unlink()
    return tally.report()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=list(CHECKS), help="default: all")
    parser.add_argument("--tries", type=int, default=500, help="of each kind (default: 500)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    kinds = [arguments.kind] if arguments.kind else list(CHECKS)
    results = [drill(kind, arguments.tries, arguments.seed) for kind in kinds]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
