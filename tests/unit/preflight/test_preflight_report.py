"""How findings are told."""

from __future__ import annotations

import json

from fairseq.preflight.report import Report, Section, gigabytes, percent


def report() -> Report:
    data = Section("Data")
    data.say("train", "words " * 40)
    data.table(["", "B", "samples"], [["train", "8", "109,599"], ["valid", "16", "1"]])
    data.values["files"] = 3
    data.problem("little-audio", "what " * 60, "how")
    data.problem("other", "something", "")
    data.notes.append("a note")
    return Report("headline", [data, Section("Empty")])


def test_lines_are_aligned_and_short_and_the_verdict_comes_last() -> None:
    lines = report().text().split("\n")
    assert max(map(len, lines)) <= 120
    assert lines[0] == "headline" and "Empty" not in lines
    assert lines[-2:] == ["  [other]", "    something"]
    head, first, second = (line for line in lines if line.endswith(("samples", "109,599", " 1")))
    assert len(head) == len(first) == len(second)
    assert lines.index("2 problems") > lines.index("Notes")


def test_status_and_json() -> None:
    found = report()
    assert found.status == 1
    values = json.loads(json.dumps(found.as_json()))
    assert values["data"] == {"files": 3} and values["status"] == 1
    assert [problem["name"] for problem in values["problems"]] == ["little-audio", "other"]
    clean = Report("headline", [Section("Data")])
    assert clean.status == 0 and clean.text().endswith("Nothing found that would stop or slow this run.")


def test_numbers() -> None:
    assert [gigabytes(size * 2**30) for size in (0.123, 7.06, 128)] == ["0.12", "7.1", "128"]
    assert [percent(share) for share in (0.0123, 0.5)] == ["1.2 %", "50 %"]
