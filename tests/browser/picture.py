"""Draws the picture of the report for the README: ``python -m tests.browser.picture docs/report.png``.

The document's own words are the kernel's and may not be in this repository: other letters stand in for theirs, and
are blurred too.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "build" / "report" / "index.html"
SHOWN = "spt%2Fchild-points-back"
BLUR = """() => {
  const letters = "etaoinshrdlu";
  let next = 0;
  for (const each of document.querySelectorAll(".words, .quoted, q")) {
    const walker = document.createTreeWalker(each, NodeFilter.SHOW_TEXT);
    while (walker.nextNode())
      walker.currentNode.data = walker.currentNode.data.replace(/[\\w]/g, () => letters[next++ % letters.length]);
    each.style.filter = "blur(4px)";
  }
}"""


def main(out: Path) -> None:
    """Take it of the report that `make report` wrote."""
    if not REPORT.exists():
        sys.exit(f"{REPORT}: error: no report; run `make report` first")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        page = browser.new_page(viewport={"width": 1400, "height": 860})
        page.goto(f"{REPORT.as_uri()}#{SHOWN}")
        page.evaluate(BLUR)
        page.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
