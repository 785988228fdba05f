"""Open a page in a real browser without a network: console, accessibility, keyboard, and pictures to look at.

    python -m tests.drills.pages PAGE.html [--pictures FOLDER]

Needs Chromium, and axe-playwright-python for the accessibility checker.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.drills.browser import Browser

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
LONGEST_TASK = 200.0  # milliseconds


def look_at(page: Path, pictures: Path | None) -> list[str]:
    """Return what is wrong with a page."""
    found = []
    with Browser() as browser:
        for size, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                where = f"{size}, {scheme}"
                longest = shown_and_scrolled(browser, page, width, height, scheme)
                if longest > LONGEST_TASK:
                    found.append(f"{where}: a task took {longest:.0f} ms")
                wide = browser.run("document.documentElement.scrollWidth - window.innerWidth")
                if int(str(wide)) > 0:
                    found.append(f"{where}: the page is {wide} pixels wider than the window")
                undrawn = browser.run(
                    "document.querySelectorAll('figure.chart').length - "
                    "document.querySelectorAll('figure.chart .uplot canvas').length"
                )
                if undrawn:
                    found.append(f"{where}: {undrawn} plots are not drawn")
                found += [f"{where}: {problem}" for problem in browser.problems() + browser.accessibility()]
                found += [f"{where}: {problem}" for problem in keyboard(browser)]
                if pictures is not None:
                    pictures.mkdir(parents=True, exist_ok=True)
                    browser.picture(pictures / f"{size}-{scheme}.png")
    return found


def shown_and_scrolled(browser: Browser, page: Path, width: int, height: int, scheme: str) -> float:
    """Open the page and scroll through it; returns the longest task in ms, the least of three tries if it is long."""
    longest = float("inf")
    for _ in range(3):
        browser.show(page, width, height, scheme)
        longest = min(longest, browser.scroll_through())
        if longest <= LONGEST_TASK:
            break
    return longest


def keyboard(browser: Browser) -> list[str]:
    """Check that every plot can be reached by Tab, and that arrow keys read its values."""
    plots = int(str(browser.run("document.querySelectorAll('.plot').length")))
    reached = 0
    browser.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    for _ in range(500):
        browser.press("Tab")
        if browser.run("document.activeElement.classList.contains('plot')"):
            reached += 1
            browser.press("ArrowRight")
            browser.press("ArrowRight")
            if not browser.run("document.activeElement.parentElement.querySelector('.readout').textContent"):
                return ["arrow keys read no value in a plot"]
        if reached == plots:
            return []
    return [f"Tab reaches {reached} of {plots} plots"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--pictures", type=Path)
    args = parser.parse_args()
    if not args.page.is_file():
        parser.error(f"no such page: {args.page}")
    found = look_at(args.page, args.pictures)
    print("\n".join(found) or "nothing is wrong")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
