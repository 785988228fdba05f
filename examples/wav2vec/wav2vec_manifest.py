#!/usr/bin/env python3
"""Create train.tsv and valid.tsv for a folder of audio: line 1 is the folder, every other line `path<TAB>frames`.

    wav2vec_manifest.py /corpus/train-960 --dest manifests --valid-percent 0.01
    wav2vec_manifest.py /corpus/train-960 --dest manifests --valid /corpus/dev-other

Files are sorted by name, so the split is the same on every file system. Files that cannot be read, are empty, or have a
name that a manifest cannot hold are listed in unreadable.tsv next to the manifests.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import random
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

REPORT = "unreadable.tsv"
_CHUNK = 256  # files that a process reads at a time
_FEW = 1000  # up to this many files are read in this process: starting processes would take longer
_SMALLEST_FLAC_FRAME = 11  # bytes; a block of audio cannot be smaller
_LARGEST_FLAC_BLOCK = 65535  # samples


class Header(NamedTuple):
    """Information on a file, usually read without decoding it."""

    frames: int
    problem: str  # why the file cannot be listed, or ""
    identity: tuple[int, int] | None  # device and inode if the file has several names


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", metavar="DIR", help="folder to search for audio, at any depth")
    valid = parser.add_mutually_exclusive_group()
    valid.add_argument(
        "--valid-percent",
        default=0.01,
        type=float,
        metavar="P",
        help="share of the files for valid.tsv; 0.01 means 1 %%",
    )
    valid.add_argument(
        "--valid",
        metavar="DIR",
        help="folder whose files go to valid.tsv; all files of the first folder then go to train.tsv",
    )
    parser.add_argument(
        "--dest", default=".", metavar="DIR", help="folder to write the manifests to; can be inside the root"
    )
    parser.add_argument(
        "--ext",
        default="flac",
        metavar="EXT",
        help="extensions of the audio files, in any case, separated by commas: flac,wav",
    )
    parser.add_argument("--seed", default=42, type=int, metavar="N", help="seed of the split")
    parser.add_argument("--path-must-contain", metavar="FRAG", help="list only files whose absolute path contains this")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read headers (default: one per core)")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with status 1 if a file was skipped (the manifests are still written)",
    )
    return parser


# -- finding files -----------------------------------------------------------------------------------------------------


def find_files(root: str, extensions: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Find all files with these extensions.

    Links are followed, but each folder is entered only once, to avoid loops. Names that begin with a dot are skipped.

    Returns:
        (path relative to root, real path) of each file, sorted, each real path once; and one line for each folder or
        link that cannot be opened.
    """
    suffixes = tuple("." + extension.lower() for extension in extensions)
    found: list[tuple[str, str]] = []
    closed: list[str] = []
    entered: set[str] = set()
    waiting = [("", root)]
    while waiting:
        below, real_folder = waiting.pop()
        if real_folder in entered:
            continue
        entered.add(real_folder)
        folders = []
        try:
            with os.scandir(real_folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = os.path.join(below, entry.name)
                    try:
                        real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                        is_folder = entry.is_dir()
                    except OSError as error:  # a link to itself; the rest of the folder is still readable
                        closed.append(f"{path}\t{error.strerror}")
                        continue
                    if is_folder:
                        folders.append((path, real))
                    elif entry.name.lower().endswith(suffixes):
                        found.append((path, real))
        except OSError as error:
            closed.append(f"{below or '.'}\t{error.strerror}")
        waiting.extend(sorted(folders, reverse=True))  # so that the first name is entered next
    return first_names(sorted(found)), closed


def first_names(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Keep only the first name of each real file."""
    seen: set[str] = set()
    return [(path, real) for path, real in found if not (real in seen or seen.add(real))]


# -- reading headers ---------------------------------------------------------------------------------------------------


def read_header(path: str) -> Header:
    """Read the frames of an audio file from its header, or count them by decoding if it does not state them."""
    try:
        with open(path, "rb", buffering=0) as file:
            start = file.read(42)
            status = os.fstat(file.fileno())
    except OSError as error:
        return Header(0, error.strerror or str(error), None)
    identity = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None
    if not start:
        return Header(0, "the file is empty", identity)
    frames = flac_frames(start)
    if frames:
        blocks = -(-frames // _LARGEST_FLAC_BLOCK)
        problem = "the file is truncated" if status.st_size < len(start) + blocks * _SMALLEST_FLAC_FRAME else ""
        return Header(frames, problem, identity)
    from fairseq.data.audio.audio_utils import UnreadableAudio, audio_format  # slow import, not needed for FLAC

    try:
        frames = audio_format(path).frames
    except UnreadableAudio as error:
        return Header(0, " ".join(str(error).split()), identity)
    return Header(frames, "" if frames > 0 else "the file contains no audio", identity)


def flac_frames(start: bytes) -> int | None:
    """Return the frames stated in a FLAC stream's first 42 bytes; None if libsndfile must read the file.

    Source: RFC 9639, section 8.2: "fLaC", a block header of 4 bytes, then STREAMINFO, in which the last 36 bits of
    bytes 13 to 17 are the number of frames.
    """
    if len(start) < 42 or start[:4] != b"fLaC" or start[4] & 0x7F != 0:
        return None
    return int.from_bytes(start[21:26], "big") & ((1 << 36) - 1) or None


def read_headers(paths: Sequence[str], workers: int) -> Iterator[Header]:
    """Yield headers in the order of the paths, read by several processes, with a progress bar on a terminal."""
    from tqdm import tqdm

    with contextlib.ExitStack() as stack:
        if workers > 1 and len(paths) > _FEW:
            if not all(path.endswith(".flac") for path in paths):
                importlib.import_module("fairseq.data.audio.audio_utils")  # once, before the processes start
            # Python 3.14 starts other processes on Linux, which would have to import all of this again
            context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
            pool = stack.enter_context(context.Pool(workers))
            headers = pool.imap(read_header, paths, chunksize=_CHUNK)
        else:
            headers = map(read_header, paths)
        yield from tqdm(headers, total=len(paths), unit="file", desc="headers", disable=None)


# -- writing -----------------------------------------------------------------------------------------------------------


def write_lines(path: str, lines: Sequence[str]) -> None:
    """Write a file atomically."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            file.writelines(line + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def listed_files(manifest: str) -> set[str]:
    """Return the real paths of the files in a manifest; an empty set if it does not exist."""
    if not os.path.exists(manifest):
        return set()
    with open(manifest, encoding="utf-8", errors="surrogateescape") as file:
        root = file.readline().rstrip("\n")
        return {os.path.realpath(os.path.join(root, line.split("\t")[0])) for line in file}


class Listing(NamedTuple):
    """The contents of the output files."""

    train: list[str]
    valid: list[str]
    unreadable: list[str]
    train_files: set[str]  # real paths


def drawn(count: int, share: float, seed: int) -> list[bool]:
    """Draw which of `count` files go to valid.tsv.

    Unreadable files are drawn too, so that a damaged file does not change the split of the rest.
    """
    draw = random.Random(seed)
    return [draw.random() <= share and share > 0 for _ in range(count)]


def make_listing(files: Sequence[tuple[str, str]], for_valid: Sequence[bool], workers: int) -> Listing:
    """Read headers, and split the files by `for_valid`."""
    listing = Listing([], [], [], set())
    identities: set[tuple[int, int]] = set()
    for (path, real), header, to_valid in zip(
        files, read_headers([real for _, real in files], workers), for_valid, strict=True
    ):
        if header.identity is not None:
            if header.identity in identities:
                continue  # a hard link to a listed file
            identities.add(header.identity)
        problem = (
            "a manifest cannot hold a tab or a line break in a name"
            if any(c in path for c in "\t\n\r")
            else header.problem
        )
        if problem:
            listing.unreadable.append(
                f"{path!a}\t{problem}" if any(c in path for c in "\t\n\r") else f"{path}\t{problem}"
            )
        else:
            (listing.valid if to_valid else listing.train).append(f"{path}\t{header.frames}")
            if not to_valid:
                listing.train_files.add(real)
    return listing


def main(args: argparse.Namespace) -> int:
    """Write the manifests; return the exit status.

    Raises:
        ValueError: an argument is invalid, or a manifest would have no files.
    """
    check_arguments(args)
    root, valid_root = os.path.realpath(args.root), None if args.valid is None else os.path.realpath(args.valid)
    files, closed = audio_below(root, args)
    more: list[tuple[str, str]] = []
    if valid_root is not None:
        more, more_closed = audio_below(valid_root, args)
        closed += more_closed
        held_out = {real for _, real in more}
        files = [(path, real) for path, real in files if real not in held_out]
    for_valid = [True] * len(more) + drawn(len(files), 0 if more else args.valid_percent, args.seed)
    if all(for_valid):
        raise ValueError(
            f"all {len(for_valid)} files would go to valid.tsv, and none to train.tsv. Lower --valid-percent (a share: "
            "0.01 means 1 %), or choose a --valid folder that does not contain all files of DIR."
        )
    listing = make_listing(more + files, for_valid, args.workers or usable_cores())
    listing.unreadable.extend(closed)
    write_manifests(args.dest, (root, valid_root or root), listing, with_valid=more != [] or args.valid_percent > 0)
    print(
        f"{len(listing.train)} files in train.tsv, {len(listing.valid)} in valid.tsv, {len(listing.unreadable)} "
        "left out"
    )
    if not listing.valid and args.valid_percent > 0:
        print("valid.tsv has no files. Use --valid DIR, or a larger --valid-percent.", file=sys.stderr)
    if listing.unreadable:
        print(f"left out: see {os.path.join(args.dest, REPORT)}; the first: {listing.unreadable[0]}", file=sys.stderr)
    return 1 if args.strict and listing.unreadable else 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for invalid arguments, before reading or writing files."""
    if not 0 <= args.valid_percent <= 1:
        raise ValueError(f"--valid-percent is {args.valid_percent}; it must be from 0 to 1 (0.01 means 1 %).")
    for folder in (args.root, args.valid):
        if folder is not None and not os.path.isdir(folder):
            raise ValueError(f"the folder {folder} does not exist.")
        if folder is not None and any(character in os.path.realpath(folder) for character in "\t\n\r"):
            raise ValueError(
                f"the path of the folder {folder!a} has a tab or a line break, which a manifest cannot hold. Rename it."
            )
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers is {args.workers}; it must be at least 1.")
    dest = args.dest.rstrip(os.sep) or os.sep
    if os.path.exists(dest) and not os.path.isdir(dest):
        raise ValueError(
            f"--dest is {args.dest}, which is a file; it must be a folder, where train.tsv and valid.tsv are written."
        )
    if dest.endswith(".tsv") and not os.path.isdir(dest):
        folder = os.path.dirname(dest) or "."
        raise ValueError(
            f"--dest is {args.dest}; it must be a folder, where train.tsv and valid.tsv are written: --dest {folder}"
        )


def audio_below(root: str, args: argparse.Namespace) -> tuple[list[tuple[str, str]], list[str]]:
    """Find the files that match --ext and --path-must-contain; see `find_files`.

    Raises:
        ValueError: no file matches.
    """
    extensions = [extension.strip().lstrip(".") for extension in args.ext.split(",") if extension.strip()]
    files, closed = find_files(root, extensions)
    if args.path_must_contain:
        files = [(path, real) for path, real in files if args.path_must_contain in os.path.join(root, path)]
    if not files:
        wanted = f" whose path contains {args.path_must_contain!r}" if args.path_must_contain else ""
        raise ValueError(
            f"{root} has no .{', .'.join(extensions)} files{wanted}. Set other extensions with --ext (flac,wav)."
        )
    return files, closed


def usable_cores() -> int:
    return len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def write_manifests(dest: str, roots: tuple[str, str], listing: Listing, with_valid: bool) -> None:
    """Write train.tsv, valid.tsv if `with_valid`, and the report if files were skipped.

    Args:
        dest: the folder to write to.
        roots: root folders of train.tsv and valid.tsv.
        listing: the contents.
        with_valid: write valid.tsv.
    Raises:
        ValueError: an existing valid.tsv that is kept lists files of the new train.tsv.
    """
    os.makedirs(dest, exist_ok=True)
    valid, report = os.path.join(dest, "valid.tsv"), os.path.join(dest, REPORT)
    if not with_valid:
        twice = listed_files(valid) & listing.train_files
        if twice:
            raise ValueError(
                f"{valid} exists and lists {len(twice)} of the files for train.tsv, such as {min(twice)}. Remove it, "
                "or set --valid-percent."
            )
    if listing.unreadable:
        write_lines(report, listing.unreadable)
    elif os.path.exists(report):
        os.remove(report)
    if with_valid:
        write_lines(valid, [roots[1], *listing.valid])
    write_lines(os.path.join(dest, "train.tsv"), [roots[0], *listing.train])


if __name__ == "__main__":
    try:
        sys.exit(main(get_parser().parse_args()))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
