"""Read shards of `fairseq-pack` with `webdataset` and `datasets`, in an environment that has them; prints JSON.

    PYTHON tests/drills/pack_peers.py FOLDER NAME

For each way of reading: the number of utterances, and a checksum of keys, audio bytes, facts and texts in order.
`tests.drills.pack_kills --peers PYTHON` compares it with what the manifest says. This file imports nothing of fairseq.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

EXTENSION = "flac"


def digest(utterances: Iterable[tuple[str, bytes, Mapping[str, Any], str]]) -> dict[str, Any]:
    """Count utterances, and hash them in order."""
    checksum, count = hashlib.sha256(), 0
    for key, audio, facts, text in utterances:
        said = {name: value for name, value in facts.items() if value is not None}  # `datasets` fills in None
        for part in (key.encode(), audio, json.dumps(said, sort_keys=True).encode(), text.encode()):
            checksum.update(len(part).to_bytes(8, "little") + part)
        count += 1
    return {"utterances": count, "sha256": checksum.hexdigest()}


def with_webdataset(shards: list[str]) -> Iterator[tuple[str, bytes, Mapping[str, Any], str]]:
    import webdataset

    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        text = sample.get("txt", b"").decode()
        yield sample["__key__"], sample[EXTENSION], json.loads(sample["json"]), text


def with_datasets(shards: list[str], streaming: bool, cache: str) -> tuple[str, dict[str, Any]]:
    """Return (how the audio column was declared, digest)."""
    import datasets

    known: dict[str, Any] = {"data_files": shards, "split": "train", "cache_dir": cache}
    features = dict(datasets.load_dataset("webdataset", streaming=True, **known).features)
    declared = "Audio(decode=False)"
    for audio in (datasets.Audio(decode=False), datasets.Value("binary")):
        features[EXTENSION] = audio
        try:
            rows = datasets.load_dataset(
                "webdataset", streaming=streaming, features=datasets.Features(features), **known
            )
            return declared, digest(map(_row, rows))
        except (ImportError, datasets.exceptions.DatasetGenerationError) as error:
            if "torchcodec" not in f"{error} {error.__cause__}":
                raise
            declared = "Value('binary'), since this version declares Audio only with torchcodec"
    raise AssertionError("the second try needs no torchcodec")


def _row(row: dict[str, Any]) -> tuple[str, bytes, Mapping[str, Any], str]:
    audio = row[EXTENSION]
    return row["__key__"], audio["bytes"] if isinstance(audio, dict) else audio, row["json"], row.get("txt") or ""


def main(folder: str, name: str) -> None:
    import datasets
    import webdataset

    shards = sorted(glob.glob(os.path.join(folder, f"{name}-*.tar")))
    found: dict[str, Any] = {f"webdataset {webdataset.__version__}": digest(with_webdataset(shards))}
    with tempfile.TemporaryDirectory() as cache:
        for streaming in (False, True):
            declared, result = with_datasets(shards, streaming, cache)
            found[f"datasets {datasets.__version__}, streaming={streaming}, {declared}"] = result
    print(json.dumps(found))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(*sys.argv[1:])
