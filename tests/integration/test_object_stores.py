"""Audio in S3, with moto's server: the same samples as from files, faults that pass, faults that last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from fairseq import stores as all_stores
from fairseq.data.audio.audio_utils import audio_format, read_frames
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from fairseq.data.batch_workers import BatchWorkers, Failure
from fairseq.data.options import BatchLimits
from fairseq.data.storage import reader, s3, stores
from fairseq.data.storage.answers import StoreError
from fairseq.data.storage.reader import CacheOptions
from tests.object_store import Faults, Proxy, environment, moto, upload
from tests.unit.data.small_corpus import make_dataset, tell_tale, write_corpus

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
pytestmark = [pytest.mark.process, pytest.mark.slow]


class Store(NamedTuple):
    """A store with a corpus."""

    folder: Path  # the same corpus in files
    proxy: Proxy


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("store")
    write_corpus(folder, [2400 + 100 * number for number in range(24)])
    with moto(folder / "log") as url, Proxy(url, Faults()) as proxy:
        files: dict[str, bytes | Path] = {file.name: file for file in folder.glob("*.flac")}
        files["a.tar"] = b"x" * 77 + (folder / "train03.flac").read_bytes() + b"y" * 99
        upload(url, "corpus", {**files, "empty.flac": b""})
        remote = (folder / "train.tsv").read_text().split("\n", 1)[1]
        (folder / "remote.tsv").write_text("s3://corpus\n" + remote)
        yield Store(folder, proxy)


@pytest.fixture(autouse=True)
def use(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A new run that uses the store."""
    for name, value in environment(store.proxy.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(reader, "_reader", None)
    monkeypatch.setattr(reader, "_readers", {})
    monkeypatch.setattr(s3, "_buckets", {})
    monkeypatch.setattr(all_stores, "FIRST_PAUSE", 0.01)
    yield
    store.proxy.faults.busy = store.proxy.faults.cut = 0.0
    store.proxy.faults.wrong_key = False


def test_objects_and_ranges(store: Store) -> None:
    length = os.path.getsize(store.folder / "train03.flac")
    for place in ("s3://corpus/train03.flac", f"s3://corpus/a.tar:77:{length}"):
        assert audio_format(place) == (16_000, 2700, 1)
        np.testing.assert_array_equal(read_frames(place), tell_tale(3, 2700))
    assert stores.head("s3://corpus/a.tar") == stores.get("s3://corpus/a.tar", 5, 10).stamp


def test_one_request_is_enough_for_an_object(store: Store) -> None:
    before = store.proxy.counts["requests"]
    read_frames("s3://corpus/train05.flac")
    assert store.proxy.counts["requests"] == before + 1


def test_lasting_faults(store: Store) -> None:
    for place in ("s3://corpus/none.flac", "s3://no-such-bucket/a.flac"):
        with pytest.raises(StoreError, match=f"cannot read {place}: .*status 404.*AWS_ENDPOINT_URL"):
            audio_format(place)
    store.proxy.faults.wrong_key = True
    with pytest.raises(StoreError, match=r"status 403, InvalidAccessKeyId.*AWS_SECRET"):
        audio_format("s3://corpus/train03.flac")


def test_the_words_of_a_real_store() -> None:
    """As checkpoints use it: the errors of tests/unit/test_stores.py are what s3fs raises."""
    fs, path = all_stores.opened("s3://corpus/x")
    with pytest.raises(all_stores.MissingObject, match=r"status 404, NoSuchBucket"):
        all_stores.retried(lambda: fs.pipe_file("nowhere/x", b""), "s3://nowhere/x")
    with pytest.raises(all_stores.MissingObject, match=r"s3://corpus/x: the object or bucket does not exist"):
        all_stores.retried(lambda: fs.info(path), "s3://corpus/x")
    assert fs is not stores.file_system("s3://corpus/x")[0]  # checkpoints keep the client's own retries


def test_a_missing_object_ends_a_batch_at_once(store: Store) -> None:
    manifest = store.folder / "gone.tsv"
    manifest.write_text("s3://corpus\ngone0.flac\t3000\ngone1.flac\t3000\n")
    dataset = make_dataset(manifest)
    plans = dataset.batches(1, BatchLimits(max_tokens=12_000))
    with pytest.raises(StoreError, match="cannot read s3://corpus/gone0.flac: .*status 404"):
        dataset.collate_plan(plans.plan(0, 1, 0))


def batches_equal(store: Store, dataset: FileAudioDataset, epoch: int, workers: int, start_method: str) -> None:
    """Compare an epoch's batches that workers read from the store with those from files."""
    local = make_dataset(store.folder / "train.tsv")
    batches = local.batches(epoch, BatchLimits(max_tokens=12_000))
    plans = [batches.plan(number, epoch, 0) for number in range(len(batches))]
    found = list(BatchWorkers(dataset.collate_plan, iter(plans), workers, 2, start_method))
    for plan, other in zip(plans, found, strict=True):
        assert not isinstance(other, Failure), other
        one = local.collate_plan(plan)
        np.testing.assert_array_equal(one["net_input"]["source"], other["net_input"]["source"])
        assert not other["quarantined"]


def test_workers_read_through_faults_and_then_from_the_cache(store: Store, tmp_path: Path) -> None:
    """The parent has read before: its client must not be used by a fork."""
    read_frames("s3://corpus/train03.flac")
    dataset = make_dataset(store.folder / "remote.tsv", cache=CacheOptions(str(tmp_path / "cache")))
    store.proxy.faults.busy, store.proxy.faults.cut = 0.05, 0.1
    batches_equal(store, dataset, 1, 2, "fork")
    assert store.proxy.counts["cut"] > 1
    requests = store.proxy.counts["requests"]
    batches_equal(store, dataset, 2, 2, "fork")
    assert store.proxy.counts["requests"] <= requests + 2


def test_workers_that_are_not_forked(store: Store, tmp_path: Path) -> None:
    dataset = make_dataset(store.folder / "remote.tsv", cache=CacheOptions(str(tmp_path / "cache")))
    batches_equal(store, dataset, 1, 1, "forkserver")
    assert len(list((tmp_path / "cache/entries").glob("*/*"))) == 24


def test_a_store_that_dies_for_a_while(store: Store) -> None:
    store.proxy.die()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(read_frames, "s3://corpus/train03.flac")
        with pytest.raises(TimeoutError):
            found.result(timeout=1.0)
        store.proxy.revive()
        np.testing.assert_array_equal(found.result(timeout=60), tell_tale(3, 2700))


def test_an_object_replaced_during_a_run(store: Store) -> None:
    dataset = make_dataset(store.folder / "remote.tsv")
    batches = dataset.batches(1, BatchLimits(max_tokens=12_000))
    plans = [batches.plan(number, 1, 0) for number in range(len(batches))]
    assert "net_input" in next(iter(BatchWorkers(dataset.collate_plan, iter(plans[:1]), 1, 2)))
    number = int(plans[0].indices[0])
    upload(store.proxy.url, "corpus", {f"train{number:02d}.flac": store.folder / "train00.flac"})
    try:
        (failure,) = BatchWorkers(dataset.collate_plan, iter(plans[:1]), 1, 2)  # the next epoch's workers
        assert failure.mistake and f"s3://corpus/train{number:02d}.flac was replaced during the run" in failure.message
    finally:
        name = f"train{number:02d}.flac"
        upload(store.proxy.url, "corpus", {name: store.folder / name})
