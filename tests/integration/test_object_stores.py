"""Audio in S3, with moto's server: the same samples as from files, faults that pass, faults that last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import fsspec.config
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
from tests.light_store import light_store, server_seconds
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


def test_the_first_request_finds_out_how_to_make_the_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    through: list[str] = []
    real = s3._get_through_s3fs
    monkeypatch.setattr(s3, "_get_through_s3fs", lambda url, *ends: through.append(url) or real(url, *ends))
    whole = (store.folder / "train03.flac").read_bytes()
    first = stores.get("s3://corpus/train03.flac", 0, 10)
    for begin, end in [(0, 10), (5, 2000), (100, 10**6)]:
        fetched = stores.get("s3://corpus/train03.flac", begin, end)
        assert fetched.data == whole[begin:end] and fetched.stamp == first.stamp
    assert stores.get("s3://corpus/train04.flac", 10**6, 10**7) == (b"", stores.head("s3://corpus/train04.flac"))
    assert through == ["s3://corpus/train03.flac"]
    with pytest.raises(Exception, match=r"SlowDown|reduce your request rate"):  # what the drill's store sends
        store.proxy.faults.busy = 1.0
        stores.get("s3://corpus/train03.flac", 0, 10)
    store.proxy.faults.busy = 0.0
    with pytest.raises(FileNotFoundError):  # s3fs's own error
        stores.get("s3://corpus/none.flac", 0, 10)
    assert through[1:] == ["s3://corpus/none.flac"] and "corpus" not in s3._buckets


def new_client() -> None:
    """As in a new process: the environment has changed."""
    from s3fs import S3FileSystem

    s3._buckets.clear()
    S3FileSystem.clear_instance_cache()


def test_credentials_by_the_conventions(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def headers() -> dict[str, str]:
        new_client()
        for _ in range(2):
            assert stores.get("s3://corpus/train03.flac", 0, 4).data == b"fLaC"
        return s3._buckets["corpus"]._signed("train03.flac")

    assert "Credential=testing/" in headers()["Authorization"] and "range" not in headers()["Authorization"]
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-a-role")
    assert headers()["X-Amz-Security-Token"] == "of-a-role"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    (tmp_path / "keys").write_text("[mine]\naws_access_key_id = other\naws_secret_access_key = testing\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert "Credential=other/" in headers()["Authorization"]
    monkeypatch.delenv("AWS_PROFILE")
    access = {"Bucket": "corpus", "Key": "train03.flac", "ACL": "public-read"}
    s3.file_system("s3://corpus/train03.flac")[0].call_s3("put_object_acl", **access)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True})
    assert "Authorization" not in headers()
    new_client()


def test_credentials_that_end_are_asked_for_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    stores.get("s3://corpus/train03.flac", 0, 4)
    assert s3._buckets["corpus"].signer.until == float("inf")
    s3._buckets["corpus"].signer = s3._buckets["corpus"].signer._replace(until=0.0)
    stores.get("s3://corpus/train03.flac", 0, 4)
    assert s3._buckets["corpus"].signer.until == float("inf")


def test_the_light_store_of_benchmarks(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "light").mkdir()
    (tmp_path / "light/a.flac").symlink_to(store.folder / "train03.flac")
    whole = (store.folder / "train03.flac").read_bytes()
    with light_store(tmp_path, 0.0) as (url, pid):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        new_client()
        for _ in range(2):
            fetched = stores.get("s3://light/a.flac", 5, 900)
            assert fetched.data == whole[5:900] and fetched.stamp == stores.head("s3://light/a.flac")
        with pytest.raises(FileNotFoundError):
            stores.get("s3://light/b.flac", 0, 5)
        assert server_seconds(pid) > 0
    new_client()


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
