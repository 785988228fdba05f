"""The report of runs as a page: what it shows of which records, and the links between findings and plots."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fairseq.doctor import findings
from fairseq.doctor.bands import Band
from fairseq.doctor.findings import Finding
from fairseq.doctor.records import Records, Rows
from fairseq.doctor.report import columns, settings
from fairseq.doctor.report.codebook import codebook_parts
from fairseq.doctor.report.page import run_page, verdict
from fairseq.doctor.report.plots import plots_of, points_for
from fairseq.doctor.report.runs import Run, curve_of, make_run, names_of
from fairseq.doctor.report.settings import Stock
from fairseq.pages.charts import Chart, HeatMap, Table
from fairseq.pages.page import Page
from fairseq_cli import report

COLLAPSE = Finding(
    "codebook-collapse", "error", "The codebook collapses.", ["It fell."], "Change it.", 40, 60, 1, "code_perplexity"
)  # fmt: skip
OVERFIT = Finding("overfit", "note", "It overfits.", ["It rose."], "Stop.", 60, 60, 1, "loss", "dev")


def rows(updates: int = 3, step: int = 20, **values: object) -> Rows:
    made = Rows()
    for number in range(1, updates + 1):
        made.append({"num_updates": number * step, "epoch": 1, **values, "loss": 7.0 - number})
    return made


def run(name: str = "one", found: tuple[Finding, ...] = (), **records: object) -> Run:
    given = {"rows": {"train_inner": rows(code_perplexity=100.0), "dev": rows(1, 60)}, **records}
    return Run(name, Records(**given), found)  # type: ignore[arg-type]


def charts(page: Page) -> dict[str, Chart]:
    return {part.key: part for section in page.sections for part in section.parts if isinstance(part, Chart)}


def tables(page: Page) -> dict[str, Table]:
    return {part.caption: part for section in page.sections for part in section.parts if isinstance(part, Table)}


def test_one_run_has_training_and_validation_in_one_plot() -> None:
    loss = charts(run_page([run()]))["loss"]
    assert loss.x.tolist() == [20, 40, 60] and loss.joined and loss.wide
    assert loss.series["training"].tolist() == [6, 5, 4]
    assert np.array_equal(loss.series["dev"], [np.nan, np.nan, 6], equal_nan=True)
    assert "training 4 at update 60, dev 6 at update 60" in loss.summary


def test_several_runs_have_a_plot_for_training_and_one_for_each_set() -> None:
    other = run("two", rows={"train_inner": rows(step=30), "dev": rows(2, 60)})
    drawn = charts(run_page([run(), other]))
    assert drawn["loss"].x.tolist() == [20, 30, 40, 60, 90] and list(drawn["loss"].series) == ["one", "two"]
    assert list(drawn["loss-dev"].series) == ["one", "two"] and drawn["loss-dev"].title == "Loss, dev"


def test_a_finding_and_its_place_in_the_curve_lead_to_each_other() -> None:
    moving = {"train_inner": rows(), "dev": rows(1, 60)}
    for update, row in enumerate(moving["train_inner"].rows):
        row["code_perplexity"] = 300 - 100 * update  # type: ignore[index]
    page = run_page([run(found=(COLLAPSE, OVERFIT), rows=moving)])
    collapse, overfit = page.notices
    assert (collapse.name, collapse.links[0].target) == ("codebook-collapse", "chart-code_perplexity")
    assert overfit.links[0] == ("Show update 60 in the plot of loss", "chart-loss")
    mark = charts(page)["code_perplexity"].marks[0]
    assert (mark.begin, mark.end, mark.severity, mark.finding) == (40, 60, "error", "codebook-collapse")
    several = run_page([run("two"), run(found=(OVERFIT,), rows=moving)])
    assert several.notices[0].name == "2-overfit" and several.notices[0].links[0].target == "chart-loss-dev"
    assert charts(several)["loss-dev"].marks[0].label == "one, from update 60"
    # a finding whose plot is not on the page has no link
    assert run_page([run(found=(COLLAPSE._replace(metric="gnorm"),))]).notices[0].links == []


def test_verdicts() -> None:
    assert verdict([run()]) == "Nothing found. The run has not ended; its last records are of update 60."
    ended = run(found=(COLLAPSE, OVERFIT, OVERFIT), is_over=True)
    assert verdict([ended]) == "1 error, 2 notes. The run has ended; its last records are of update 60."
    assert verdict([ended, run()]) == "1 error, 2 notes. 2 runs."


def test_a_run_without_rows_has_a_page() -> None:
    pytest.importorskip("youplot", reason="extra report")
    assert "last records are of update 0" in run_page([Run("none", Records(), ())]).html()


def test_values_that_are_not_known_are_shown_all_the_same() -> None:
    """A criterion of the user's own logs what it likes; a constant is not worth a plot."""
    own = run(rows={"train_inner": Rows([{"num_updates": u, "mine": u / 2, "fixed": 1, "a": "x"} for u in (1, 2)])})
    page = run_page([own])
    assert [section.title for section in page.sections if section.title == columns.OTHER]
    assert set(charts(page)) == {"mine"}


