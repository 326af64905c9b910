"""Bringing the spec up to date with a document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmuspec.cache import Cache
from mmuspec.errors import Problem
from mmuspec.merge import Merge, bare, merge
from mmuspec.reading import read_revision
from mmuspec.specfiles import is_canonical, load_spec, save_spec


def regenerate(directory: Path, doc: str, tree: Path | None = None, rev: str | None = None) -> Iterator[str]:
    """Write the spec of `doc` into `directory` and say, line by line, what was done.

    Raises `Problem`, and writes nothing, if the spec or the document cannot be read, or if statements are
    gone whose old words are not at hand: one of them may be a new one reworded.
    """
    document = read_revision(doc, tree, rev)
    if not any(directory.glob("*.yaml")):
        save_spec(bare(document), directory)
        yield f"{directory}: made from {document.source.path}: {len(document.statements)} statements, all new"
        return
    spec = load_spec(directory)
    merged = merge(spec, document, Cache().words_of)
    if merged.wordless:
        raise Problem(
            f"{len(merged.wordless)} statements are gone and their old words are not at hand (the first is "
            f"{merged.wordless[0]}), so whether they were reworded cannot be told; run "
            f"`mmuspec fetch {spec.source.release or spec.source.path}` for the document with sha256 "
            f"{spec.source.sha256[:16]}",
            directory,
        )
    same = merged.spec == spec
    if not same or not is_canonical(spec, directory):
        save_spec(merged.spec, directory)
        if same:
            yield f"{directory}: written in the canonical form, so that the next change shows what changed"
    yield from _report(merged, directory)


def _report(merged: Merge, directory: Path) -> Iterator[str]:
    done = {
        "added": [each for each in merged.added if each not in merged.returned],
        "came back": merged.returned,
        "removed": merged.removed,
        "moved": merged.moved,
        "reworded": [change.id for change in merged.changed],
    }
    for what, ids in done.items():
        yield from (f"{what:<10} {each}" for each in ids)
    total = sum(1 for _ in merged.spec.statements())
    counts = ", ".join(f"{len(ids)} {what}" for what, ids in done.items() if ids) or "nothing to do"
    yield f"{directory}: {total} statements; {counts}"
