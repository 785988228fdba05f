"""Build a page: the verdict and findings first, then sections of tables and plots."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

from fairseq.pages import assets
from fairseq.pages.charts import Chart, HeatMap, Table

_ROWS = 50  # a plot with more points has its table made by the browser, when it is opened
_SHOWN = 5  # lines of a finding before the rest is folded away


class Link(NamedTuple):
    """A link to another place of the page."""

    text: str
    target: str  # an address in the page, such as chart-loss


class Notice(NamedTuple):
    """A finding on the page."""

    name: str  # its address in the page is finding-NAME
    severity: str  # error, warning or note
    title: str
    change: str  # what to do
    lines: Sequence[str] = ()  # what caused it
    more: int = 0  # further lines that are not listed
    links: Sequence[Link] = ()
    quoted: bool = True  # the lines are quoted from files; otherwise they are sentences


class Paragraph(NamedTuple):
    """A paragraph of text."""

    text: str


Part = Table | Chart | HeatMap | Paragraph


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    title: str
    parts: Sequence[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """A page.

    Args:
        title: its heading and the window's title.
        verdict: a sentence.
        notices: the findings, the most severe first.
        sections: what follows.
        watched: it is served from a local address, and asks there for a newer version of itself.
    """

    title: str
    verdict: str
    notices: Sequence[Notice]
    sections: Sequence[Section]
    watched: bool = False

    def policy(self) -> str:
        """Return the content security policy.

        With it, the browser refuses whatever else a file name or a transcript might try to run or load.

        Raises:
            ValueError: the extra `report` is not installed.
        """
        hashes = " ".join(f"'sha256-{_digest(script)}'" for script in assets.scripts(self.watched))
        connect = "connect-src 'self'; " if self.watched else ""
        return (
            f"default-src 'none'; {connect}style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'; "
            "form-action 'none'"
        )

    def html(self) -> str:
        """Return the whole page as one file, which asks for nothing from a network.

        Raises:
            ValueError: the extra `report` is not installed.
        """
        return "\n".join(
            [
                '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{self.policy()}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<meta name="color-scheme" content="light dark">',
                f"<title>{escape(self.title)}</title>",
                f"<style>\n{assets.styles()}</style>\n</head>\n<body>",
                *self._body(),
                *(f"<script>{script}</script>" for script in assets.scripts(self.watched)),
                "</body>\n</html>\n",
            ]
        )

    def _body(self) -> list[str]:
        names = [("findings", "Findings"), *((f"section-{i}", s.title) for i, s in enumerate(self.sections))]
        links = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title in names)
        body = [
            '<a class="skip" href="#findings">Skip to the findings</a>',
            f'<header><h1>{escape(self.title)}</h1><p class="verdict">{escape(self.verdict)}</p>'
            f'{_WATCH if self.watched else ""}<nav aria-label="Sections"><ul>{links}</ul></nav></header>',
            '<main>\n<section id="findings" aria-labelledby="findings-title"><h2 id="findings-title">Findings</h2>',
        ]
        body += ['<p class="good">Nothing found.</p>'] if not self.notices else []
        body += [_notice(notice) for notice in self.notices]
        body.append("</section>")
        titles = {notice.name: notice.title for notice in self.notices}
        for number, section in enumerate(self.sections):
            body.append(
                f'<section id="section-{number}" aria-labelledby="title-{number}">'
                f'<h2 id="title-{number}">{escape(section.title)}</h2>'
            )
            places = itertools.count()
            for is_chart, parts in itertools.groupby(section.parts, lambda part: isinstance(part, Chart)):
                made = "".join(_part(part, f"{number}-{next(places)}", titles) for part in parts)
                body.append(f'<div class="charts">{made}</div>' if is_chart else made)
            body.append("</section>")
        return [*body, "</main>"]


_WATCH = (
    '<p class="watch"><label><input type="checkbox" checked> Reload this page when the run has new records</label> '
    '<button type="button" hidden>Reload now</button> <output></output></p>'
)


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
        _lines(shown, notice.quoted),
    ]
    if folded or notice.more:
        count = len(folded) + notice.more
        more = f"<p>{notice.more:,} more are not listed.</p>" if notice.more else ""
        parts.append(f"<details><summary>{count:,} more</summary>{_lines(folded, notice.quoted)}{more}</details>")
    if notice.links:
        links = "".join(f'<li><a href="#{escape(link.target)}">{escape(link.text)}</a></li>' for link in notice.links)
        parts.append(f'<ul class="places">{links}</ul>')
    return "".join([*parts, "</article>"])


def _lines(lines: Sequence[str], quoted: bool) -> str:
    begin, end = ("<code>", "</code>") if quoted else ("", "")
    items = "".join(f"<li>{begin}{escape(line)}{end}</li>" for line in lines)
    return f'<ul class="lines">{items}</ul>' if items else ""


def _part(part: Part, name: str, notices: Mapping[str, str]) -> str:
    if isinstance(part, Paragraph):
        return f"<p>{escape(part.text)}</p>"
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, HeatMap):
        return _figure("heat", part, name, "", "", _to_fill(f"{part.title}: about how many % of the total"))
    links = [
        f'<li class="{escape(mark.severity)}"><a href="#finding-{escape(mark.finding)}">{escape(mark.label)}: '
        f"{escape(notices[mark.finding])}</a></li>"
        for mark in part.marks
        if mark.finding in notices
    ]
    marks = f'<ul class="marks">{"".join(links)}</ul>' if links else ""
    buttons = '<button type="button" class="log" aria-pressed="false">Log axis</button>' if part.log else ""
    buttons += '<button type="button" class="smooth" aria-pressed="false">Smoothed</button>' if part.smooth else ""
    table = _to_fill(part.title) if len(part.x) > _ROWS else _table(part.table())
    return _figure("chart wide" if part.wide else "chart", part, part.key or name, buttons, marks, table)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' if cell else "<td></td>" for cell in table.head)
    rows = "".join(
        f'<tr><th scope="row">{_breakable(row[0])}</th>'
        + "".join(f"<td>{_breakable(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    caption = escape(table.caption)
    kind = ' class="prose"' if table.prose else ""
    body = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table{kind}>'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return f"<details><summary>{caption}</summary>{body}</details>" if table.folded else body


def _breakable(cell: str) -> str:
    """Escape a cell; config keys and paths may break after their dots, underscores and slashes, not within a word."""
    return re.sub(r"(?<=\w)([._/])(?=[a-z])", r"\1<wbr>", escape(cell))


def _to_fill(caption: str) -> str:
    return f'<div class="scroll to-fill" tabindex="0" role="region" aria-label="{escape(caption)}"></div>'


def _figure(kind: str, part: Chart | HeatMap, name: str, buttons: str, marks: str, table: str) -> str:
    name, title = escape(name), escape(part.title)
    data = json.dumps(part.data(), separators=(",", ":"), ensure_ascii=True)
    data = data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")  # nothing can end the element
    return (
        f'<figure class="{kind}" id="chart-{name}"><figcaption>{title}</figcaption>'
        f'<p class="summary">{escape(part.summary)}</p>'
        f'<div class="plot" tabindex="0" role="group" aria-label="Plot: {title}. Arrow keys read its '
        f'values; the table below has all of them." aria-describedby="readout-{name}"></div>'
        f'<div class="controls">{buttons}<button type="button" class="whole" hidden>Whole range</button>'
        f'<output class="readout" id="readout-{name}"></output></div>{marks}'
        f'<script type="application/json">{data}</script>'
        f"<details><summary>Data of the plot as a table</summary>{table}</details></figure>"
    )
