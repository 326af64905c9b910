"""The report as one HTML page that needs nothing else: no network, no other file.

Every value is escaped where it lands and has its hidden characters made visible. The page's policy allows
its own style and script by their digests, images that are in the page itself, and nothing else, whatever a
document smuggles in; a drawing shown as an image runs no script.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmuspec.report.build import Report
from mmuspec.report.links import Links
from mmuspec.report.marks import DRIFT_TELLS, DRIFTS, FATES, MARKS
from mmuspec.spec import Mmu, Verdict
from mmuspec.status import Status
from mmuspec.visible import visible

TEMPLATES = files("mmuspec.report") / "templates"


def page(report: Report, links: Links | None = None) -> str:
    """The whole page. Without `links` the names of tests lead nowhere."""
    style = _part("report.css") + _part("pictures.css")
    script = _part("report.js") + _part("pictures.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            statuses=Status,
            verdicts=list(Verdict),
            mmus=list(Mmu),
            marks=MARKS,
            fates=FATES,
            drifts=DRIFTS,
            drift_tells=DRIFT_TELLS,
            anchors=_anchors(report),
            source=_Source(report, links),
            style=Markup(style),  # noqa: S704 (ours)
            script=Markup(script),  # noqa: S704 (ours)
            policy=f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; img-src data:",
        )
    )


class _Source:
    """What the templates ask about a name: where its source is, and what it says of itself."""

    def __init__(self, report: Report, links: Links | None) -> None:
        self.places = report.places
        self.links = links

    def link(self, name: str) -> str:
        """The address of what has this name; empty if there is none."""
        place = self.places.get(name)
        return self.links(place) if place and self.links else ""

    def says(self, name: str) -> str:
        """The head of its docstring; empty if it has none."""
        place = self.places.get(name)
        return place.says if place else ""


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mmuspec.report"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pairs"] = lambda values: [(value, value) for value in values]
    return environment


def _anchors(report: Report) -> dict[str, str]:
    """Where each statement is in the page, by its id."""
    everything = (*report.dossiers, *(former.dossier for former in report.obsolete))
    return {dossier.id: dossier.anchor for dossier in everything}


def _shown(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _part(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _source(content: str) -> str:
    """What a content security policy calls an inline style or script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
