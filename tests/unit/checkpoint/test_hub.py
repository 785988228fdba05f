"""Models of the Hugging Face hub in the local cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq import checkpoint_utils
from fairseq.checkpoint import fetching, hub, kinds
from fairseq.text_files import MissingFileError

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; nothing is downloaded."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def cached(cache: Path, model_id: str, *names: str) -> Path:
    folder = cache / f"models--{model_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    here = folder / "snapshots" / COMMIT
    here.mkdir(parents=True)
    for name in names:
        (here / name).write_text("{}")
    return here


def test_ids_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert hub.is_id("facebook/wav2vec2-base") and hub.is_id("facebook/mms-1b-all")
    paths = ("runs/last", "checkpoints/x.pt", "a", "a/b/c", "/a/b", "./a", "../a", "s3://a/b", "a/b.safetensors", "")
    assert not any(hub.is_id(path) for path in paths)


def test_what_is_in_the_cache_is_used(cache):
    here = cached(cache, "someone/small", "config.json", "model.safetensors", "adapter.fra.bin")
    assert fetching.local("someone/small") == str(here)
    assert kinds.exists("someone/small") and not kinds.is_checkpoint("someone/small")
    assert hub.folder("someone/small", ("adapter.fra.safetensors", "adapter.fra.bin")) == str(here)
    with pytest.raises(MissingFileError, match="not a complete model"):
        hub.folder("someone/small", ("adapter.deu.safetensors", "adapter.deu.bin"))


@pytest.mark.parametrize("names", [(), ("config.json",), ("model.safetensors",), ("config.json", "vocab.json")])
def test_an_incomplete_model_is_named(names, cache):
    cached(cache, "someone/half", *names)
    with pytest.raises(MissingFileError, match=r"someone/half is not .* HF_HUB_OFFLINE is set"):
        fetching.local("someone/half")
    assert not kinds.exists("someone/half")
    with pytest.raises(MissingFileError, match=r"model\.w2v_path=someone/half: someone/half is not a file"):
        checkpoint_utils.load_pretrained("someone/half")


def test_a_failed_download_is_named(cache, monkeypatch):
    from huggingface_hub import constants

    def no_network(*args: object, **kwargs: object) -> str:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    with pytest.raises(MissingFileError, match=r"could not be downloaded .*\(no route to host\)\.$"):
        hub.folder("someone/none")


def test_without_the_client_it_is_asked_for(cache, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingFileError, match="pip install 'transformers>=4.46' safetensors huggingface_hub"):
        hub.folder("someone/none")


@pytest.mark.process
def test_no_client_is_imported_for_a_path(tmp_path):
    """Importing it takes half a second."""
    code = "import sys; from fairseq.checkpoint import kinds; kinds.exists('a/b.pt'); sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ}).returncode == 0
