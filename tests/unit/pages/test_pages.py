"""Pages: self-contained, safe with any text, and every plot with its data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fairseq.pages import assets
from fairseq.pages.charts import LEVELS, Chart, HeatMap, Mark, Range, Table
from fairseq.pages.curves import POINTS, Curve, align, means, smooth, thin
from fairseq.pages.page import Link, Notice, Page, Paragraph, Section

EVIL = "</script><img src=x onerror=alert(1)>&\"'\u2028"


@pytest.fixture()
def page() -> str:
    pytest.importorskip("youplot", reason="extra report")
    bars = Chart("Bars", "A sentence.", EVIL, "count", np.arange(3.0), {EVIL: np.asarray([1, 2])}, steps=True)
    curve = Chart("Curve", "", "update", "loss", np.arange(2.0), {"a": np.asarray([0.5, np.nan])}, log=True)
    notice = Notice("silence", "error", EVIL, "what to do", [EVIL] * 7, 3)
    table = Table(EVIL, ["", "b"], [[EVIL, "1"]], folded=True)
    return Page(EVIL, "verdict", [notice], [Section("One", [bars, curve, table, Paragraph(EVIL)])]).html()


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    names = {tag for tag, _ in tags.found}
    assert not names & {"img", "link", "iframe", "object"}
    assert not [attributes for _, attributes in tags.found if "src" in attributes or "onerror" in attributes]
    assert all((attributes["href"] or "").startswith("#") for tag, attributes in tags.found if tag == "a")


def test_the_browser_runs_only_our_scripts(page: str) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert scripts == assets.scripts()
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy is not None and policy[1].startswith("default-src 'none'")
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy[1]


def test_data_of_plots(page: str) -> None:
    bars, curve = (json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page))
    assert bars["x"] == [0, 1, 2] and bars["y"] == [[1, 2, 2]] and bars["names"] == [EVIL] and bars["steps"]
    assert curve["y"] == [[0.5, None]] and page.count("Data of the plot as a table") == 2
    assert page.count("Log axis</button>") == 1


def test_lines_of_a_finding(page: str) -> None:
    shown, folded = page.split("<summary>5 more</summary>")
    assert shown.count("<li><code>") == 5 and folded.count("<li><code>") == 2
    assert "3 more are not listed" in folded and 'id="finding-silence"' in page


def test_table_of_a_chart() -> None:
    steps = Chart("", "", "s", "", np.asarray([0, 0.25, 0.5]), {"a": np.asarray([10, 2000])}, steps=True)
    assert steps.table().rows == [["0 to 0.25", "10"], ["0.25 to 0.5", "2,000"]]
    with pytest.raises(AssertionError, match="has 3 values"):
        Chart("", "", "", "", np.arange(3.0), {"a": np.arange(3.0)}, steps=True)


def test_long_tables_are_not_in_the_file() -> None:
    pytest.importorskip("youplot", reason="extra report")
    x = np.arange(400_000.0)
    curves = [np.sin(x / (1000 * k)) for k in range(1, 31)]
    charts = [
        Chart(f"Curve {i}", "", "update", "loss", x[kept], {"a": y[kept]}, log=True)
        for i, y in enumerate(curves)
        if len(kept := thin([y]))
    ]
    page = Page("Large", "", [], [Section("Curves", charts)]).html()
    assert len(page) < 2_000_000 and page.count("to-fill") > 30 and page.count("<tr>") == 0


def test_thinning_keeps_the_shape() -> None:
    x = np.arange(400_000.0)
    y = np.sin(x / 1e4)
    y[123_456], y[77_777], y[5] = 9.0, -9.0, np.nan
    kept = thin([y])
    assert len(kept) <= POINTS + 2 and (np.diff(kept) > 0).all()
    assert kept[0] == 0 and kept[-1] == 399_999 and {9.0, -9.0} <= set(y[kept].tolist())
    assert len(thin([y[:100]])) == 99


def test_short_curves_are_kept_whole_beside_long_ones() -> None:
    few = np.full(10_000, np.nan)
    few[::1000] = 1.0
    long = np.sin(np.arange(10_000.0))
    kept = thin([long, few], 100)
    assert len(kept) <= 112 and set(range(0, 10_000, 1000)) <= set(kept.tolist())


def test_curves_over_one_axis() -> None:
    one, other = (
        Curve(np.asarray([10, 20]), np.asarray([1.0, 2.0])),
        Curve(np.asarray([15, 20]), np.asarray([3.0, 4.0])),
    )
    x, columns = align({"one": one, "other": other})
    assert x.tolist() == [10, 15, 20]
    assert np.array_equal(columns["one"], [1, np.nan, 2], equal_nan=True)
    assert np.array_equal(columns["other"], [np.nan, 3, 4], equal_nan=True)
    assert align({"one": one})[0].tolist() == [10, 20] and len(align({})[0]) == 0


def test_smoothing_keeps_the_ends_and_leaves_out_gaps() -> None:
    assert smooth(np.asarray([1.0, 3.0, 8.0, 1.0, 0.0]), 3).tolist() == [1, 4, 4, 3, 0]
    assert np.array_equal(smooth(np.asarray([1.0, np.nan, 3.0]), 3), [1, np.nan, 3], equal_nan=True)


def test_means_over_stretches() -> None:
    x, (y,) = means(np.arange(1.0, 8.0), [np.arange(7.0)], 3)
    assert x.tolist() == [2, 4, 7] and y.tolist() == [0.5, 2.5, 5]


def test_what_a_plot_shows_beside_its_curves() -> None:
    """A range, smoothing and marks; a mark leads to its finding, and a finding to its plot."""
    pytest.importorskip("youplot", reason="extra report")
    x, y = np.arange(3.0), np.asarray([1.0, 4.0, 2.0])
    expected = Range("reference", y - 0.5, np.asarray([1.5, np.nan, 2.5]))
    mark = Mark(1, 2, "warning", "From update 1", "slow")
    chart = Chart(
        "C", "", "update", "loss", x, {"a": y}, joined=True, smooth={"a": y + 1}, expected=expected, marks=[mark],
        key="loss", wide=True,
    )  # fmt: skip
    data = chart.data()
    assert data["smooth"] == [[2, 5, 3]] and data["expected"] == ["reference", [0.5, 3.5, 1.5], [1.5, None, 2.5]]
    assert data["marks"] == [[1, 2, "warning", "finding-slow"]] and data["joined"]
    assert chart.table().head == ["update", "a", "reference, low", "reference, high"]
    assert chart.table().rows[1] == ["1", "4", "3.5", "-"]
    notice = Notice(
        "slow", "warning", "It is slow", "", ["a sentence"], links=[Link("show", "chart-loss")], quoted=False
    )
    page = Page("", "", [notice], [Section("", [chart])]).html()
    assert '<figure class="chart wide" id="chart-loss">' in page and '<a href="#chart-loss">show</a>' in page
    assert '<a href="#finding-slow">From update 1: It is slow</a>' in page and ">Smoothed</button>" in page
    assert "<li>a sentence</li>" in page
    # the finding of a mark may be on another page
    assert "#finding-slow" not in Page("", "", [], [Section("", [chart])]).html().replace('"finding-slow"', "")


def test_cells_of_a_heat_map() -> None:
    shares = np.asarray([[0.5, 1.0], [0.25, 0.0], [0.25, 0.0], [0.0, 0.0]])
    heat = HeatMap("H", "", "update", np.asarray([10, 20]), "codeword", np.asarray([7, 3, 1, 0]), shares)
    data = heat.data()
    even = LEVELS[1 + 31]
    assert data["rows"] == [7, 3, 1, 0] and data["cells"][1:4] == even + even + "A"  # column after column
    assert LEVELS.index(data["cells"][0]) == 1 + 31 + round(62 / 12) and data["cells"][5:] == "AAA"
    pytest.importorskip("youplot", reason="extra report")
    page = Page("", "", [], [Section("", [heat])]).html()
    assert '<figure class="heat" id="chart-0-0">' in page and "to-fill" in page


def test_only_a_watched_page_may_connect() -> None:
    pytest.importorskip("youplot", reason="extra report")
    quiet, watched = (Page("", "", [], [], watched=watched) for watched in (False, True))
    assert "connect-src" not in quiet.html() and 'class="watch"' not in quiet.html()
    assert "connect-src 'self'" in watched.policy() and 'class="watch"' in watched.html()
    assert watched.policy() in watched.html() and len(assets.scripts(True)) == len(assets.scripts()) + 1


def test_another_uplot_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "youplot"
    (package / "vendor").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "vendor/uplot.iife.min.js").write_text("alert(1)")
    monkeypatch.setattr(assets, "_CARRIER", "not_there_at_all")
    assets._uplot.cache_clear()
    with pytest.raises(ValueError, match="pip install 'youplot==1.0.0'"):
        assets.check()
    monkeypatch.setattr(
        assets.importlib.util, "find_spec", lambda name: type("", (), {"submodule_search_locations": [str(package)]})
    )
    with pytest.raises(ValueError, match="is not the file of uPlot"):
        assets.check()
    assets._uplot.cache_clear()
