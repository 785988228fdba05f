"""`fairseq-doctor`: the verdict first, runs side by side, JSON, exit statuses, bands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fairseq.doctor import findings
from fairseq.doctor.findings import Finding, Severity
from fairseq.doctor.records import Records
from fairseq_cli.doctor import cli_main


@pytest.fixture(autouse=True)
def causes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One cause: the last accuracy is low."""

    def low(records: Records) -> Finding | None:
        value, updates = records.training.values("accuracy")[-1], records.training.updates
        if value >= 0.1:
            return None
        severity: Severity = "note" if value > 0.05 else "error"
        evidence = [f"It is {value:g}.", "It was 0.02 in the beginning."]
        return Finding(
            "low", severity, "The accuracy is low.", evidence, "Train longer.", int(updates[0]), int(updates[-1])
        )

    monkeypatch.setattr(findings, "CAUSES", {"low": low})
    monkeypatch.setenv("FAIRSEQ_BANDS", str(tmp_path / "bands"))


def run(folder: Path, accuracy: float, seed: int = 1, lr: float = 0.1, recorded: bool = True) -> str:
    folder.mkdir()
    rows = [
        {
            "split": split,
            "num_updates": 20 * i,
            "epoch": 1,
            "accuracy": 0.02 + (accuracy - 0.02) * i / 50,
            "gnorm": "nan",
        }
        for i in range(1, 51)
        for split in ("train_inner", "valid")[: 1 + (i % 10 == 0)]
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "common": {"seed": seed, "log_file": str(folder / "log")},
        "optimization": {"lr": [lr], "max_update": 2000},
        "model": {"_name": "m"},
        "checkpoint": {"save_dir": str(folder)},
    }
    if recorded:
        (folder / "run.jsonl").write_text(json.dumps({"num_updates": 0, "config": config}) + "\n")
    else:
        state = {"model": {}, "cfg": config, "optimizer_history": [{"num_updates": 1000}], "extra_state": {}}
        torch.save(state, folder / "checkpoint_last.pt")
    return str(folder)


def test_the_verdict_comes_first_then_evidence_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").mkdir()
    path = run(tmp_path / "bad" / "run", 0.04)
    (tmp_path / "bad" / "run" / "run.lock").touch()
    assert cli_main([path]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: 1 error (update 1,000 of 2,000, not over)",
        "",
        "  error: low: The accuracy is low.",
        "      It is 0.04. It was 0.02 in the beginning. (update 20 to 1,000)",
        "      Change: Train longer.",
        "      More: docs/doctor.md#low",
    ]


def test_notes_are_not_findings_for_the_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_main([run(tmp_path / "note", 0.08)]) == 0
    assert "nothing wrong, 1 note" in capsys.readouterr().out
    assert cli_main([run(tmp_path / "well", 0.3)]) == 0
    assert capsys.readouterr().out.endswith("well: nothing wrong (update 1,000 of 2,000)\n")


def test_an_input_that_cannot_be_read_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = run(tmp_path / "good", 0.3)
    assert cli_main([good, str(tmp_path / "nothing")]) == 2
    assert "nothing does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli_main([])
    assert ended.value.code == 2


def test_runs_are_compared_by_config_and_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(tmp_path / "first", 0.3)
    second = run(tmp_path / "second", 0.2, lr=0.5, recorded=False)  # its config is in its checkpoint
    assert cli_main([first, second]) == 0
    text = capsys.readouterr().out
    comparison = text[text.index("comparison") :].splitlines()
    assert comparison == [
        "comparison",
        f"  [1] {first}",
        f"  [2] {second}",
        "",
        "  config differences",
        "                     [1]    [2]",
        "    optimization.lr  [0.1]  [0.5]",
        "",
        '  accuracy, validation "valid"',
        "    update  [1]          [2]",
        "    400     0.132        0.092",
        "    600     0.188        0.128",
        "    800     0.244        0.164",
        "    1,000   0.3          0.2",
        "    last    0.3 (1,000)  0.2 (1,000)",
    ]


def test_json_has_everything_and_no_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [run(tmp_path / "a", 0.3), run(tmp_path / "b", 0.01)]
    assert cli_main([*paths, "--json", "-"]) == 1
    said = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [one["is_well"] for one in said["runs"]] == [True, False]
    assert said["runs"][1]["findings"][0]["name"] == "low" and said["runs"][1]["band"] is None
    assert said["comparison"]["curves"][0]["last"][0] == {"update": 1000, "value": pytest.approx(0.3)}
    file = tmp_path / "out.json"
    assert cli_main([*paths, "--json", str(file)]) == 1
    assert json.loads(file.read_text()) == said and "1 error" in capsys.readouterr().out


def test_a_band_of_own_runs_is_made_and_then_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [run(tmp_path / f"seed{seed}", 0.3 + seed / 100, seed=seed) for seed in (1, 2, 3)]
    for config in tmp_path.glob("seed*/run.jsonl"):  # what identifies a band
        line = json.loads(config.read_text())
        line["config"] |= {"criterion": {"_name": "c"}, "task": {"_name": "t"}, "dataset": {"max_tokens": 100}}
        line["config"]["distributed_training"] = {"distributed_world_size": 1}
        config.write_text(json.dumps(line) + "\n")
    assert cli_main([*runs[:2], "--add-band", "mine"]) == 2 and "at least 3" in capsys.readouterr().err
    assert cli_main([*runs, "--add-band", "mine"]) == 0
    assert "mine.json (version 1, accuracy, updates 20 to 1,000)" in capsys.readouterr().out
    assert cli_main([*runs, "--add-band", "mine"]) == 0 and "version 2" in capsys.readouterr().out
    assert cli_main([runs[0], "--json", "-"]) == 0
    band = json.loads(capsys.readouterr().out)["runs"][0]["band"]
    assert (band["name"], band["version"], band["where"], band["update"]) == ("mine", 2, "inside", 1000)
    assert cli_main([runs[0]]) == 0
    assert "  inside the band mine: accuracy" in capsys.readouterr().out
