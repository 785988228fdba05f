"""What preflight finds in a manifest's files."""

from __future__ import annotations

from pathlib import Path

from fairseq.data.audio.manifest import Manifest
from fairseq.preflight import corpus
from tests.unit.data.small_corpus import RATE, write_corpus


def look_at(manifest: Path) -> dict[str, list[str]]:
    lines = Manifest(manifest)
    return {kind: files for kind, (files, _) in corpus._look_at(lines, list(range(len(lines))), RATE).items() if files}


def test_a_segment_ends_within_its_file(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, [8000])
    manifest.write_text(f"{tmp_path}\ntrain00.flac\t100\t0\ntrain00.flac\t100\t7900\ntrain00.flac\t100\t7901\n")
    (found,) = look_at(manifest)["manifest-lengths"]
    assert found == f"{tmp_path}/train00.flac:7901-8001 (8,000 samples, a segment that ends at 8,001 in the manifest)"


def test_whole_files_are_as_long_as_stated(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path, [8000, 8000])
    manifest.write_text(f"{tmp_path}\ntrain00.flac\t100\ntrain01.flac\t8001\nno.flac\t5\n")
    found = look_at(manifest)
    assert [line.split(" ")[1] for line in found["manifest-lengths"]] == ["(8,000", "(8,000"]
    assert found["files-missing"] == [f"{tmp_path}/no.flac"]
