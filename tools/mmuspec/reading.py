"""Documents for the commands: fetched, taken apart, and refused if they cannot be what they should be."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mmuspec import rst
from mmuspec.cache import Cache
from mmuspec.document import Document
from mmuspec.errors import Problem
from mmuspec.extract import extract
from mmuspec.fetch import fetch
from mmuspec.fetch.content import read_file
from mmuspec.spec import Spec
from mmuspec.specfiles import load_spec

# What the page was before it became RST: docutils makes of it what it can.
NOT_RST = (".txt", ".txt.gz")


def read_document(doc: str, tree: Path | None = None, rev: str | None = None) -> Document:
    """`DOC` taken apart. Raises `Problem` if it cannot be had, is no text, or has nothing to say."""
    fetched = fetch(doc, tree=tree, rev=rev)
    document, _ = extract(fetched.source, fetched.path, fetched.release)
    if not document.items:
        raise Problem("has no sentence in it; is this the document?", fetched.path, 1)
    return document


def read_uncached(path: Path) -> Document:
    """Any document taken apart, one without a sentence too (a list of others, say); not kept in the cache."""
    document, _ = extract(read_file(path).decode("utf-8"), str(path))
    return document


def read_revision(doc: str, tree: Path | None = None, rev: str | None = None) -> Document:
    """As `read_document`, and it has to be a revision of mmu.rst: whole, with its field list."""
    fetched = fetch(doc, tree=tree, rev=rev)
    document, complaints = extract(fetched.source, fetched.path, fetched.release)
    where = fetched.path if fetched.release else doc
    broken = next((c for c in complaints if c.level >= rst.ERROR_LEVEL), None)
    if broken and not where.endswith(NOT_RST):
        raise Problem(f"broken RST: {broken.message} Mend the document", where, broken.line)
    if not document.fields:
        raise Problem(
            "describes no field (a list of `name:` entries, each with a text below it); is this mmu.rst?",
            where,
            1,
        )
    return document


def statements_at_hand(documents: Cache, sha256: str) -> dict[str, str]:
    """The statements of a cached document, text by digest; none if it is not at hand."""
    text = documents.text(sha256)
    return {s.digest: s.text for s in extract(text, "")[0].statements} if text is not None else {}


@cache
def load_spec_once(directory: Path) -> Spec:
    """The spec in a folder, read once a run."""
    return load_spec(directory)
