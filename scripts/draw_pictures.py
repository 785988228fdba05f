#!/usr/bin/env python3
"""Draw the pictures of the README and the documentation: `python scripts/draw_pictures.py`.

docs/images/model.svg           the model, and a run
docs/images/learning_curve.svg  from benchmarks/results/learning_curve.json

Plain XML without scripts or fonts. Each picture has its own background and dark colours, so that it is legible on light
and dark pages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
CURVE = ROOT / "benchmarks" / "results" / "learning_curve.json"
CHANCE = math.log2(101)  # bits, with 100 negatives

STYLE = """
  .page { fill: #ffffff; stroke: #d0d7de; }
  .box { fill: #eef4fb; stroke: #3b6ea5; stroke-width: 1.5; }
  .loss { fill: #fdf0e3; stroke: #c4661f; stroke-width: 1.5; }
  .file { fill: #f2f3f5; stroke: #8a94a0; stroke-width: 1.2; }
  .masked { fill: #c4661f; stroke: none; }
  .frame { fill: #3b6ea5; stroke: none; }
  .line, .grid, .wave { fill: none; stroke: #57606a; stroke-width: 1.5; }
  .grid { stroke: #d0d7de; stroke-width: 1; }
  .chance { fill: none; stroke: #57606a; stroke-dasharray: 5 4; }
  .on { fill: none; stroke: #c4661f; stroke-width: 2.5; }
  .off { fill: none; stroke: #3b6ea5; stroke-width: 2; }
  .arrow { fill: #57606a; }
  text { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 14px; fill: #1f2328; }
  .small { font-size: 12px; fill: #57606a; }
  .title { font-size: 15px; font-weight: 600; }
  .of-on { fill: #a9520f; font-weight: 600; }
  .of-off { fill: #2c5a8c; font-weight: 600; }
  .middle { text-anchor: middle; }
  .end { text-anchor: end; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #161b22; stroke: #30363d; }
    .box { fill: #1c2b3d; stroke: #6ea8e0; }
    .loss { fill: #3a2817; stroke: #e8964f; }
    .file { fill: #22272e; stroke: #8a94a0; }
    .masked { fill: #e8964f; }
    .frame { fill: #6ea8e0; }
    .line, .wave, .chance { stroke: #9aa4b0; }
    .grid { stroke: #30363d; }
    .on { stroke: #e8964f; }
    .off { stroke: #6ea8e0; }
    .arrow { fill: #9aa4b0; }
    text { fill: #e6edf3; }
    .small { fill: #9aa4b0; }
    .of-on { fill: #e8964f; }
    .of-off { fill: #6ea8e0; }
  }
"""
Point = tuple[float, float]


def picture(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """A whole SVG file."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" aria-label="{escape(title)}">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, lines: Sequence[str], kind: str = "box") -> str:
    """A box with a title line and smaller lines below it, all centred."""
    middle = x + width / 2
    top = y + height / 2 - 9 * (len(lines) - 1) + 5
    words = [text(middle, top + 18 * i, line, "middle" if i == 0 else "middle small") for i, line in enumerate(lines)]
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>' + "".join(words)


def line(points: Sequence[Point], kind: str = "line") -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.5g},{y:.5g}" for x, y in points)}"/>'


def arrow(*points: Point) -> str:
    """A line through the points with an arrowhead at the last one."""
    (x, y), (x0, y0) = points[-1], points[-2]
    length = math.hypot(x - x0, y - y0)
    dx, dy = (x - x0) / length, (y - y0) / length
    back = (x - 8 * dx, y - 8 * dy)
    corners = [(x, y), (back[0] - 4 * dy, back[1] + 4 * dx), (back[0] + 4 * dy, back[1] - 4 * dx)]
    head = f'<polygon class="arrow" points="{" ".join(f"{a:.5g},{b:.5g}" for a, b in corners)}"/>'
    return line([*points[:-1], back]) + head


def frames(x: float, y: float, masked: Sequence[int]) -> str:
    """Ten frames as bars; those in `masked` have another colour."""
    return "".join(
        f'<rect class="{"masked" if i in masked else "frame"}" x="{x + 9 * i:g}" y="{y:g}" width="6" height="26"/>'
        for i in range(10)
    )


def model() -> str:
    """The base model (top) and a run (bottom)."""
    wave = [(24 + i, 110 + 22 * math.sin(i / 2.1) * math.sin(i / 31) ** 2) for i in range(96)]
    parts = [
        text(24, 34, "The model (base)", "title"),
        line(wave, "wave"),
        text(72, 156, "raw audio, 16 kHz", "middle small"),
        arrow((122, 110), (146, 110)),
        box(146, 80, 140, 60, ["7 convolutions", "a frame every 20 ms"]),
        arrow((286, 110), (308, 110)),
        frames(310, 97, ()),
        text(353, 156, "features", "middle small"),
        arrow((402, 110), (440, 110)),
        frames(444, 97, (2, 3, 4, 7, 8)),
        text(488, 156, "about half are masked", "middle small"),
        arrow((536, 110), (562, 110)),
        box(562, 80, 130, 60, ["Transformer", "12 blocks"]),
        arrow((692, 110), (736, 110)),
        box(
            736,
            58,
            200,
            96,
            ["Contrastive loss", "for each masked frame:", "which of 101 candidates", "was hidden here?"],
            "loss",
        ),
        arrow((353, 168), (353, 206), (440, 206)),
        box(440, 176, 160, 60, ["Quantizer", "2 groups of 320 codes"]),
        arrow((600, 206), (836, 206), (836, 154)),
        text(716, 224, "1 target, 100 negatives", "middle small"),
        line([(24, 258), (936, 258)], "grid"),
        text(24, 288, "A run", "title"),
        box(24, 308, 130, 62, ["Manifest", "train.tsv, valid.tsv"], "file"),
        arrow((154, 339), (180, 339)),
        box(180, 308, 150, 62, ["Workers", "crop, mask, batch"]),
        arrow((330, 339), (356, 339)),
        box(356, 300, 216, 78, ["Trainer", "forward, loss, gradients, Adam", "CPU, CUDA or Gaudi"]),
        arrow((572, 322), (620, 322)),
        box(620, 300, 150, 36, ["Log, metrics.jsonl"], "file"),
        arrow((572, 362), (620, 362)),
        box(620, 344, 150, 36, ["Checkpoints"], "file"),
        arrow((770, 362), (800, 362)),
        box(800, 336, 136, 52, ["CTC fine-tuning", "audio to text"]),
        arrow((695, 380), (695, 404), (464, 404), (464, 378)),
        text(580, 420, "the same command resumes", "middle small"),
    ]
    return picture(960, 436, "The wav2vec 2.0 model and a training run", parts)


def learning_curve(recorded: str) -> str:
    """Training loss over updates, three seeds with the temperature schedule and three without.

    Args:
        recorded: benchmarks/results/learning_curve.json.
    """
    runs = json.loads(recorded)["runs"]
    left, right, top, bottom = 64, 700, 56, 330
    least, most, updates = 5.95, 6.85, 400

    def place(update: float, bits: float) -> Point:
        return left + (right - left) * update / updates, bottom - (bottom - top) * (bits - least) / (most - least)

    parts = [text(24, 32, "Training loss (InfoNCE, bits) of a small model on half an hour of real speech", "title")]
    for tenth in range(60, 69, 2):
        x, y = place(0, tenth / 10)
        parts += [
            line([(x, y), place(updates, tenth / 10)], "grid"),
            text(x - 8, y + 5, f"{tenth / 10:.1f}", "end small"),
        ]
    for update in range(0, updates + 1, 100):
        x, y = place(update, least)
        parts.append(text(x, y + 20, str(update), "middle small"))
    parts.append(text((left + right) / 2, bottom + 42, "updates", "middle small"))
    parts.append(line([place(0, CHANCE), place(updates, CHANCE)], "chance"))
    for run in runs:
        points = [place(update, bits) for update, bits in run["train"]]
        parts.append(line(points, "on" if run["schedule"] else "off"))
    x, y = place(updates, CHANCE)
    parts += [
        text(x + 10, y - 14, "chance: log2(101) = 6.658", "small"),
        text(x + 10, y + 14, "paper's temperature", "of-off"),
        text(x + 10, y + 32, "3 seeds: 2 still at chance", "small"),
        text(x + 10, bottom - 42, "logit_temp_start=1.0", "of-on"),
        text(x + 10, bottom - 24, "3 seeds", "small"),
    ]
    return picture(930, 390, "Training loss over 400 updates with and without the temperature schedule", parts)


def pictures() -> dict[str, str]:
    """File name -> SVG."""
    return {"model.svg": model(), "learning_curve.svg": learning_curve(CURVE.read_text(encoding="utf-8"))}


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, svg in pictures().items():
        (IMAGES / name).write_text(svg, encoding="utf-8")
