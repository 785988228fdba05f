"""Parquet files with the bytes of audio files in a column, as the Hugging Face hub has them."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq.corpora.pack import tables
from fairseq.corpora.pack.source import Item, Options, register_source

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_PART = re.compile(r"(.+)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")  # as the hub names the files of a split


def glob_or_file(path: Path) -> str:
    """Return a pattern that finds what a path or a pattern means; a file's own name may have brackets."""
    return glob.escape(str(path)) if path.is_file() else str(path)


@register_source
class Parquet:
    """A parquet file, a pattern of files, or a folder with parquet files at any depth, in the order of their names.

    Raises:
        ValueError: a folder has the files of several splits.
    """

    kind = "parquet"
    prepared = False

    def __init__(self, path: Path, options: Options) -> None:
        self._arrow = tables.need_pyarrow("parquet files", "pyarrow")
        self._parquet = tables.need_pyarrow("parquet files", "pyarrow.parquet")
        self.path, self.options = path, options
        self.files = sorted(path.rglob("*.parquet") if path.is_dir() else map(Path, glob.glob(glob_or_file(path))))
        if not self.files:
            raise ValueError(f"{path} has no .parquet files.")
        if path.is_dir():
            self._check_splits()

    @classmethod
    def recognises(cls, path: Path) -> bool:
        if not path.is_dir():
            return path.suffix == ".parquet"
        # one level: a folder of audio can have millions of files below
        return any(next(path.glob(pattern), None) is not None for pattern in ("*.parquet", "*/*.parquet"))

    def _check_splits(self) -> None:
        splits = {(file.parent, match[1]) for file in self.files if (match := _PART.fullmatch(file.name))}
        if len(splits) > 1:
            folder, name = min(splits)
            raise ValueError(
                f"{self.path} has the files of several splits: {', '.join(sorted({split for _, split in splits}))}. "
                f"Pack each one by itself, such as '{folder / name}-*.parquet', with its own --name."
            )

    def items(self, first: int = 0, audio: bool = True) -> Iterator[Item]:
        for file in self.files:
            try:
                opened = self._parquet.ParquetFile(file)
                rows = opened.metadata.num_rows
                if first < rows:
                    yield from self._items(file, opened, first, audio)
                first = max(0, first - rows)
            except (self._arrow.ArrowException, OSError) as error:
                raise ValueError(f"cannot read {file}: {error}") from error

    def _items(self, file: Path, opened: ParquetFile, first: int, audio: bool) -> Iterator[Item]:
        """Yield a file's rows from number `first`; row groups before it are not read."""
        columns = tables.find_columns(opened.schema_arrow, self.options, file)
        metadata, number = opened.metadata, 0
        groups = []
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            if number + count > first or groups:
                groups.append(group)
            else:
                number += count
        names = columns.all() if audio else columns.without_audio()
        row_bytes = file.stat().st_size // max(1, metadata.num_rows)
        # one thread: the order and the memory are the same everywhere, and the workers decode audio meanwhile
        for batch in opened.iter_batches(tables.ROWS, row_groups=groups, columns=names, use_threads=False):
            skipped = min(max(0, first - number), batch.num_rows)
            if skipped < batch.num_rows:
                rows = tables.Rows(file, self._folder, number + skipped, row_bytes, tables.stamp_of(file))
                yield from tables.items_of(batch.slice(skipped), columns, rows, audio)
            number += batch.num_rows

    @property
    def _folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent
