"""Recognise files that are not checkpoints by their first bytes."""

from __future__ import annotations

import errno
import os
import stat

from fairseq.checkpoint import fetching, hub, sharded
from fairseq.text_files import MissingFileError

_LOOKED_AT = 512  # bytes
_ADVICE_FOR_TENSORS = (
    "which holds weights without fairseq's config. Convert its folder, with its config.json: "
    "fairseq-convert FOLDER NEW.pt --to fairseq"
)
_BEGINNINGS = (  # first bytes, what the file is, what to do
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "Fetch the file with git lfs pull"),
    (b"\x1f\x8b", "compressed (gzip)", "Unpack it first"),
    (b"BZh", "compressed (bzip2)", "Unpack it first"),
    (b"\xfd7zXZ", "compressed (xz)", "Unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", "Unpack it first"),
    (b"RIFF", "an audio file (WAV)", "Use a checkpoint here"),
    (b"fLaC", "an audio file (FLAC)", "Use a checkpoint here"),
    (b"OggS", "an audio file (Ogg)", "Use a checkpoint here"),
    (b"\x93NUMPY", "a NumPy array", "Use a checkpoint here"),
    (b"\x89HDF", "an HDF5 file", "Use a checkpoint that fairseq wrote"),
)


def missing(path: str | os.PathLike[str]) -> str:
    """Say why a file does not exist, as the end of a sentence; names the target of a symbolic link."""
    if os.path.islink(path):
        return f"it is a symbolic link to {os.readlink(path)}, which does not exist"
    if hub.is_id(os.fspath(path)):
        try:
            hub.folder(os.fspath(path))
        except MissingFileError as error:
            return str(error).removesuffix(".")
    return "there is no such file"


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is something of this path or URL; what is not local is downloaded, see `fetching`."""
    try:
        return os.path.exists(fetching.local(path))
    except FileNotFoundError:
        return False


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a path or URL is a file, or the folder of a sharded checkpoint."""
    try:
        path = fetching.local(path)
    except FileNotFoundError:
        return False
    return os.path.isfile(path) or sharded.is_folder(path)


def refuse_other_kinds(path: str | os.PathLike[str]) -> None:
    """Reject a file that is known not to be a checkpoint.

    Raises:
        FileNotFoundError: there is no such file; the message names a dangling link's target.
        ValueError: `problem` found one.
    """
    named, path = os.fspath(path), fetching.local(path)
    if not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, missing(path), path)
    found = problem(path)
    if found is not None:
        raise ValueError(f"{named} {found}.")


def problem(path: str | os.PathLike[str]) -> str | None:
    """Say what a file is if it cannot be a checkpoint, and what to do; None if it can be one.

    Returns:
        a sentence without its subject: "is a folder, ...", "is empty: ...", "is not a checkpoint: ...".
    """
    path = fetching.local(path)
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        return None if sharded.is_folder(path) else "is a folder, not a checkpoint. Use the file inside it"
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file: a checkpoint cannot be read from a pipe or a device. Copy it to a file first"
    if found.st_size == 0:
        return "is empty: its copy or download did not finish. Fetch it again"
    with open(path, "rb") as file:
        kind = _kind(file.read(_LOOKED_AT), found.st_size)
    return None if kind is None else f"is not a checkpoint: it is {kind}"


def _kind(head: bytes, size: int) -> str | None:
    """Say what a file is, and what to do about it; None if it can be a checkpoint."""
    for beginning, what, advice in _BEGINNINGS:
        if head.startswith(beginning):
            return f"{what}. {advice}"
    # 8 bytes of length, then that much JSON
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return f"a safetensors file, {_ADVICE_FOR_TENSORS}"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        return "a web page (HTML or XML): the download returned an error or a login page. Download it again"
    if head.isascii() and all(byte >= 32 or byte in b"\t\n\r" for byte in head):
        return f"text that begins with {head[:30].decode()!r}. Use a checkpoint that fairseq wrote"
    return None
