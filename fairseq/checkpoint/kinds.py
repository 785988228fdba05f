"""What a file is that was given as a checkpoint and is none: told by its first bytes."""

from __future__ import annotations

import errno
import os
import stat

_LOOKED_AT = 512  # bytes
_ADVICE_FOR_TENSORS = (
    "which holds weights without fairseq's config. Convert the folder that it lies in, with its config.json: "
    "fairseq-convert FOLDER NEW.pt --to fairseq"
)
_BEGINNINGS = (  # first bytes, what the file is, what to do
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "Fetch the file with git lfs pull"),
    (b"\x1f\x8b", "compressed (gzip)", "Unpack it first"),
    (b"BZh", "compressed (bzip2)", "Unpack it first"),
    (b"\xfd7zXZ", "compressed (xz)", "Unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", "Unpack it first"),
    (b"RIFF", "an audio file (WAV)", "Give the checkpoint here"),
    (b"fLaC", "an audio file (FLAC)", "Give the checkpoint here"),
    (b"OggS", "an audio file (Ogg)", "Give the checkpoint here"),
    (b"\x93NUMPY", "an array of NumPy", "Give the checkpoint here"),
    (b"\x89HDF", "an HDF5 file", "Give a checkpoint that fairseq wrote"),
)


def missing(path: str | os.PathLike[str]) -> str:
    """Why a file is not there, as the end of a sentence about its name; a symbolic link's target is named."""
    if os.path.islink(path):
        return f"it is a symbolic link to {os.readlink(path)}, which does not exist"
    return "there is no such file"


def refuse_other_kinds(path: str | os.PathLike[str]) -> None:
    """Raise where a file is known not to be a checkpoint, so that no reader has to guess from its bytes.

    Raises:
        FileNotFoundError: there is no such file; a dangling link's target is named.
        ValueError: as `problem` says.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, missing(path), path)
    found = problem(path)
    if found is not None:
        raise ValueError(f"{path} {found}.")


def problem(path: str | os.PathLike[str]) -> str | None:
    """What a file is, a folder, a pipe, empty or of another kind, and what to do, as a sentence about it; None: it
    may be a checkpoint.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        return "is a folder, not a checkpoint. Give the file inside it"
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file: a checkpoint cannot be read from a pipe or a device. Copy it to a file first"
    if found.st_size == 0:
        return "is empty: it was not copied or downloaded to its end. Fetch it again"
    with open(path, "rb") as file:
        kind = _kind(file.read(_LOOKED_AT), found.st_size)
    return None if kind is None else f"is not a checkpoint: it is {kind}"


def _kind(head: bytes, size: int) -> str | None:
    """What a file is, and what to do about it; None where it may be a checkpoint."""
    for beginning, what, advice in _BEGINNINGS:
        if head.startswith(beginning):
            return f"{what}. {advice}"
    # 8 bytes of length, then that much JSON
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return f"a safetensors file, {_ADVICE_FOR_TENSORS}"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        return "a web page (HTML or XML): the download brought an error or a login page. Download it again"
    if head.isascii() and all(byte >= 32 or byte in b"\t\n\r" for byte in head):
        return f"text, which begins with {head[:30].decode()!r}. Give a checkpoint that fairseq wrote"
    return None
