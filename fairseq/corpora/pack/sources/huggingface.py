"""A data set that the package `datasets` saved to disk with `save_to_disk`; only pyarrow is needed to read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from fairseq.corpora.pack import tables
from fairseq.corpora.pack.source import Item, Options, register_source

_STATE, _SPLITS = "state.json", "dataset_dict.json"


@register_source
class HuggingFace:
    """The Arrow files of one split, in the order that its state.json lists."""

    kind = "huggingface"
    prepared = False

    def __init__(self, path: Path, options: Options) -> None:
        self._arrow = tables.need_pyarrow("a saved data set", "pyarrow")
        self.path, self.options = path, options
        if (path / _SPLITS).is_file():
            splits = sorted(folder.name for folder in path.iterdir() if (folder / _STATE).is_file())
            raise ValueError(
                f"{path} is a data set with splits ({', '.join(splits)}). Pack each one by itself, such as "
                f"{path / splits[0] if splits else path}, with its own --name."
            )
        try:
            state = json.loads((path / _STATE).read_text(encoding="utf-8"))
            self.files = [path / entry["filename"] for entry in state["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"cannot read {path / _STATE}: {error}. Save the data set again.") from error

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return (path / _STATE).is_file() or (path / _SPLITS).is_file()

    def items(self, first: int = 0, audio: bool = True) -> Iterator[Item]:
        for file in self.files:
            try:
                with self._arrow.memory_map(str(file)) as mapped, self._arrow.ipc.open_stream(mapped) as reader:
                    columns = tables.find_columns(reader.schema, self.options, file)
                    stamp, number = tables.stamp_of(file), 0
                    for batch in reader:
                        skipped = min(first, batch.num_rows)
                        first -= skipped
                        row_bytes = batch.nbytes // max(1, batch.num_rows)
                        for begin in range(skipped, batch.num_rows, tables.ROWS):
                            part = batch.slice(begin, tables.ROWS)
                            rows = tables.Rows(file, self.path, number + begin, row_bytes, stamp)
                            yield from tables.items_of(part, columns, rows, audio)
                        number += batch.num_rows
            except (self._arrow.ArrowException, OSError) as error:
                raise ValueError(f"cannot read {file}: {error}") from error