def test_rows_of_one_update_appear_once_and_infinite_values_are_gaps() -> None:
    twice = Rows([{"num_updates": 1, "loss": 5.0}, {"num_updates": 1, "loss": 4.0}, {"num_updates": 2, "loss": "inf"}])
    curve = curve_of(twice, "loss")
    assert curve.x.tolist() == [1, 2] and np.array_equal(curve.y, [4, np.nan], equal_nan=True)


def test_the_band_is_drawn_where_the_run_is_compared_with_it() -> None:
    limits = {"updates": [20, 40], "mean": [1, 2], "deviation": [1, 1], "low": [0, 1], "high": [2, 4]}
    band = Band("b", 1, "", "", 8, "loss", "valid", False, False, None, {}, **limits)  # type: ignore[arg-type]
    with_band = Run("one", run().records, (), band)
    expected = charts(run_page([with_band]))["loss"].expected
    assert expected is not None and expected.name == "band b"
    assert np.array_equal(expected.high, [2, 4, np.nan], equal_nan=True)
    drawn = charts(run_page([with_band, run("two")]))
    assert drawn["loss"].expected is None  # the band is of validation
    assert tables(run_page([with_band]))["Results"].rows[-1][1] == "band b: begins at update 20"


def test_shares_of_the_time_add_up_to_all_of_it() -> None:
    timed = run(rows={"train_inner": rows(time_forward=30.0, time_backward=50.0, data_wait=15.0)})
    times = charts(run_page([timed]))["times"]
    assert times.stacked and list(times.series) == ["forward", "backward", "waiting for data", "other"]
    assert times.series["other"].tolist() == [5, 5, 5]
    assert "times" not in charts(run_page([run(rows={"train_inner": rows(data_wait=15.0)})]))  # an older version's
    finding = COLLAPSE._replace(metric="time_forward")
    assert charts(run_page([run(found=(finding,), rows={"train_inner": timed.records.training})]))["times"].marks


def test_codewords_are_sorted_by_use_and_counted() -> None:
    counts = ([[0, 6, 2]], [[0, 0, 4]])
    lines = [{"num_updates": 10 * n, "split": "train", "counts": c, "changed": 0.5} for n, c in enumerate(counts, 1)]
    other = [{"num_updates": 10, "split": "valid", "counts": "damaged"}, {"num_updates": 10, "counts": [[1, 2]]}]
    heat, table = codebook_parts(run(codes=[*other, *lines]), 1)
    assert isinstance(heat, HeatMap) and heat.rows.tolist() == [2, 1, 0] and heat.x.tolist() == [10, 20]
    assert heat.shares.tolist() == [[0.25, 1], [0.75, 0], [0, 0]] and "2 of 3 are unused" in heat.summary
    assert isinstance(table, Table) and table.rows == [["10", "1", "1.8", "50.0"], ["20", "2", "1", "50.0"]]
    assert codebook_parts(run(codes=other[:1]), 1) == [] == codebook_parts(run(), 1)


def test_many_counts_are_added_up() -> None:
    lines = [{"num_updates": n, "split": "train", "counts": [[n, 0]]} for n in range(1, 1001)]
    heat = codebook_parts(run(codes=lines), 1)[0]
    assert isinstance(heat, HeatMap) and heat.shares.shape == (2, 120) and heat.x[-1] == 1000


def test_hypotheses_as_they_evolve() -> None:
    line = {"split": "dev", "id": "a-1", "reference": "AB C"}
    found = [{**line, "num_updates": n, "hypothesis": "AB"[:n]} for n in range(3)]
    table = tables(run_page([run(hypotheses=found)]))["Utterance a-1 of dev"]
    assert table.rows == [["reference", "AB C"], ["0", "(nothing)"], ["1", "A"], ["2", "AB"]] and table.prose


