"""What is installed: the stock YAMLs and scripts work from any folder, without the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import fairseq

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that a wheel of this checkout holds."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return folder


@pytest.mark.process
def test_every_example_file_is_in_it(built: Path) -> None:
    examples = ROOT / "examples" / "wav2vec"
    wanted = [*examples.glob("*.py"), *(path for path in examples.glob("config/*/*") if path.is_file())]
    assert len(wanted) > 20
    for path in wanted:
        copy = built / "fairseq" / "examples" / path.relative_to(examples.parent)
        assert copy.is_file() and not copy.is_symlink() and copy.read_bytes() == path.read_bytes()


def in_built(built: Path, code: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(built), "OMP_NUM_THREADS": "1"}
    check = f"import sys, fairseq; assert fairseq.__file__.startswith({str(built)!r}), fairseq.__file__\n"
    done = subprocess.run(
        [sys.executable, "-c", check + code], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.process
def test_stock_configs_are_found_from_any_folder(built: Path, tmp_path: Path) -> None:
    words = [
        "x",
        "--config-name",
        "wav2vec2_base_librispeech_hpu",
        "--cfg",
        "job",
        "--package",
        "optimization.max_update",
    ]
    assert (
        in_built(built, f"sys.argv = {words!r}\nfrom fairseq_cli import hydra_train as h\nh.cli_main()", tmp_path)
        == "400000\n"
    )


@pytest.mark.process
def test_scripts_are_commands(built: Path, tmp_path: Path) -> None:
    """One makes manifests (of an empty folder, which it refuses by its own name); all others say how they are used."""
    code = (
        "from fairseq_cli import scripts\n"
        "for command in (scripts.libri_labels, scripts.prepare_labels, scripts.make_ngram):\n"
        "    sys.argv[1:] = ['--help']\n"
        "    try: command()\n"
        "    except SystemExit as stop: assert stop.code == 0, stop\n"
        "sys.argv[1:] = [sys.argv[0] + 'nowhere', '--dest', '.']\n"
        "try: scripts.manifest()\n"
        "except SystemExit as stop: print(stop)\n"
    )
    told = in_built(built, code, tmp_path)
    for name in ("fairseq-libri-labels", "fairseq-prepare-labels", "fairseq-make-ngram"):
        assert f"usage: {name} " in told
    assert told.splitlines()[-1].startswith("fairseq-manifest: ")


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Message:
    """What the package index would get."""
    folder = tmp_path_factory.mktemp("metadata")
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return Parser().parsestr((folder / "fairseq_hpu.egg-info" / "PKG-INFO").read_text(encoding="utf-8"))


@pytest.mark.process
def test_long_description_has_no_link_or_picture_of_a_checkout(metadata: Message) -> None:
    text = str(metadata.get_payload())
    assert text.lstrip().startswith("# fairseq-hpu") and metadata["Description-Content-Type"] == "text/markdown"
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert targets and [target for target in targets if not target.startswith("https://")] == []
    assert "scaling (`docs/scaling.md`)" in text  # the path stays, as text


@pytest.mark.process
def test_versions_agree(metadata: Message) -> None:
    """Of the package, its citation and its release notes; and of Python in the metadata and in CI."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert metadata["Version"] == fairseq.__version__ == citation["version"] == newest[1]
    declared = [name.rpartition(" ")[2] for name in metadata.get_all("Classifier", []) if "3." in name]
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    assert declared == workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert set(metadata["Requires-Python"].split(",")) == {f">={declared[0]}", f"<3.{int(declared[-1][2:]) + 1}"}
