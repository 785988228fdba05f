"""The record of finished recordings after kills, with other settings, and next to another process."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq.corpora.cuts.journal import Entry, Journal
from fairseq.corpora.cuts.recording import Recording
from fairseq.corpora.cuts.summary import Summary

SETTINGS: dict[str, object] = {"manifest": "1f", "longest": 25.0}
FOUND = Recording(8000, 80000, 40000, [(0, 24000), (40000, 16000)], [(70000, 8000)])


def opened(folder: Path, **other: object) -> Journal:
    return Journal(str(folder / "train.segments.jsonl"), 4, {**SETTINGS, **other})


def test_entries_come_back_in_the_manifests_order(tmp_path: Path) -> None:
    entries = [Entry(2, FOUND), Entry(0, None, "it is a picture")]
    with opened(tmp_path) as journal:
        for entry in entries:
            journal.add(entry)
    with opened(tmp_path) as journal:
        assert list(journal.entries()) == entries[::-1]
        assert journal.waiting().tolist() == [0, 1, 3], "what could not be read is tried again"
        journal.add(Entry(0, FOUND))
        assert journal.waiting().tolist() == [1, 3]
        assert list(journal.entries()) == [Entry(0, FOUND), Entry(2, FOUND)]


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_line_cut_off_by_a_kill_is_done_again(tmp_path: Path, kept: int) -> None:
    with opened(tmp_path) as journal:
        journal.add(Entry(1, FOUND))
        whole = Path(journal.path).read_bytes()
        journal.add(Entry(3, FOUND))
        second = Path(journal.path).read_bytes()[len(whole) :]
    Path(journal.path).write_bytes(whole + second[:kept])
    with opened(tmp_path) as journal:
        assert journal.waiting().tolist() == [0, 2, 3]
        assert Path(journal.path).read_bytes() == whole


def test_a_kill_while_the_first_line_is_written(tmp_path: Path) -> None:
    (tmp_path / "train.segments.jsonl").write_text('{"manif')
    with opened(tmp_path) as journal:
        assert len(journal.waiting()) == 4
    opened(tmp_path).close()


def test_a_damaged_line_is_done_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path) as journal:
        for line in (1, 2):
            journal.add(Entry(line, FOUND))
    text = Path(journal.path).read_text().replace('"line":1,', '"line":"', 1)
    Path(journal.path).write_text(text)
    with opened(tmp_path) as journal:
        assert journal.waiting().tolist() == [0, 1, 3]
    assert "damaged" in caplog.text


def test_other_settings_are_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(ValueError, match=r"longest 25.0, now 20.0\). Choose another --dest"):
        opened(tmp_path, longest=20.0)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(ValueError, match="another process"):
        opened(tmp_path)


def test_summary_adds_up() -> None:
    summary = Summary.of([Entry(0, FOUND), Entry(1, Recording(16000, 16000, 0, [], [])), Entry(2, None, "no audio")])
    assert (summary.total, summary.kept, summary.short, summary.pauses) == (11.0, 5.0, 1.0, 5.0)
    found = summary.to_dict({2: "c.flac"})
    assert found["unreadable"] == {"c.flac": "no audio"} and found["recordings_without_speech"] == 1
    assert found["seconds_per_segment"] == {"mean": 2.5, "p5": 2.0, "p25": 2.0, "p50": 2.0, "p75": 3.0, "p95": 3.0}
    table = summary.table(2.0).splitlines()
    assert table[3].split() == ["kept", "0.00", "45.5", "%", "segments:", "2"]
    assert Summary.of([]).table(2.0).count("\n") == 5
