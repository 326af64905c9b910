"""The review as a reply: each finding under the quoted line that it is about, fit to be pasted into a mail."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from mmuspec.results import Test
from mmuspec.review.diffs import DiffLine
from mmuspec.review.finding import Changes, Coverage, Finding, PatchReview, SeriesReview
from mmuspec.review.patching import Fit
from mmuspec.review.series import Missing
from mmuspec.visible import visible

WIDTH = 75
INDENT = "  "
NOTHING = "Nothing to say."


def as_text(review: SeriesReview) -> str:
    """All of it, each patch a reply of its own, the series last."""
    parts = [*(_patch(patch, review) for patch in review.patches), _series(review)]
    return visible("\n\n".join("\n".join(part).rstrip("\n") for part in map(list, parts) if part) + "\n")


def _patch(patch: PatchReview, review: SeriesReview) -> Iterator[str]:
    subject = patch.subject or f"(no subject) {patch.path}"
    yield f"Subject: Re: {subject}"
    yield ""
    yield from _wrapped(
        f"{patch.path}:{patch.line}{f', by {patch.author}' if patch.author else ''}: {_summary(patch)}"
    )
    for line in _fits(patch):
        yield from _wrapped(line)
    for misfit in patch.misfits:
        yield from _wrapped(
            f"{patch.path}:{misfit.line}: WARNING: hunk {misfit.hunk} does not apply; see below."
        )
    if patch.coverage and patch.changes != Changes():
        yield from _wrapped(f"Coverage: {coverage(*patch.coverage)}.")
    yield from _findings(patch)


def _summary(patch: PatchReview) -> str:
    told = counts(patch.changes)
    others = f"; other files, not reviewed: {', '.join(patch.elsewhere)}" if patch.elsewhere else ""
    return f"{told}{others}."


def counts(changes: Changes) -> str:
    """How much happened to statements and fields."""
    words = [
        f"{len(ids)} {word}"
        for word, ids in (
            ("added", changes.added), ("removed", changes.removed),
            ("reworded", changes.changed), ("moved", changes.moved),
        )
        if ids
    ]  # fmt: skip
    fields = [
        f"{word} {', '.join(names)}"
        for word, names in (
            ("fields added:", changes.fields.added), ("fields joined:", changes.fields.joined),
            ("fields removed:", changes.fields.removed),
        )
        if names
    ]  # fmt: skip
    return "; ".join([f"statements: {', '.join(words)}" if words else "no statement changed", *fields])


def coverage(before: Coverage, after: Coverage) -> str:
    """Before and after, in one line."""
    return f"before {_covered(before)}; after {_covered(after)}"


def _covered(of: Coverage) -> str:
    proven = f", {of.proven} proven" if of.proven is not None else ""
    return f"{of.statements} statements, {of.claimed} with a claim, {of.decided} with a verdict{proven}"


def _fits(patch: PatchReview) -> Iterator[str]:
    for fit in patch.fits:
        if not fit.is_exact:
            yield f"Hunk {fit.hunk} (line {fit.line}) applied {how(fit)}."


def how(fit: Fit) -> str:
    """What had to be done to make a hunk fit."""
    lines = f"{abs(fit.offset)} line{'s' * (abs(fit.offset) != 1)}"
    told = [
        f"{lines} further {'down' if fit.offset > 0 else 'up'}" if fit.offset else "",
        f"with fuzz {fit.fuzz}" if fit.fuzz else "",
        "white space aside, indented as the document is" if fit.folded else "",
    ]
    return ", ".join(each for each in told if each)


def _findings(patch: PatchReview) -> Iterator[str]:
    ordered = sorted(patch.findings, key=lambda f: (f.line or 0, f.quote[0].at.number if f.quote else 0))
    last: tuple[DiffLine, ...] = ()
    for finding in ordered:
        if finding.quote != last:
            yield ""
            done = last[-1].at.number if last else 0
            rest = [line for line in finding.quote if line.at.number > done]
            yield from (f"> {line.at.text}" for line in rest or finding.quote)
            last = finding.quote
        yield ""
        yield from _finding(finding, patch.path)


def _finding(finding: Finding, path: str) -> Iterator[str]:
    place = f"{path}:{finding.line}" if finding.line else path
    yield from _wrapped(f"{place}: {finding.level}: {finding.message}")
    if finding.place:
        yield from _wrapped(f"Said in {finding.place[0]}:{finding.place[1]}.", INDENT)
    if finding.why:
        yield from _wrapped(finding.why, INDENT)
    for test in finding.tests:
        yield from _wrapped(told(test), INDENT)


def told(test: Test) -> str:
    """A test in one line."""
    verb = "refuted by" if test.refutes else "tested by"
    return f"{verb} {test.nodeid}{f' ({test.outcome})' if test.outcome else ''}"


def _series(review: SeriesReview) -> Iterator[str]:
    release = f" of {review.release}" if review.release else ""
    yield f"The whole, against {review.base}{release}"
    yield ""
    for missing in review.missing:
        yield from _wrapped(absent(missing))
    for note in review.notes:
        yield from _wrapped(note)
    for path, line, text in review.complaints:
        yield from _wrapped(f"{path}{f':{line}' if line else ''}: error: {text}")
    warnings = sum(f.level == "WARNING" for patch in review.patches for f in patch.findings)
    changed = counts(review.changes)
    yield from _wrapped(f"{len(review.patches)} patches; {changed}; {warnings} warnings.")
    if review.coverage:
        yield from _wrapped(f"Coverage: {coverage(*review.coverage)}.")
    if not review.has_findings and not review.complaints:
        yield NOTHING
    if review.todo:
        yield ""
        plural = "s have" if len(review.todo) != 1 else " has"
        yield from _wrapped(
            f"To do: {len(review.todo)} new statement{plural} no claim yet. For the spec, once the series is "
            "in; to each belong a claim in words of your own, a test, and then a verdict:"
        )
        yield ""
        yield from review.stub.splitlines()


def absent(missing: Missing) -> str:
    """A patch that is not there, in one sentence."""
    title = f" ({missing.title})" if missing.title else ""
    return (
        f"Patch {missing.number}/{missing.total}{title} is not in the input; those after it were applied without "
        "it, and nothing is said of what it does."
    )


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Ids, paths and places stay whole: they are there to be copied, or to be parsed."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent or INDENT,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
