"""Documents for the commands: fetched, taken apart, and refused if they cannot be what they should be."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mmuspec import rst
from mmuspec.document import Document
from mmuspec.errors import Problem
from mmuspec.extract import extract
from mmuspec.fetch import Fetched, fetch
from mmuspec.spec import Spec
from mmuspec.specfiles import load_spec


def read_document(doc: str, tree: Path | None = None, rev: str | None = None) -> Document:
    """`DOC` taken apart. Raises `Problem` if it cannot be had, is no text, or has nothing to say."""
    return taken_apart(fetch(doc, tree=tree, rev=rev))


def taken_apart(fetched: Fetched) -> Document:
    """A fetched text taken apart. Raises `Problem` if there is no statement in it."""
    document, _ = extract(fetched.source, fetched.path, fetched.release)
    if not document.items:
        raise Problem("has no sentence in it; is this the document?", fetched.path, 1)
    return document


def read_revision(doc: str, tree: Path | None = None, rev: str | None = None) -> Document:
    """As `read_document`, and it has to be a revision of mmu.rst: whole, with its field list."""
    fetched = fetch(doc, tree=tree, rev=rev)
    document, complaints = extract(fetched.source, fetched.path, fetched.release)
    where = fetched.path if fetched.release else doc
    severe = next((c for c in complaints if c.level >= rst.SEVERE_LEVEL), None)
    if severe:
        raise Problem(f"broken RST: {severe.message}; mend the document", where, severe.line)
    if not document.fields:
        raise Problem(
            "describes no field (a list of `name:` entries, each with a text below it); is this mmu.rst?",
            where,
            1,
        )
    return document


@cache
def load_spec_once(directory: Path) -> Spec:
    """The spec in a folder, read once a run."""
    return load_spec(directory)
