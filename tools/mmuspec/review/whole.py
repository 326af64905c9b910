"""A series: every patch in its turn, then the replies, then the series as a whole."""

from __future__ import annotations

from collections.abc import Iterable

from mmuspec.document import Statement
from mmuspec.drift import between, named
from mmuspec.errors import Problem
from mmuspec.extract import extract
from mmuspec.review.diffs import DiffLine
from mmuspec.review.examine import State, examine
from mmuspec.review.fields import compare_fields
from mmuspec.review.finding import Change, Finding, Level, PatchReview, SeriesReview, Topic
from mmuspec.review.knowledge import Knowledge
from mmuspec.review.message import Message
from mmuspec.review.patching import Misfit
from mmuspec.review.replies import remarks, statement_quoted
from mmuspec.review.series import Patch, Series, gather
from mmuspec.review.stub import stub_of
from mmuspec.review.trees import Tree
from mmuspec.review.words import word_diff
from mmuspec.spec import SpecStatement


def review(
    messages: Iterable[Message], source: str, path: str, release: str, knowledge: Knowledge, tree: Tree | None
) -> SeriesReview:
    """Review what is in `messages` against the document with this text, path and release. Raises `Problem`."""
    series = gather(messages)
    document, complaints = extract(source, path, release)
    if not document.items:
        raise Problem("has no sentence in it; is this the document?", path, 1)
    first = state = State(source, document, named(document, knowledge.spec), tuple(complaints))
    found = SeriesReview(path, release, missing=series.missing)
    said: set[tuple[str, str]] = set()
    for patch in series.patches:
        reviewed, after = examine(patch, state, knowledge, tree, blind=series.lacks_before(patch))
        reviewed.findings = [each for each in reviewed.findings if _is_new(each, said)]
        reviewed.findings += _objections(series, patch, state, after, reviewed)
        found.patches.append(reviewed)
        state = after
    _sum_up(found, series, first, state, knowledge)
    return found


def _is_new(finding: Finding, said: set[tuple[str, str]]) -> bool:
    """What an earlier patch of the series was told need not be said again of its context."""
    key = (finding.statement, finding.message)
    if key in said:
        return False
    said.add(key)
    return True


def _objections(
    series: Series, patch: Patch, before: State, after: State, review: PatchReview
) -> list[Finding]:
    """What replies to this patch say, below the statement that they quote."""
    fresh = _fresh(before, after)
    found = []
    for reply in series.replies:
        if not _answers(reply, patch):
            continue
        for remark in remarks(reply):
            statement = statement_quoted(remark, fresh) or statement_quoted(remark, after.document.statements)
            if statement is None:
                continue
            given = next(k.id for s, k in _zipped(after) if s is statement)
            quote = review.quotes.get(given) or _lines_quoted(patch, remark.quote)
            who = remark.author or "somebody"
            verb = "answers" if remark.answer else "objects"
            found.append(
                Finding(
                    Topic.OBJECTION,
                    Level.NOTE,
                    f"{who} {verb}: {remark.text}",
                    quote,
                    given,
                    statement.text,
                    place=(reply.path, remark.line),
                )
            )
    return found


def _answers(reply: Message, patch: Patch) -> bool:
    message = patch.message
    if reply.title == message.title:
        return reply.version == message.version
    return (reply.number, reply.total, reply.version) == (
        message.number,
        message.total,
        message.version,
    ) and (reply.number is not None)


def _fresh(before: State, after: State) -> list[Statement]:
    known = {statement.digest for statement in before.document.statements}
    return [statement for statement in after.document.statements if statement.digest not in known]


def _zipped(state: State) -> Iterable[tuple[Statement, SpecStatement]]:
    return zip(state.document.statements, state.spec.statements(), strict=True)


def _lines_quoted(patch: Patch, quote: tuple[str, ...]) -> tuple[DiffLine, ...]:
    """The lines of the patch that a reply quotes last."""
    wanted = quote[-1][1:].strip()
    lines = [line for diff in patch.diffs for hunk in diff.hunks for line in hunk.lines]
    return tuple([line for line in lines if wanted and line.text.strip().startswith(wanted)][-1:])


def _sum_up(found: SeriesReview, series: Series, first: State, last: State, knowledge: Knowledge) -> None:
    drift, spec = between(first.spec, first.document, last.document)
    # Ids given on the way are the ones that the findings name.
    names = {s.digest: k.id for s, k in _zipped(last)}
    given = {k.id: names[s.digest] for s, k in zip(last.document.statements, spec.statements(), strict=True)}
    changes = found.changes
    changes.added = [given.get(each, each) for each in drift.added]
    changes.removed, changes.moved = list(drift.removed), [given.get(each, each) for each in drift.moved]
    changes.changed = [
        Change(
            given.get(c.id, c.id), c.kind or "", c.before or "", c.after, word_diff(c.before or "", c.after)
        )
        for c in drift.changed
    ]
    changes.fields = compare_fields(first.document, last.document)
    found.coverage = (
        knowledge.coverage(s.digest for s in first.document.statements),
        knowledge.coverage(s.digest for s in last.document.statements),
    )
    found.todo, found.stub = stub_of(first, last, knowledge)
    for message in series.superseded:
        found.notes.append(
            f"{_at(message)}: [v{message.version}] is older than the series and was left out: {message.title}"
        )
    _complain(found, series)


def _complain(found: SeriesReview, series: Series) -> None:
    for message in series.unread:
        found.complaints += [(message.path, line.number, line.text) for line in message.complaints]
    for patch in found.patches:
        found.complaints += [(patch.path, line, text) for line, text in patch.problems]
        found.complaints += [(patch.path, misfit.line, _told(misfit)) for misfit in patch.misfits]


def _told(misfit: Misfit) -> str:
    if misfit.done:
        return f"hunk {misfit.hunk} is in the document already; leave it out, or name an older --base"
    there = f"`{misfit.found}`" if misfit.found else "an empty line"
    wanted = f"`{misfit.wanted}`" if misfit.wanted else "an empty line"
    return (
        f"hunk {misfit.hunk} does not apply: it wants {wanted}, and {there} stands on line {misfit.found_line}; "
        "rebase the patch, or name the document that it is for with --base"
    )


def _at(message: Message) -> str:
    return f"{message.path}:{message.line}"
