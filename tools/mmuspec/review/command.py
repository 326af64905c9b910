"""``mmuspec review``: from the command line's words to a review, printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from mmuspec import results
from mmuspec.errors import Problem
from mmuspec.fetch import fetch
from mmuspec.fetch.tree import revision_of_tree
from mmuspec.review.data_form import as_data
from mmuspec.review.finding import SeriesReview
from mmuspec.review.knowledge import Knowledge
from mmuspec.review.mailbox import messages
from mmuspec.review.markdown import as_markdown
from mmuspec.review.message import Message
from mmuspec.review.text import as_text
from mmuspec.review.trees import Tree, messages_of_range, range_named
from mmuspec.review.whole import review
from mmuspec.spec import Spec

FORMS: dict[str, Callable[[SeriesReview], str]] = {
    "text": as_text,
    "md": as_markdown,
    "json": lambda found: json.dumps(as_data(found), indent=1) + "\n",
}


def run(
    spec: Spec | None,
    root: Path,
    patches: Sequence[str],
    base: str | None,
    tree: Path | None,
    ran: Sequence[Path],
    form: str,
) -> int:
    """Review `patches`, print it, and return the exit status. Raises `Problem`.

    `spec` is what is known, if anything is; `root` the folder with the tests and the results of their last run.
    """
    span = _range(patches, tree)
    source, path, release = _base(spec, base, tree, span)
    read = messages_of_range(tree, *span) if tree and span else _all(patches)
    place = Tree(tree, span[1] if span else None) if tree else None
    knowledge = Knowledge(spec, _results(root, ran), root)
    found = review(read, source, path, release, knowledge, place)
    if not span and not any(patch.touches for patch in found.patches) and not found.complaints:
        _nothing_to_review(found, patches)
    click.echo(FORMS[form](found), nl=False)
    for file, line, text in found.complaints:
        click.echo(str(Problem(text, file, line)), err=True)
    return 2 if found.complaints else int(found.has_findings)


def _range(patches: Sequence[str], tree: Path | None) -> tuple[str, str] | None:
    spans = {patch: span for patch in patches if (span := range_named(patch))}
    for patch in spans:
        if tree is None:
            raise Problem("a range of commits needs the tree that has them; name it with --tree", patch)
        if len(patches) > 1:
            raise Problem("a range of commits is reviewed alone; leave the other arguments out", patch)
    return next(iter(spans.values()), None)


def _base(
    spec: Spec | None, base: str | None, tree: Path | None, span: tuple[str, str] | None
) -> tuple[str, str, str]:
    """Text, path and release of the document that the patches are for."""
    if base is None and tree and span:
        found = revision_of_tree(tree, span[0], "")
        return found.data.decode("utf-8"), found.path, found.release
    if base is None and spec is None:
        raise Problem("there is no spec to say which document is meant; name it with --base")
    named = base or (spec and (spec.source.release or spec.source.path)) or ""
    fetched = fetch(named, tree=tree)
    return fetched.source, fetched.path, fetched.release


def _results(root: Path, ran: Sequence[Path]) -> results.Results | None:
    default = root / results.DEFAULT
    chosen = ran or ((default,) if default.exists() else ())
    return results.load(chosen) if chosen else None


def _nothing_to_review(found: SeriesReview, patches: Sequence[str]) -> None:
    """Raises `Problem`: input without a patch for the document is a mistake, or bad input."""
    others = sorted({path for patch in found.patches for path in patch.elsewhere})
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise Problem(
            f"no patch for {found.base} in it, only for {', '.join(others[:3])}{more}; "
            "name the document that it is for with --base",
            patches[0],
        )
    raise Problem("no patch in it: no mail with a diff that is not a reply, and no diff", patches[0])


def _all(patches: Sequence[str]) -> Iterator[Message]:
    for patch in patches:
        yield from messages(patch)