# -- configs -----------------------------------------------------------------------------------------------------------


def test_the_stock_config_that_fits_best() -> None:
    config = {
        "common.fp16": True,
        "model._name": "wav2vec2",
        "optimization.lr": [0.0005],
        "optimization.max_update": 100,
        "model.latent_temp": [2.0, 0.5, 1.0],
        "mine.key": 1,
    }
    fits = Stock("fits", {"model._name": "wav2vec2", "optimization.lr": [0.0005], "optimization.max_update": 400})
    other = Stock("other", {"model._name": "wav2vec_ctc", "optimization.lr": [0.0005], "optimization.max_update": 100})
    assert settings.nearest(config, [other, fits]) == fits
    assert settings.nearest({}, [other, fits]) is None
    temp = fits._replace(values={**fits.values, "model.latent_temp": [2, 0.5, 1]})
    assert settings.differences(config, temp) == [
        ["common.fp16", "false", "true"],  # the default of its dataclass
        ["optimization.max_update", "400", "100"],
    ]


def test_stock_configs_are_there() -> None:
    names = {stock.name for stock in settings.stock_configs()}
    assert {"wav2vec2_base_librispeech", "base_100h", "wav2vec2_demo"} <= names


def test_config_tables() -> None:
    def configured(name: str, rate: float) -> Run:
        config = {"model": {"_name": "wav2vec2"}, "optimization": {"lr": [rate]}}
        return run(name, config=config, environment={"cores": 2}, data={"train": {"hours": 1.5}})

    found = tables(run_page([configured("one", 0.1), configured("two", 0.2)]))
    assert found["Differences between the runs' configs (1)"].rows == [["optimization.lr", "[0.1]", "[0.2]"]]
    assert found["one: The whole config"].rows == [["model._name", "wav2vec2"], ["optimization.lr", "[0.1]"]]
    assert found["Sets of utterances"].rows == [["train.hours", "1.5", "1.5"]]
    assert found["Machine and versions"].rows == [["cores", "2", "2"]]


# -- long runs, names, and the command ---------------------------------------------------------------------------------


def test_pages_of_long_runs_stay_small() -> None:
    pytest.importorskip("youplot", reason="extra report")
    noise = np.random.default_rng(1).normal(size=8_000)
    names = [f"value_{k}" for k in range(20)]
    runs = []
    for name in "abcde":
        made = Rows([{"num_updates": u, **dict.fromkeys(names, float(noise[u]))} for u in range(8_000)])
        runs.append(run(name, rows={"train_inner": made}))
    assert len(run_page(runs).html()) < 2_000_000
    assert points_for(plots_of(runs[:1]), 0) > 2 * points_for(plots_of(runs), 0)


def test_runs_are_named_by_what_tells_them_apart() -> None:
    assert names_of([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert names_of([Path("/a/x"), Path("/b/x")]) == ["a/x", "b/x"]
    assert names_of([Path("/a/x"), Path("/a/x")]) == ["x (1)", "x (2)"]


def test_findings_of_a_run_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "CAUSES", {"overfit": lambda records: OVERFIT})
    assert make_run("one", Records()).findings == [OVERFIT]


def write(folder: Path, updates: int = 2) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [f'{{"split": "train_inner", "num_updates": {u}, "epoch": 1, "loss": {8 - u}}}\n' for u in range(updates)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def test_the_command_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("youplot", reason="extra report")
    page = tmp_path / "r.html"
    page.write_text("the one before")
    folder = write(tmp_path / "run")
    (folder / "run.lock").touch()
    assert report.cli_main([str(folder), "-o", str(page)]) == 0
    assert re.search(r"<h1>Run report: run</h1>.*The run has not ended", page.read_text(), re.DOTALL)
    assert report.cli_main([str(folder), "-o", str(page), "--ended"]) == 0
    assert "The run has ended; its last records are of update 1" in page.read_text()
    assert f"written: {page}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.glob("r.*")] == ["r.html"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "none does not exist"),
        ([".", "-o", "."], "-o . is a folder; it must be a file"),
        ([".", "--serve", "70000"], "--serve 70000 is not a port"),
        (["."] * 9, "9 runs are too many for a page; at most 8 can be compared"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    pytest.importorskip("youplot", reason="extra report")
    monkeypatch.chdir(tmp_path)
    assert report.cli_main(words) == 1
    assert message in capsys.readouterr().err
