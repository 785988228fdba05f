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
from fairseq.pages.charts import POINTS, Chart, Table, thin
from fairseq.pages.page import Notice, Page, Paragraph, Section

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
    thinned = [thin(x, np.sin(x / (1000 * k))) for k in range(1, 31)]
    charts = [Chart(f"Curve {i}", "", "update", "loss", few, {"a": y}, log=True) for i, (few, y) in enumerate(thinned)]
    page = Page("Large", "", [], [Section("Curves", charts)]).html()
    assert len(page) < 2_000_000 and page.count("to-fill") > 30 and page.count("<tr>") == 0


def test_thinning_keeps_the_shape() -> None:
    x = np.arange(400_000.0)
    y = np.sin(x / 1e4)
    y[123_456], y[77_777], y[5] = 9.0, -9.0, np.nan
    few_x, few_y = thin(x, y)
    assert len(few_x) <= POINTS + 2 and (np.diff(few_x) > 0).all()
    assert few_x[0] == 0 and few_x[-1] == x[-1] and {9.0, -9.0} <= set(few_y.tolist())
    assert (y[few_x.astype(int)] == few_y).all()
    assert len(thin(x[:100], y[:100])[0]) == 99


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
