"""fairseq-data-report as a command: Ctrl-C in the middle, with worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import REPOSITORY

LINES = 4_000


@pytest.mark.process
def test_ctrl_c_while_decoding(tmp_path: Path) -> None:
    pytest.importorskip("youplot", reason="extra report")
    wave = 0.1 * np.random.default_rng(1).standard_normal(48_000)
    soundfile.write(tmp_path / "a.flac", wave, 16_000, subtype="PCM_16")
    manifest, page = tmp_path / "train.tsv", tmp_path / "report.html"
    manifest.write_text(f"{tmp_path}\n" + "a.flac\t48000\n" * LINES)
    command = [sys.executable, "-m", "fairseq_cli.data_report", manifest, "--html", page, "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if "decoding" in line:
            assert "with 2 processes" in line
            break
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; nothing was written" in errors, errors
    assert "Traceback" not in errors and output == "" and time.monotonic() - began < 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.flac", "train.tsv"]
