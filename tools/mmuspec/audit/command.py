"""``mmuspec audit``: from the command line's words to findings, printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from mmuspec.audit.compare import Audit, Members, compare
from mmuspec.audit.history import Age, ages
from mmuspec.audit.source import Sources, read_sources
from mmuspec.document import Document
from mmuspec.errors import Problem
from mmuspec.extract import extract
from mmuspec.fetch.content import document_bytes
from mmuspec.reading import read_revision
from mmuspec.spec import Spec
from mmuspec.visible import visible

SCHEMA = 1


def run(spec: Spec | None, place: Path, doc: str | None, rev: str | None, form: str) -> int:
    """Audit the sources in `place`, print what was found, and return the exit status. Raises `Problem`."""
    old, new = _revisions(rev, place)
    with _progress(place):
        sources = read_sources(place, new)
    document = read_revision(doc) if doc else _own_document(sources)
    audit = compare(document, sources, spec)
    history = ages(place, old, new, document, Members.of(sources)) if old and new else []
    if form == "json":
        click.echo(json.dumps(_as_data(audit, history), indent=1))
    else:
        click.echo(visible("\n".join(_lines(audit, history))))
    return int(bool(audit.findings))


def _revisions(rev: str | None, place: Path) -> tuple[str | None, str | None]:
    """The range that --rev names, its end alone for a single revision."""
    if rev is None:
        return None, None
    old, dots, new = rev.partition("..")
    if dots and not (old and new):
        raise Problem(f"--rev {rev} is half a range; name both ends, A..B", place)
    return (old, new) if dots else (None, rev)


def _own_document(sources: Sources) -> Document:
    """The document that came with the sources."""
    path = sources.document
    if path is None:
        raise Problem("has no mmu.rst in it; name one with --doc", sources.name)
    text = document_bytes(sources.files[path], f"{sources.name}: {path}").decode("utf-8")
    document, _ = extract(text, path, sources.release)
    if not document.fields:
        raise Problem("describes no field; name another document with --doc", f"{sources.name}: {path}", 1)
    return document


@contextmanager
def _progress(place: Path) -> Iterator[None]:
    """Shown on a terminal only: a package takes a while to unpack."""
    from rich.console import Console

    with Console(stderr=True).status(f"reading {place}"):
        yield


def _lines(audit: Audit, history: list[Age]) -> Iterator[str]:
    for finding in audit.findings:
        yield f"{finding.path}:{finding.line}: warning: {finding.message}"
    for age in history:
        times = f"{age.changes} commit{'s' * (age.changes != 1)}"
        yield (
            f"{audit.document}:{age.line}: note: '{age.name}' was touched by {times} since its description "
            f"last changed ({age.since})"
        )
    release = f" of {audit.release}" if audit.release else ""
    count = len(audit.findings)
    warnings = f"{count} warning{'s' * (count != 1)}" if count else "nothing to say"
    yield f"{audit.document}{release}: {audit.described} fields, {audit.members} members; {warnings}"


def _as_data(audit: Audit, history: list[Age]) -> dict[str, object]:
    """The published schema; `docs/reviewing.md` says what its keys are."""
    return {"schema": SCHEMA, **asdict(audit), "history": [asdict(age) for age in history]}
