"""The sinks and trackers that the documentation shows work as they are printed there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fairseq.dataclass.configs import CommonConfig
from fairseq.logging import sinks
from fairseq.logging.sinks import Console, Start, open_sinks

DOCS = Path(__file__).resolve().parents[4] / "docs"
EXAMPLES = {"loss.csv": "train,1,1,0.5\ntrain,2,1,0.5\n", "losses.txt": "train 1 0.5\ntrain 2 0.5\n"}


def example(name: str) -> str:
    """The block of Python that registers a sink."""
    pages = DOCS.glob("*.md")
    blocks = [block for page in pages for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    (found,) = {block for block in blocks if f'@register_sink("{name}")' in block}
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_printed_sink_writes_a_runs_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = sinks.SINKS[sinks.METRICS]
    monkeypatch.setattr(sinks, "SINKS", {sinks.METRICS: metrics})
    exec(compile(example(name), name, "exec"), {})
    common = CommonConfig(log_format="none")  # type: ignore[arg-type]
    for update in (1, 2):  # two processes
        console = Console(common)
        opened = open_sinks(console, Start(common, tmp_path, update - 1))
        with console.following([0], 1):
            opened.write("train", update, 1, {"loss": 0.5})
        opened.close()
    assert (tmp_path / name).read_text() == EXAMPLES[name]
