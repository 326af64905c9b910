"""The report on disk: a page to read, a text for a pull request, data for programs."""

from __future__ import annotations

import json
from pathlib import Path

from mmuspec import folder
from mmuspec.report import html, markdown
from mmuspec.report.build import Report
from mmuspec.results import as_json

PAGE, SUMMARY, DATA = "index.html", "report.md", "report.json"


def write(report: Report, out: Path) -> Path:
    """Write all three files into `out`, or none; returns the path of the page.

    Raises `Problem` if the folder cannot be written.
    """
    folder.replace(
        out,
        {
            PAGE: html.page(report),
            SUMMARY: markdown.summary(report),
            DATA: json.dumps(as_json(report.results), indent=1) + "\n",
        },
    )
    return out / PAGE
