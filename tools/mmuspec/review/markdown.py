"""The review as Markdown, for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mmuspec.review.finding import Finding, PatchReview, SeriesReview
from mmuspec.review.text import NOTHING, absent, counts, coverage, how, told
from mmuspec.visible import visible

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~@])")
FENCE = "````"


def as_markdown(review: SeriesReview) -> str:
    """All of it, a heading a patch."""
    return visible("\n".join(_lines(review)).rstrip("\n") + "\n")


def _lines(review: SeriesReview) -> Iterator[str]:
    release = f" of {review.release}" if review.release else ""
    yield f"## Review against {_escaped(review.base)}{release}"
    yield ""
    yield f"{_escaped(counts(review.changes))}."
    yield ""
    if review.coverage:
        yield f"Coverage: {coverage(*review.coverage)}."
        yield ""
    for line in (*map(absent, review.missing), *review.notes):
        yield f"- {_escaped(line)}"
    for path, number, text in review.complaints:
        yield f"- **error** `{path}{f':{number}' if number else ''}`: {_escaped(text)}"
    if not review.has_findings and not review.complaints:
        yield NOTHING
    for patch in review.patches:
        yield from _patch(patch)
    if review.todo:
        yield ""
        yield f"<details><summary>To do: {len(review.todo)} new statements without a claim</summary>"
        yield ""
        yield from (f"{FENCE}yaml", *review.stub.splitlines(), FENCE, "", "</details>")


def _patch(patch: PatchReview) -> Iterator[str]:
    yield ""
    yield f"### {_escaped(patch.subject or patch.path)}"
    yield ""
    yield f"{_escaped(counts(patch.changes))}."
    for fit in patch.fits:
        if not fit.is_exact:
            yield f"Hunk {fit.hunk} applied {how(fit)}."
    for finding in patch.findings:
        yield ""
        yield from _finding(finding, patch.path)


def _finding(finding: Finding, path: str) -> Iterator[str]:
    if finding.quote:
        yield from (f"{FENCE}diff", *(line.at.text for line in finding.quote), FENCE)
    place = f"`{path}:{finding.line}`" if finding.line else f"`{path}`"
    yield f"- **{finding.level}** {place}: {_escaped(finding.message)}"
    if finding.why:
        yield f"  - {_escaped(finding.why)}"
    if finding.place:
        yield f"  - said in `{finding.place[0]}:{finding.place[1]}`"
    for test in finding.tests:
        yield f"  - {_escaped(told(test))}"


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", text)
