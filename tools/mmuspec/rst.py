"""docutils reads the document: nothing included, nothing run, unknown names tolerated.

The result is docutils' own tree plus two things that it does not keep: which source lines are markup
alone (comments, directives, targets), and what it complained about.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

from docutils import nodes
from docutils.frontend import Values, get_default_settings
from docutils.parsers.rst import Directive, Parser, directives, roles
from docutils.utils import Reporter, new_document

# Directives whose body is prose that a reader reads; every other directive is markup from end to end.
PROSE_DIRECTIVES = frozenset(
    (
        "admonition attention caution danger error hint important note tip warning seealso todo topic "
        "sidebar container compound epigraph highlights pull-quote class only versionadded "
        "versionchanged deprecated table list-table flat-table"
    ).split()
)
# Directives whose argument is the first line of that prose.
PROSE_ARGUMENT = PROSE_DIRECTIVES - set(
    (
        "admonition topic sidebar container class only table list-table flat-table versionadded "
        "versionchanged deprecated"
    ).split()
)
# Directives whose body is a list of lists: rows of cells.
LIST_TABLES = frozenset({"list-table", "flat-table"})

ERROR_LEVEL = Reporter.ERROR_LEVEL
SEVERE_LEVEL = Reporter.SEVERE_LEVEL


@dataclass(frozen=True, slots=True)
class Complaint:
    """What docutils found wrong. `level` is docutils': 2 warning, 3 error, 4 severe."""

    line: int
    level: int
    message: str


@dataclass(slots=True)
class Reading:
    """A parsed document: the tree, the source lines that hold markup alone, the complaints."""

    tree: nodes.document
    markup_lines: set[int] = field(default_factory=set)
    complaints: list[Complaint] = field(default_factory=list)


def read(source: str) -> Reading:
    """Parse `source`. Raises what docutils raises on text that it cannot bear, `RecursionError` too."""
    settings = copy(_settings())
    settings.line_length_limit = max(map(len, source.splitlines()), default=0) + 1
    tree = new_document("document", settings)
    reading = Reading(tree)
    tree.reporter.attach_observer(lambda message: reading.complaints.append(_complaint(message)))
    with _names_looked_up_here(reading):
        Parser().parse(source, tree)
    return reading


@cache
def _settings() -> Values:
    settings = get_default_settings(Parser)
    settings.report_level = settings.halt_level = SEVERE_LEVEL + 1
    settings.raw_enabled = settings.file_insertion_enabled = False
    settings.warning_stream = False
    return settings


def _complaint(message: nodes.system_message) -> Complaint:
    return Complaint(message.get("line", 1), message["level"], message.children[0].astext())


class _AnyDirective(Directive):
    """Stands for every directive there is: keeps prose, notes where the markup is."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True
    reading: ClassVar[Reading]

    def run(self) -> list[nodes.Node]:
        size = len(self.block_text.splitlines())
        if self.name not in PROSE_DIRECTIVES:
            self.reading.markup_lines.update(range(self.lineno, self.lineno + size))
            return []
        self.reading.markup_lines.update(range(self.lineno, self.content_offset + 1))
        body = nodes.container(self.block_text)
        body.line = self.lineno
        if self.name in LIST_TABLES:
            body["rows"] = True
        if self.name in PROSE_ARGUMENT and self.arguments:
            body += self._argument()
        self.state.nested_parse(self.content, self.content_offset, body)
        return [body]

    def _argument(self) -> nodes.paragraph:
        text = self.arguments[0]
        children, messages = self.state.inline_text(text, self.lineno)
        paragraph = nodes.paragraph(text, "", *children, *messages)
        paragraph.line = self.lineno
        self.reading.markup_lines.difference_update(range(self.lineno, self.lineno + len(text.splitlines())))
        return paragraph


class _AnyOption(dict[str, Any]):
    """An option table in which every option exists, because we know none of them."""

    def __bool__(self) -> bool:
        return True

    def __missing__(self, _name: str) -> Any:
        return lambda argument: argument


def _any_role(
    _role: str, rawtext: str, text: str, _line: int, _inliner: Any, *_: Any
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Every role keeps the text a reader sees and drops the target: ``name <target>`` is ``name``."""
    shown, bracket, _target = text.partition(" <")
    if bracket and text.endswith(">"):
        text = shown
    return [nodes.inline(rawtext, text)], []


@contextmanager
def _names_looked_up_here(reading: Reading) -> Iterator[None]:
    """For the time of one parse, docutils finds our directive and our role under every name."""

    class _Here(_AnyDirective):
        option_spec = _AnyOption()

    _Here.reading = reading
    asked = directives.directive, roles.role
    directives.directive = lambda _name, _language, _document: (_Here, [])  # type: ignore[assignment]
    roles.role = lambda _name, _language, _line, _reporter: (_any_role, [])  # type: ignore[assignment, return-value]
    try:
        yield
    finally:
        directives.directive, roles.role = asked
