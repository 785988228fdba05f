"""What goes into every page: the style, the code that draws plots, and uPlot, the library that it calls."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from fairseq.installed import advice

_HERE = Path(__file__).parent
# The package youplot carries uPlot's published files unchanged. Others are refused: they would run in readers' browsers
_CARRIER = "youplot"
_UPLOT = {
    "uplot.iife.min.js": "2d27e8ad3d228164525ce213f9dc716f39b4e3aee0cc773fb3491c96cf4921a2",  # uPlot 1.6.31
    "uplot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def check() -> None:
    """Raise ValueError if uPlot's files are not installed, or are not those of the release that this code is for."""
    for name in _UPLOT:
        _uplot(name)


@cache
def _uplot(name: str) -> str:
    found = importlib.util.find_spec(_CARRIER)
    folders = [] if found is None else list(found.submodule_search_locations or ())
    if not folders:
        raise ValueError(f"plots in pages need the package {_CARRIER}, which is not installed: {advice('report')}")
    path = Path(folders[0]) / "vendor" / name
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != _UPLOT[name]:
        raise ValueError(f"{path} is not the file of uPlot 1.6.31. Install the right release: {advice('report')}")
    return content.decode("utf-8")


def scripts(watched: bool = False) -> list[str]:
    """Return the page's scripts in order.

    Args:
        watched: the page asks for a newer version of itself.
    Raises:
        ValueError: see `check`.
    """
    names = ["figures.js", "charts.js", "heat.js", *(["watch.js"] if watched else [])]
    return [_uplot("uplot.iife.min.js"), *((_HERE / name).read_text(encoding="utf-8") for name in names)]


def styles() -> str:
    """Return the page's style sheet; raises ValueError as `check` does."""
    return _uplot("uplot.min.css") + "\n" + (_HERE / "page.css").read_text(encoding="utf-8")
