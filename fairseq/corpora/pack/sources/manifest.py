"""A manifest of this package, with labels and a sidecar next to it if there are any."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fairseq.corpora.pack import jsonl
from fairseq.corpora.pack.source import Item, Options, register_source
from fairseq.data.audio.manifest import Manifest as Lines
from fairseq.data.data_utils import post_process
from fairseq.text_files import read_lines

_ENDINGS = (".tsv", ".tsv.gz")


@register_source
class Manifest:
    """Files or segments that a manifest lists: NAME.tsv, with NAME.wrd or NAME.ltr, and NAME.jsonl.

    The labels are used as they are. An utterance has the manifest's number of frames, also if its file is longer: it is
    what a run on the manifest would see.
    """

    kind = "manifest"

    def __init__(self, path: Path, options: Options) -> None:
        self.manifest = Lines(path)
        self.manifest.check_root()
        self._stem = str(path)[: -len(next((ending for ending in _ENDINGS if str(path).endswith(ending)), ""))]
        self._texts = self._labels()
        self.prepared = self._texts is not None  # a sidecar's texts are not labels

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.is_file() and path.name.endswith(_ENDINGS)

    def _labels(self) -> list[str] | None:
        """Return the words of each utterance; None without labels.

        Raises:
            ValueError: the number of lines is not the manifest's.
        """
        for ending, unit in ((".wrd", None), (".ltr", "letter")):
            file = Path(self._stem + ending)
            if file.is_file():
                lines = [post_process(line.strip(), unit) for line in read_lines(file, "the labels")]
                self._check_count(file, len(lines))
                return lines
        return None

    def _check_count(self, file: Path, count: int) -> None:
        if count != len(self.manifest):
            raise ValueError(
                f"{file} has {count} lines, but {self.manifest.path} has {len(self.manifest)} utterances. Write one "
                "line for each utterance, in the manifest's order, or move the file away."
            )

    def _sidecar(self) -> Iterator[jsonl.Facts]:
        file, count = Path(self._stem + ".jsonl"), 0
        if not file.is_file():
            yield from ({} for _ in range(len(self.manifest)))
            return
        for _, facts in jsonl.objects(file, "the sidecar"):
            count += 1
            yield facts
        self._check_count(file, count)

    def items(self, first: int = 0, audio: bool = True) -> Iterator[Item]:
        starts = self.manifest.starts
        for number, facts in enumerate(self._sidecar()):
            if not first <= number < len(self.manifest):  # a sidecar that is longer says so at its end
                continue
            name, frames = self.manifest.name(number), int(self.manifest.sizes[number])
            start = 0 if starts is None else int(starts[number])
            key = facts.get("key") or (os.path.splitext(name)[0] + ("" if starts is None else f"-{start}"))
            text = facts.get("text") if self._texts is None else self._texts[number]
            speaker, rest = facts.get("speaker"), facts.get("rest")
            yield Item(
                origin=name if starts is None else f"{name} from {start}",
                key=str(key),
                place=self.manifest.file(number),
                start=start,
                frames=frames,
                text=None if text is None else str(text),
                speaker=None if speaker is None else str(speaker),
                rest={**(rest if isinstance(rest, dict) else {}), **({} if starts is None else {"start": start})},
                size=frames,
            )
