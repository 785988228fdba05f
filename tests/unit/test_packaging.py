"""What is installed: the stock YAMLs and scripts work from any folder, without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
