"""The mark of one statement: a sign to see, a name to hear, a link to what is known."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from docutils import nodes

from mmuspec.report.marks import MARKS
from mmuspec.spec import REFUTED
from mmuspec.sphinx.known import Known
from mmuspec.text import fold
from mmuspec.visible import visible

STYLE = "mmuspec.css"


class mark(nodes.inline):  # noqa: N801 (docutils names visitors after classes)
    """Has no text: a builder that knows nothing of it treats it as an empty inline, and shows nothing."""


def mark_for(known: Known, report: str) -> mark:
    """The mark; `report` is the address of the report's page, or empty."""
    dossier = known.dossier
    said = dossier.verdict.value if dossier.verdict in REFUTED and dossier.verdict else dossier.status.value
    named = f"{said}: {dossier.id}"
    return mark(
        "",
        classes=["mmuspec-mark", f"mmuspec-{dossier.status.value}"],
        sign=MARKS[dossier.status].sign,
        named=fold(visible(named)),
        told=fold(visible(f"{named}: {dossier.claim}" if dossier.claim else named)),
        address=f"{report}#{quote(dossier.anchor, safe='/:')}" if report else "",
    )


def visit(translator: Any, node: nodes.Element) -> None:
    """Writes the mark as HTML: a link named after status and statement; without an address, an image of that name."""
    attributes = {"aria-label": node["named"], "title": node["told"]}
    if node["address"]:
        element, attributes["href"] = "a", node["address"]
    else:
        element, attributes["role"] = "span", "img"
    translator.body.append(translator.starttag(node, element, "", **attributes))
    translator.body.append(f"{translator.encode(node['sign'])}</{element}>")
    raise nodes.SkipNode
