"""The manifest builder, run as users run it."""

from __future__ import annotations

import importlib.util
import multiprocessing
import multiprocessing.context
import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from fairseq.data.audio.manifest import Manifest
from tests.unit.data.small_corpus import without_length, without_length_tag

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "wav2vec" / "wav2vec_manifest.py"


def write_audio(path: Path, frames: int = 300) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(frames).standard_normal(frames) * 0.1, 16000, subtype="PCM_16")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve FLAC files in two folders, and a WAV."""
    for number in range(12):
        write_audio(tmp_path / "audio" / "ab"[number % 2] / f"{number:02d}.flac", 300 + number)
    write_audio(tmp_path / "audio" / "c" / "x.wav", 500)
    return tmp_path / "audio"


def run(*arguments: object, status: int = 0, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, cwd=cwd or SCRIPT.parent
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def call(script: ModuleType, *arguments: object) -> int:
    """As `run`, in this process: where files other than FLAC are read, starting takes seconds."""
    return script.main(script.get_parser().parse_args([*map(str, arguments)]))


def names(manifest: Path) -> list[str]:
    loaded = Manifest(manifest)
    return [loaded.name(i) for i in range(len(loaded))]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wav2vec_manifest", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.process
def test_two_columns_sorted_and_split_by_seed(root: Path, tmp_path: Path) -> None:
    run(root, "--dest", tmp_path / "m", "--valid-percent", 0.3, "--seed", 7)
    train, valid = Manifest(tmp_path / "m" / "train.tsv"), Manifest(tmp_path / "m" / "valid.tsv")
    assert train.root == valid.root == str(root.resolve())
    everything = sorted(f"{'ab'[n % 2]}/{n:02d}.flac" for n in range(12))
    draw = random.Random(7)  # fairseq's rule, over the sorted names
    expected = {name: draw.random() <= 0.3 for name in everything}
    assert names(tmp_path / "m" / "train.tsv") == [name for name in everything if not expected[name]]
    assert names(tmp_path / "m" / "valid.tsv") == [name for name in everything if expected[name]]
    for i in range(len(train)):
        assert train.sizes[i] == 300 + int(Path(train.name(i)).stem) == soundfile.info(train.file(i)).frames
    assert sorted(os.listdir(tmp_path / "m")) == ["train.tsv", "valid.tsv"]


def test_relative_root_several_extensions_and_dest_inside_root(
    script: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    for _ in range(2):  # the second time there are manifests inside the root
        call(script, "audio", "--dest", "audio/manifest", "--ext", "flac, .wav", "--valid-percent", 0)
        assert (
            names(root / "manifest" / "train.tsv")[-1] == "c/x.wav"
            and len(names(root / "manifest" / "train.tsv")) == 13
        )
    assert (root / "manifest" / "train.tsv").read_text().splitlines()[0] == str(root.resolve())
    assert not (root / "manifest" / "valid.tsv").exists()


@pytest.mark.process
def test_path_must_contain(root: Path, tmp_path: Path) -> None:
    run(root, "--dest", tmp_path, "--path-must-contain", "/a/", "--valid-percent", 0)
    assert names(tmp_path / "train.tsv") == [f"a/{n:02d}.flac" for n in range(0, 12, 2)]


def test_unreadable_files_are_reported_and_move_no_other_file(
    script: ModuleType, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(script, root, "--dest", tmp_path / "before", "--valid-percent", 0.4)
    (root / "a" / "00.flac").write_bytes(b"")
    (root / "a" / "02.flac").write_bytes(b"no audio")
    whole = (root / "b" / "03.flac").read_bytes()
    (root / "b" / "03.flac").write_bytes(whole[:43])
    (root / "b" / "05.flac").unlink()
    (root / "b" / "05.flac").symlink_to(root / "gone.flac")
    without_length(root / "b" / "07.flac").replace(root / "b" / "07.flac")
    call(script, root, "--dest", tmp_path / "after", "--valid-percent", 0.4)
    report = dict(line.split("\t") for line in (tmp_path / "after" / "unreadable.tsv").read_text().splitlines())
    assert list(report) == ["a/00.flac", "a/02.flac", "b/03.flac", "b/05.flac"]
    assert report["a/00.flac"] == "the file is empty" and "No such file" in report["b/05.flac"]
    # counted
    assert "b/07.flac\t307" in "".join((tmp_path / "after" / split).read_text() for split in ("train.tsv", "valid.tsv"))
    for split in ("train.tsv", "valid.tsv"):
        assert names(tmp_path / "after" / split) == [
            name for name in names(tmp_path / "before" / split) if name not in report
        ]
    assert call(script, root, "--dest", tmp_path / "after", "--strict") == 1 and "a/00.flac" in capsys.readouterr().err
    assert (tmp_path / "after" / "train.tsv").exists()


@pytest.mark.process
def test_an_old_report_goes_when_all_is_well(root: Path, tmp_path: Path) -> None:
    broken = root / "a" / "00.flac"
    data = broken.read_bytes()
    broken.write_bytes(b"")
    run(root, "--dest", tmp_path)
    assert (tmp_path / "unreadable.tsv").exists()
    broken.write_bytes(data)
    run(root, "--dest", tmp_path, "--strict")
    assert not (tmp_path / "unreadable.tsv").exists()


@pytest.mark.process
def test_files_of_several_names_come_once_and_links_may_loop(root: Path, tmp_path: Path) -> None:
    (root / "z_link.flac").symlink_to(root / "a" / "00.flac")
    (root / "again").symlink_to(root / "b")
    (root / "b" / "up").symlink_to(root)
    os.link(root / "a" / "02.flac", root / "zz_hard.flac")
    elsewhere = write_audio(tmp_path / "elsewhere" / "far.flac", 444)
    (root / "out").symlink_to(elsewhere.parent)
    (root / ".hidden").mkdir()
    write_audio(root / ".hidden" / "no.flac")
    run(root, "--dest", tmp_path / "m", "--valid-percent", 0.5)
    listed = names(tmp_path / "m" / "train.tsv") + names(tmp_path / "m" / "valid.tsv")
    real = [os.path.realpath(root / name) for name in listed]
    assert len(listed) == len(set(real)) == 13
    assert str(elsewhere.resolve()) in real and not any("hidden" in name or name == "zz_hard.flac" for name in listed)


@pytest.mark.process
def test_an_old_valid_manifest_must_not_share_files_with_a_new_train_manifest(root: Path, tmp_path: Path) -> None:
    run(root, "--dest", tmp_path, "--valid-percent", 0.5)
    before = (tmp_path / "train.tsv").read_bytes()
    message = run(root, "--dest", tmp_path, "--valid-percent", 0, status=1)
    assert "valid.tsv exists and lists" in message and "--valid-percent" in message
    assert (tmp_path / "train.tsv").read_bytes() == before
    run(root / "a", "--dest", tmp_path / "a", "--valid-percent", 0)
    run(root / "b", "--dest", tmp_path / "b", "--valid-percent", 0)
    # LibriSpeech's way: a folder of its own for validation
    (tmp_path / "b" / "train.tsv").rename(tmp_path / "a" / "valid.tsv")
    run(root / "a", "--dest", tmp_path / "a", "--valid-percent", 0)


@pytest.mark.process
def test_names_that_no_manifest_can_hold(root: Path, tmp_path: Path) -> None:
    write_audio(root / "a" / "tab\there.flac")
    run(root, "--dest", tmp_path, "--valid-percent", 0)
    assert len(names(tmp_path / "train.tsv")) == 12
    assert "tab or a line break" in (tmp_path / "unreadable.tsv").read_text()


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--valid-percent", 5], "--valid-percent is 5"),
        (["--ext", "mp3"], "no .mp3 file"),
        (["--path-must-contain", "nowhere"], "nowhere"),
        (["--workers", 0], "--workers is 0"),
        (["--valid-percent", 1], "all 12 files would go to valid.tsv, and none to train.tsv"),
        (["--valid", "nowhere"], "the folder nowhere does not exist"),
        (["--valid", "."], "has no .flac files"),
    ],
)
def test_arguments_that_cannot_be_meant(root: Path, tmp_path: Path, arguments: list, named: str) -> None:
    assert named in run(root, "--dest", tmp_path / "m", *arguments, status=1)
    assert not (tmp_path / "m").exists()


@pytest.mark.process
@pytest.mark.parametrize(
    "dest, named", [("a.tsv", "is a file"), ("new/train.tsv", "--dest new"), ("train.tsv/", "--dest .")]
)
def test_dest_is_a_folder(root: Path, dest: str, named: str) -> None:
    (root / "a.tsv").write_text("")
    message = run(root, "--dest", dest, cwd=root, status=1)
    assert message.startswith(f"error: --dest is {dest}") and "must be a folder" in message and named in message
    assert not (root / "new").exists() and not (root / "train.tsv").exists()


def test_extensions_in_capitals(script: ModuleType, root: Path) -> None:
    write_audio(root / "a" / "LOUD.FLAC")
    for wanted in ("flac", "FLAC"):
        assert "a/LOUD.FLAC" in [path for path, _ in script.find_files(str(root), [wanted])[0]]


@pytest.mark.process
def test_a_folder_for_validation(root: Path, tmp_path: Path) -> None:
    """Also one inside the root, whose files then are not trained on."""
    write_audio(tmp_path / "elsewhere" / "far.flac", 444)
    run(root, "--dest", tmp_path / "m", "--valid", tmp_path / "elsewhere")
    assert len(names(tmp_path / "m" / "train.tsv")) == 12
    valid = Manifest(tmp_path / "m" / "valid.tsv")
    assert (valid.file(0), valid.sizes.tolist()) == (str(tmp_path / "elsewhere" / "far.flac"), [444])
    run(root, "--dest", tmp_path / "m", "--valid", root / "b")
    assert names(tmp_path / "m" / "train.tsv") == [f"a/{number:02d}.flac" for number in range(0, 12, 2)]
    assert (
        Manifest(tmp_path / "m" / "valid.tsv").root == str(root / "b") and len(names(tmp_path / "m" / "valid.tsv")) == 6
    )
    assert "not allowed with" in run(root, "--valid", root / "b", "--valid-percent", 0.1, status=2)
    assert "none to train.tsv" in run(root, "--dest", tmp_path / "m", "--valid", root, status=1)


def test_names_that_are_not_utf8_and_lengths_that_are_counted(script: ModuleType, root: Path, tmp_path: Path) -> None:
    soundfile.write(root / "untagged.mp3", np.random.default_rng(0).standard_normal(40_000) * 0.1, 16000, format="MP3")
    without_length_tag(root / "untagged.mp3").rename(root / "untagged.mp3")
    (root / "c" / "x.wav").rename(os.fsdecode(os.fsencode(root) + b"/caf\xe9.wav"))
    assert call(script, root, "--dest", tmp_path, "--ext", "wav,mp3", "--valid-percent", 0, "--strict") == 0
    manifest = Manifest(tmp_path / "train.tsv")
    assert os.fsencode(manifest.name(0)) == b"caf\xe9.wav" and manifest.sizes[0] == 500
    assert manifest.name(1) == "untagged.mp3" and 40_000 <= manifest.sizes[1] < 40_000 + 3 * 1152


@pytest.mark.process
def test_many_files_by_several_processes(root: Path, tmp_path: Path) -> None:
    data = (root / "a" / "00.flac").read_bytes()
    (root / "many").mkdir()
    for number in range(1100):
        (root / "many" / f"{number:04d}.flac").write_bytes(data)
    run(root, "--dest", tmp_path / "one", "--workers", 1)
    run(root, "--dest", tmp_path / "two", "--workers", 2)
    for split in ("train.tsv", "valid.tsv"):
        assert (tmp_path / "one" / split).read_bytes() == (tmp_path / "two" / split).read_bytes()
    assert len(names(tmp_path / "two" / "train.tsv")) + len(names(tmp_path / "two" / "valid.tsv")) == 1112


def test_headers_by_hand_agree_with_libsndfile(script: ModuleType, tmp_path: Path) -> None:
    for frames in (1, 4096, 70_000):
        path = write_audio(tmp_path / f"{frames}.flac", frames)
        assert (
            script.flac_frames(path.read_bytes()[:42])
            == soundfile.info(path).frames
            == script.read_header(str(path)).frames
        )
    assert script.flac_frames(b"ID3" + bytes(50)) is None
    assert script.read_header(str(write_audio(tmp_path / "a.wav", 123))) == (123, "", None)


def test_a_failed_write_leaves_the_old_file(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    script.write_lines(str(path), ["old"])

    def lines() -> object:
        yield "new"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        script.write_lines(str(path), lines())
    assert path.read_text() == "old\n" and os.listdir(tmp_path) == ["train.tsv"]


def test_a_link_to_itself_takes_no_other_file_with_it(script: ModuleType, root: Path) -> None:
    before, _ = script.find_files(str(root), ["flac"])
    for name in ("a/0me", "a/zme"):
        (root / name).symlink_to(root / name)
    found, closed = script.find_files(str(root), ["flac"])
    assert found == before
    assert sorted(line.split("\t")[0] for line in closed) == ["a/0me", "a/zme"]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_processes_are_forked_whatever_pythons_default_is(
    root: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: object) -> None:
        raise AssertionError("not forked")

    monkeypatch.setattr(script, "_FEW", 0)
    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "_Popen", staticmethod(refuse))
    default = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)  # the default of Python 3.14 is not fork either
    try:
        headers = list(script.read_headers([str(path) for path in sorted(root.rglob("*.flac"))], 2))
    finally:
        multiprocessing.set_start_method(default, force=True)
    assert [header.frames for header in headers] == [*range(300, 312, 2), *range(301, 312, 2)]
