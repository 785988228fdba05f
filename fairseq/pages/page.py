"""Build a page: the verdict and findings first, then sections of tables and plots."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

from fairseq.pages import assets
from fairseq.pages.charts import Chart, Table

_ROWS = 200  # a plot with more points has its table made by the browser, when it is opened
_SHOWN = 5  # lines of a finding before the rest is folded away


class Notice(NamedTuple):
    """A finding on the page."""

    name: str  # its address in the page is finding-NAME
    severity: str  # error, warning or note
    title: str
    change: str  # what to do
    lines: Sequence[str] = ()  # what caused it
    more: int = 0  # further lines that are not listed


class Paragraph(NamedTuple):
    """A paragraph of text."""

    text: str


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    title: str
    parts: Sequence[Table | Chart | Paragraph] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """A page.

    Args:
        title: its heading and the window's title.
        verdict: a sentence.
        notices: the findings, the most severe first.
        sections: what follows.
    """

    title: str
    verdict: str
    notices: Sequence[Notice]
    sections: Sequence[Section]

    def html(self) -> str:
        """Return the whole page as one file, which asks for nothing from a network.

        Raises:
            ValueError: the extra `report` is not installed.
        """
        scripts = assets.scripts()
        hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
        # the browser then refuses whatever else a file name or a transcript might try to run or load
        policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'"
        return "\n".join(
            [
                '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<meta name="color-scheme" content="light dark">',
                f"<title>{escape(self.title)}</title>",
                f"<style>\n{assets.styles()}</style>\n</head>\n<body>",
                *self._body(),
                *(f"<script>{script}</script>" for script in scripts),
                "</body>\n</html>\n",
            ]
        )

    def _body(self) -> list[str]:
        names = [("findings", "Findings"), *((f"section-{i}", s.title) for i, s in enumerate(self.sections))]
        links = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title in names)
        body = [
            '<a class="skip" href="#findings">Skip to the findings</a>',
            f'<header><h1>{escape(self.title)}</h1><p class="verdict">{escape(self.verdict)}</p>'
            f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>',
            '<main>\n<section id="findings" aria-labelledby="findings-title"><h2 id="findings-title">Findings</h2>',
        ]
        body += ['<p class="good">Nothing found.</p>'] if not self.notices else []
        body += [_notice(notice) for notice in self.notices]
        body.append("</section>")
        for number, section in enumerate(self.sections):
            body.append(
                f'<section id="section-{number}" aria-labelledby="title-{number}">'
                f'<h2 id="title-{number}">{escape(section.title)}</h2>'
            )
            body += [_part(part, f"{number}-{place}") for place, part in enumerate(section.parts)]
            body.append("</section>")
        return [*body, "</main>"]


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _notice(notice: Notice) -> str:
    name = escape(notice.name)
    shown, folded = notice.lines[:_SHOWN], notice.lines[_SHOWN:]
    parts = [
        f'<article class="finding {escape(notice.severity)}" id="finding-{name}" aria-labelledby="{name}-title">',
        f'<h3 id="{name}-title"><span class="badge">{escape(notice.severity.capitalize())}</span> '
        f"{escape(notice.title)}</h3>",
        f'<p class="change">{escape(notice.change)}</p>' if notice.change else "",
        _lines(shown),
    ]
    if folded or notice.more:
        count = len(folded) + notice.more
        more = f"<p>{notice.more:,} more are not listed.</p>" if notice.more else ""
        parts.append(f"<details><summary>{count:,} more</summary>{_lines(folded)}{more}</details>")
    return "".join([*parts, "</article>"])


def _lines(lines: Sequence[str]) -> str:
    items = "".join(f"<li><code>{escape(line)}</code></li>" for line in lines)
    return f'<ul class="lines">{items}</ul>' if items else ""


def _part(part: Table | Chart | Paragraph, name: str) -> str:
    if isinstance(part, Paragraph):
        return f"<p>{escape(part.text)}</p>"
    return _table(part) if isinstance(part, Table) else _chart(part, name)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' if cell else "<td></td>" for cell in table.head)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in table.rows
    )
    caption = escape(table.caption)
    body = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return f"<details><summary>{caption}</summary>{body}</details>" if table.folded else body


def _chart(chart: Chart, name: str) -> str:
    data = json.dumps(chart.data(), separators=(",", ":"), ensure_ascii=True)
    data = data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")  # nothing can end the element
    caption = escape(chart.title)
    if len(chart.x) > _ROWS:
        table = f'<div class="scroll to-fill" tabindex="0" role="region" aria-label="{caption}"></div>'
    else:
        table = _table(chart.table())
    log = '<button type="button" class="log" aria-pressed="false">Log axis</button>' if chart.log else ""
    return (
        f'<figure class="chart" id="chart-{name}"><figcaption>{escape(chart.title)}</figcaption>'
        f'<p class="summary">{escape(chart.summary)}</p>'
        f'<div class="plot" tabindex="0" role="group" aria-label="Plot: {escape(chart.title)}. Arrow keys read its '
        f'values; the table below has all of them." aria-describedby="readout-{name}"></div>'
        f'<div class="controls">{log}<button type="button" class="whole" hidden>Whole range</button>'
        f'<output class="readout" id="readout-{name}"></output></div>'
        f'<script type="application/json">{data}</script>'
        f"<details><summary>Data of the plot as a table</summary>{table}</details></figure>"
    )
