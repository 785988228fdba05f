"""fairseq's `PathManager`, for local files."""

from __future__ import annotations

import os
import shutil
from typing import IO, Any

__all__ = ["PathManager"]


class PathManager:
    """File operations as fairseq's plug-ins call them, on local paths only: there is no handler for `s3://` etc."""

    @staticmethod
    def open(
        path: str,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        return open(path, mode=mode, buffering=buffering, encoding=encoding, errors=errors, newline=newline)

    @staticmethod
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        """Copy a file; return False and copy nothing if `dst_path` exists and `overwrite` is false."""
        if os.path.exists(dst_path) and not overwrite:
            return False
        shutil.copyfile(src_path, dst_path)
        return True

    @staticmethod
    def copy_from_local(local_path: str, dst_path: str, overwrite: bool = False, **kwargs: Any) -> bool:
        return PathManager.copy(local_path, dst_path, overwrite)

    @staticmethod
    def get_local_path(path: str, **kwargs: Any) -> str:
        return path

    @staticmethod
    def exists(path: str) -> bool:
        return os.path.exists(path)

    @staticmethod
    def isfile(path: str) -> bool:
        return os.path.isfile(path)

    @staticmethod
    def islink(path: str) -> bool:
        return os.path.islink(path)

    @staticmethod
    def ls(path: str) -> list[str]:
        return os.listdir(path)

    @staticmethod
    def mkdirs(path: str) -> None:
        os.makedirs(path, exist_ok=True)

    @staticmethod
    def rm(path: str) -> None:
        os.remove(path)

    @staticmethod
    def chmod(path: str, mode: int) -> None:
        os.chmod(path, mode)

    @staticmethod
    def rename(src: str, dst: str) -> None:
        os.rename(src, dst)

    @staticmethod
    def supports_rename(path: str) -> bool:
        return True

    @staticmethod
    def path_requires_pathmanager(path: str) -> bool:
        """Return whether the path needs a handler; always False, since there are none."""
        return False

    @staticmethod
    def async_close() -> bool:
        """Do nothing: there are no background writes."""
        return False

    @staticmethod
    def register_handler(handler: Any) -> None:
        """Raise ValueError: handlers are not offered."""
        raise ValueError(
            "PathManager.register_handler is not offered here: use local paths, or mount the remote file system."
        )
