"""The report as Markdown for a pull request: totals, what is wrong, the sections.

Every value is escaped where it lands: what came from a document or a test is text, never markup.
"""

from __future__ import annotations

import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmuspec.report.build import Report
from mmuspec.report.marks import MARKS
from mmuspec.status import Status
from mmuspec.text import fold
from mmuspec.visible import visible

# What Markdown, in GitHub's dialect too, gives a meaning anywhere in a line.
SPECIAL = re.compile(r"[\\`*_{}\[\]()<>#+!|~$:&-]")
BACKTICKS = re.compile(r"`+")
# A list is cut here: a comment on a pull request holds 65,536 characters.
LISTED = 50


def summary(report: Report) -> str:
    """The whole text."""
    environment = Environment(  # noqa: S701 (not HTML: `finalize` escapes)
        loader=PackageLoader("mmuspec.report"),
        finalize=_escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = code
    environment.globals["marked"] = Marked
    return environment.get_template("report.md.j2").render(
        report=report, statuses=Status, marks=MARKS, listed=LISTED
    )


class Marked(str):
    """Text that is Markdown already."""


def code(text: str) -> Marked:
    """`text` as a code span, fit for a table too; backticks in it make the fence longer."""
    inside = fold(visible(text))
    fence = "`" * (max(map(len, BACKTICKS.findall(inside)), default=0) + 1)
    pad = " " if inside.startswith("`") or inside.endswith("`") or not inside else ""
    return Marked(fence + pad + inside.replace("|", r"\|") + pad + fence)


def _escaped(value: object) -> object:
    if isinstance(value, Marked) or not isinstance(value, str):
        return value
    escaped = SPECIAL.sub(lambda match: "\\" + match[0], fold(visible(value)))
    return escaped.replace("@", "@&#8203;")  # nobody is to be called to the pull request
