"""Damaged manifests: read correctly, or rejected by name; no other exception, hang, or use of > 1 GB.

python -m tests.drills.manifests --tries 2000 [--seed 0]
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from fairseq.data.audio import manifest_index, quarantine
from fairseq.data.audio.manifest import Manifest
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.options import BatchLimits
from fairseq.preflight import corpus
from tests.drills.forked import Tally, attempt

RATE = 16000
FILES = 30


def write_corpus(folder: Path) -> bytes:
    """Write files whose samples identify them, and their manifest."""
    (folder / "audio" / "a b").mkdir(parents=True)
    lines = [os.fsencode(folder / "audio")]
    for number in range(FILES):
        name = (b"a b/%02d.wav", b"caf\xe9%02d.wav", "ü%02d.wav".encode())[number % 3] % number
        samples = 2000 + 100 * number
        soundfile.write(lines[0] + b"/" + name, np.full(samples, number / 100), RATE, format="WAV", subtype="FLOAT")
        lines.append(name + b"\t%d" % samples)
    os.mkfifo(folder / "audio/pipe")
    return b"\n".join(lines) + b"\n"


def segments(text: bytes) -> bytes:
    """The same files with a third column."""
    root, *rows = text.rstrip(b"\n").split(b"\n")
    cells = (row.split(b"\t") for row in rows)
    return b"\n".join([root, *(b"%s\t%d\t150" % (name, int(size) - 200) for name, size in cells), b""])


# -- damage ------------------------------------------------------------------------------------------------------------

NUMBERS = (
    b"",
    b"0",
    b"-1",
    b"1e4",
    b"2000.0",
    b" 2000",
    b"2000 ",
    b"9" * 17,
    b"9" * 18,
    b"9" * 19,
    b"9" * 5000,
    "\uff12\uff10".encode(),
    b"nan",
    b"0x7d0",
    b"1",
    b"1000",
    b"4000",
    b"123456789",
)
NAMES = (
    b"",
    b".",
    b"..",
    b"/dev/zero",
    b"/dev/null",
    b"pipe",
    b"a b",
    b"\xff\xfe",
    b"x" * 300,
    b"x" * 70000,
    b"a\0b.wav",
    b"a.zip:1:2",
    b"train.tsv:0:50",
    b"00.wav:" + b"9" * 30 + b":1",
    b"a b/00.wav\t5",
    b'"a b/00.wav"',
    b"A B/00.WAV",
    b"~",
    b"-",
    b"a b/00.wav ",
)
ODD = (b"\0", b"\t", b"\n", b"\r", b"\r\n", b"\xef\xbb\xbf", b"\n\n\n", b" ", b"\x1a", b"\x0b", b"\xc2\x85")


def flip_bits(text: bytes, draw: random.Random) -> bytes:
    data = bytearray(text)
    for _ in range(draw.choice((1, 1, 5, 50))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def cut(text: bytes, draw: random.Random) -> bytes:
    place, length = draw.randrange(len(text)), draw.choice((1, 3, 40, len(text)))
    return draw.choice((text[:place], text[place:], text[:place] + text[place + length :]))


def insert(text: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(text) + 1)
    odd = draw.choice((*ODD, draw.randbytes(20)))
    return text[:place] + odd + text[place:]


def other_encoding(text: bytes, draw: random.Random) -> bytes:
    decoded = text.decode("latin-1")
    kind = draw.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32", "utf-7", "utf-8"))
    return decoded.encode(kind)


def line_ends(text: bytes, draw: random.Random) -> bytes:
    return text.replace(b"\n", draw.choice((b"\r\n", b"\r", b"\n\n", b"\n\r", b"\r\r\n", b"\x0b", b" \n", b"\t\n")))


def lines(text: bytes, draw: random.Random) -> bytes:
    """Remove, duplicate or move lines, or insert some of another file."""
    rows = text.split(b"\n")
    for _ in range(draw.choice((1, 2, 10))):
        place = draw.randrange(len(rows))
        what = draw.randrange(5)
        if what == 0 and len(rows) > 1:
            del rows[place]
        elif what == 1:
            rows.insert(place, draw.choice(rows))
        elif what == 2:
            rows.insert(place, draw.choice((b"", b"# a comment", b"path\tframes", b"a,b,c", b"<html>", b"\t", b"\t\t")))
        elif what == 3:
            draw.shuffle(rows)
        else:
            rows[place] = rows[place].replace(b"\t", draw.choice((b" ", b",", b"\t\t", b"")))
    return b"\n".join(rows)


def values(text: bytes, draw: random.Random) -> bytes:
    """Change lengths and names in some lines."""
    root, *rows = text.rstrip(b"\n").split(b"\n")
    for _ in range(draw.choice((1, 3, len(rows)))):
        place = draw.randrange(len(rows))
        name, tab, size = rows[place].partition(b"\t")
        rows[place] = draw.choice(NAMES) + tab + size if draw.random() < 0.5 else name + tab + draw.choice(NUMBERS)
    return b"\n".join([root, *rows, b""])


def root_line(text: bytes, draw: random.Random) -> bytes:
    root, rest = text.split(b"\n", 1)
    other = draw.choice(
        (
            b"",
            root[1:],
            root + b"/",
            root + b" ",
            b"  " + root,
            root + b"/a b/../",
            root + b"/a b/00.wav",
            b"/no/such",
            b".",
            b"/",
            b"\xff",
            b"/dev",
            root + b"\t5",
            b"s3://bucket/audio",
            b"~/audio",
            b"C:\\audio",
            b'"' + root + b'"',
            b"x" * 5000,
            root + b"\0",
        )
    )
    return rest if draw.random() < 0.2 else other + b"\n" + rest


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bits,
    cut,
    insert,
    other_encoding,
    line_ends,
    lines,
    values,
    values,
    root_line,
)


# -- one try -----------------------------------------------------------------------------------------------------------


def as_it_stands(text: bytes) -> tuple[bytes, list[tuple[bytes, int] | tuple[bytes, int, int]]] | None:
    """Read a manifest's root, and names and numbers in the simplest way; None if a line is malformed."""
    if b"\0" in text or text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return None
    root, *rows = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    found = []
    for row in rows:
        name, *numbers = row.removesuffix(b"\r").split(b"\t")
        if not name and not numbers:
            continue
        if not name or not all(number.isdigit() and len(number) <= 18 for number in numbers):
            return None
        found.append((name, *map(int, numbers)))
    root = root.strip()
    if {len(row) for row in found} not in (set(), {2}, {3}):
        return None
    return None if b"\t" in root or b"\r" in root else (root, found)


