"""The documentation's generated parts: reference pages and pictures."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from types import ModuleType
from xml.etree import ElementTree

import pytest

from fairseq.dataclass.groups import CONFIG_GROUPS
from tests.conftest import REPOSITORY


def script(name: str) -> ModuleType:
    """A script of scripts/, imported."""
    path = REPOSITORY / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return script("docs_reference").pages()


@pytest.mark.slow
def test_reference_has_every_key_of_every_group(pages: dict[str, str]) -> None:
    for group, choices in CONFIG_GROUPS.items():
        page = pages[f"reference/config/{group}.md"]
        for choice, dataclass in choices.items():
            assert f"## `{group}={choice}`" in page
            for name in dataclass.field_defaults():
                assert f"`{group}.{name}" in page, f"{group}.{name}"


def test_reference_shows_type_default_and_help(pages: dict[str, str]) -> None:
    row = next(line for line in pages["reference/config/optimization.md"].splitlines() if ".clip_norm`" in line)
    assert "a number" in row and "`0.0`" in row and "gradient" in row
    assert "that of `optimization.lr`" in pages["reference/config/lr_scheduler.md"]


def test_reference_has_every_command(pages: dict[str, str]) -> None:
    page = pages["reference/commands.md"]
    scripts = importlib.metadata.distribution("fairseq-hpu").entry_points.select(group="console_scripts")
    assert {f"## `{entry.name}`" for entry in scripts} == {line for line in page.splitlines() if line.startswith("## ")}
    assert "| `--path PATH` | must be given |" in page


def test_site_lists_every_page(pages: dict[str, str]) -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    written = (str(path.relative_to(REPOSITORY / "docs")) for path in (REPOSITORY / "docs").rglob("*.md"))
    assert [page for page in (*pages, *written) if f": {page}\n" not in navigation] == []


def test_pictures_are_what_the_script_draws() -> None:
    for name, svg in script("draw_pictures").pictures().items():
        assert (REPOSITORY / "docs/images" / name).read_text(encoding="utf-8") == svg, name
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
        assert tags <= {"svg", "title", "style", "rect", "text", "polyline", "polygon"}, "plain shapes, no scripts"


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("`fairseq.trainer.Trainer`, `fairseq.transcribe(x)`, `fairseq/frames.py`, `task.data=x`, `task.augment`", []),
        ("`fairseq.trainer.Trainee`", ["fairseq.trainer.Trainee"]),
        ("`fairseq/frame.py`", ["fairseq/frame.py"]),
        ("`task.dat`", ["task.dat"]),
        ("```\n`task.dat`\n```", []),
    ],
)
def test_build_finds_names_that_do_not_exist(text: str, missing: list[str]) -> None:
    pytest.importorskip("mkdocs", reason="extra docs")
    assert script("docs_hooks").missing_names(text) == missing
