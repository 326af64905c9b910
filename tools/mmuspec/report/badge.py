"""The report in one line: a badge to show on a page, and the same as data for services that draw badges."""

from __future__ import annotations

import json
from dataclasses import dataclass

from markupsafe import escape

from mmuspec.report.build import Report
from mmuspec.status import Status
from mmuspec.visible import visible

HEIGHT, PADDING, ADVANCE = 20, 7, 6.6
"""Pixels; the advance is that of a character of Verdana at 11 px, on average."""
GOOD, KNOWN_WRONG, BAD, EMPTY = "#1d6b3f", "#8a4b00", "#b0221b", "#5f6368"
"""White text on each has a contrast of at least 4.5."""


@dataclass(frozen=True, slots=True)
class Badge:
    """Two texts side by side, and the colour behind the second."""

    label: str
    message: str
    colour: str

    @property
    def svg(self) -> str:
        """A picture that needs nothing else."""
        left, right = _width(self.label), _width(self.message)
        told = escape(f"{self.label}: {self.message}")
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="{HEIGHT}" role="img" '
            f'aria-label="{told}"><title>{told}</title>'
            f'<rect width="{left}" height="{HEIGHT}" fill="#3c4043"/>'
            f'<rect x="{left}" width="{right}" height="{HEIGHT}" fill="{self.colour}"/>'
            '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
            f"{_text(self.label, 0, left)}{_text(self.message, left, right)}</g></svg>\n"
        )

    @property
    def endpoint(self) -> str:
        """What shields.io calls an endpoint."""
        data = {"schemaVersion": 1, "label": self.label, "message": self.message, "color": self.colour}
        return json.dumps(data) + "\n"


def badge(report: Report) -> Badge:
    """How much of the document is settled, one way or the other; a test that fails comes before all else."""
    release = f" {report.source.release}" if report.source.release else ""
    label = visible(f"{report.source.path.rpartition('/')[2] or 'document'}{release}")
    totals, everything = report.totals, len(report.dossiers)
    if totals[Status.FAILING]:
        return Badge(label, f"{totals[Status.FAILING]} of {everything} failing", BAD)
    if not totals[Status.PROVEN] + totals[Status.REFUTED]:
        return Badge(label, "nothing proven", EMPTY)
    message = f"{totals[Status.PROVEN]} of {everything} proven"
    if totals[Status.REFUTED]:
        return Badge(label, f"{message}, {totals[Status.REFUTED]} refuted", KNOWN_WRONG)
    return Badge(label, message, GOOD)


def _width(text: str) -> int:
    return round(len(text) * ADVANCE) + 2 * PADDING


def _text(text: str, start: int, width: int) -> str:
    inside = width - 2 * PADDING
    return f'<text x="{start + PADDING}" y="14" textLength="{inside}">{escape(text)}</text>'