def one(path: Path, text: bytes, longest: int | None) -> str:
    """Load a manifest, check it as preflight does, and make a batch from it.

    Raises:
        AssertionError: the entries are not those in the file, or a row does not have its file's samples.
        ValueError: as for users; batch errors start with the manifest's path, as in `fairseq_cli.train`.
    """
    manifest, expected = Manifest(path), as_it_stands(text)
    assert expected is not None, "a malformed manifest was read"
    root, rows = expected
    assert os.fsencode(manifest.root) == root and manifest.sizes.tolist() == [row[1] for row in rows]
    if manifest.starts is not None:
        assert manifest.starts.tolist() == [row[2] for row in rows if len(row) == 3]
    assert [os.fsencode(manifest.name(index)) for index in range(len(manifest))] == [row[0] for row in rows]
    manifest.root_problem()
    corpus._look_at(manifest, list(range(min(5, len(manifest)))), RATE)
    dataset = FileAudioDataset(str(path), RATE, max_sample_size=longest, pad=True, min_sample_size=500)
    try:
        made = dataset.collate_plan(dataset.batches(1, BatchLimits(20 * RATE)).plan(0, 1, 0))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for row, index in zip(made["net_input"]["source"].numpy(), made["id"].tolist(), strict=True):
        filled = row[: min(int(dataset.sizes[index]), longest or len(row))]
        digits = [part for part in Path(dataset.file(index)).stem[-2:] if part.isdigit()]
        assert np.allclose(filled, int("".join(digits)) / 100), f"row of {dataset.name(index)} holds other samples"
    return "quarantine" if any(trouble.replaced for trouble in made["quarantined"]) else "read"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw, tally = random.Random(arguments.seed), Tally("damaged manifests")
    quarantine._PAUSES = (0.0,)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        sound = write_corpus(folder)
        os.chdir(folder)  # so that relative roots do not find files of the checkout
        for number in range(arguments.tries):
            damage = draw.choice(DAMAGES)
            whole = segments(sound) if draw.random() < 0.5 else sound
            text = whole if number == 0 else damage(whole, draw)
            path = folder / f"try{number}.tsv"
            as_gzip = draw.random() < 0.2
            path.with_name(f"{path.name}.gz" if as_gzip else path.name).write_bytes(
                gzip.compress(text, 1) if as_gzip else text
            )
            manifest_index._LARGE = draw.choice((0, 1 << 40))  # with and without an index
            longest = draw.choice((None, 10 * RATE))
            outcome = attempt(lambda path=path, text=text, longest=longest: one(path, text, longest), path.name)
            if number == 0 and outcome.kind != "right":
                outcome = outcome._replace(kind="exception")
            tally.add(f"{number}: {damage.__name__}: {text[:80]!r}", outcome)
            for file in folder.glob(f"{path.name}*"):
                file.unlink()
        os.chdir("/")
    sys.exit(not tally.report())


if __name__ == "__main__":
    main()
