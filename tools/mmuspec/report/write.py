"""The report on disk: a page to read, texts for a pull request and for mail, data for programs and viewers."""

from __future__ import annotations

import json
from pathlib import Path

from mmuspec import folder
from mmuspec.report import html, lcov, mail, markdown
from mmuspec.report.badge import badge
from mmuspec.report.build import Report
from mmuspec.report.links import Links
from mmuspec.results import as_json

PAGE, SUMMARY, DATA = "index.html", "report.md", "report.json"
MAIL, COVERAGE = "report.txt", "lcov.info"
BADGE, ENDPOINT = "badge.svg", "badge.json"


def write(report: Report, out: Path, links: Links | None = None) -> Path:
    """Write all files into `out`, or none; returns the path of the page. `links` lead to the tests' source.

    Raises `Problem` if the folder cannot be written.
    """
    folder.replace(
        out,
        {
            PAGE: html.page(report, links),
            SUMMARY: markdown.summary(report),
            MAIL: mail.text(report),
            COVERAGE: lcov.tracefile(report),
            DATA: json.dumps(as_json(report.results), indent=1) + "\n",
            BADGE: badge(report).svg,
            ENDPOINT: badge(report).endpoint,
        },
    )
    return out / PAGE
