"""A Sphinx extension: what is known of each statement, beside it in the kernel's own documentation.

In ``conf.py``::

    extensions += ["mmuspec.sphinx"]
    mmuspec_results = "build/results.json"  # or report.json
    mmuspec_report = "https://example.org/mmu/index.html"  # where marks lead; left out, nowhere

HTML gets marks; other builders get the document as it is. Without results the extension does nothing and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from mmuspec.errors import Problem
from mmuspec.home import spec_directory
from mmuspec.sphinx.known import known_of
from mmuspec.sphinx.marks import STYLE, mark, mark_for, visit
from mmuspec.sphinx.places import put

STATIC = Path(__file__).parent / "static"
DOCUMENT = "virt/kvm/x86/mmu"
log = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_config_value("mmuspec_document", DOCUMENT, "env", types=frozenset({str}))
    app.add_config_value("mmuspec_results", "build/results.json", "env", types=frozenset({str}))
    app.add_config_value("mmuspec_spec", "", "env", types=frozenset({str}))
    app.add_config_value("mmuspec_report", "", "env", types=frozenset({str}))
    app.add_node(mark, html=(visit, None))
    app.connect("builder-inited", _add_style)
    app.connect("doctree-read", _put_marks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _add_style(app: Sphinx) -> None:
    if app.builder.format == "html":
        app.config.html_static_path.append(str(STATIC))
        app.add_css_file(STYLE)


def _put_marks(app: Sphinx, doctree: nodes.document) -> None:
    docname = app.env.docname
    if docname != app.config.mmuspec_document:
        return
    results = Path(app.confdir, app.config.mmuspec_results)
    spec = Path(app.confdir, app.config.mmuspec_spec) if app.config.mmuspec_spec else None
    directory = spec or spec_directory(Path(app.confdir))
    for path in (results, *sorted(directory.glob("*.yaml"))):
        app.env.note_dependency(str(path))
    try:
        known = known_of(directory, results, Path(app.env.doc2path(docname)))
    except Problem as problem:
        log.info("mmuspec: no marks in %s: %s", docname, problem)
        return
    report = app.config.mmuspec_report
    placed = put(doctree, [(each.words, mark_for(each, report)) for each in known])
    log.info("mmuspec: marks in %s: %d of %d statements", docname, placed, len(known))
