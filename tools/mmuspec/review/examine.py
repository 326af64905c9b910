"""One patch: applied to the document, the two documents compared, everything new in it looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from mmuspec import rst
from mmuspec.document import Document, Item, Statement
from mmuspec.drift import Changed, Drift, between
from mmuspec.extract import extract
from mmuspec.fetch.places import DOCUMENT_PATHS
from mmuspec.review.checks import CONTEXT, NEW_TEXT, Check, Scene
from mmuspec.review.diffs import DiffLine, FileDiff, Kind, is_unsafe
from mmuspec.review.fields import compare_fields
from mmuspec.review.finding import Change, Changes, Finding, Level, PatchReview, Topic
from mmuspec.review.knowledge import Knowledge, verdicts_of
from mmuspec.review.names import Names
from mmuspec.review.patching import Patched, apply
from mmuspec.review.series import Patch
from mmuspec.review.trees import Tree
from mmuspec.review.words import marked, word_diff
from mmuspec.spec import Spec


@dataclass(frozen=True, slots=True)
class State:
    """The document as far as the series has brought it: its text, its statements, and their ids."""

    source: str
    document: Document
    spec: Spec
    complaints: tuple[rst.Complaint, ...] = ()


def examine(
    patch: Patch, state: State, knowledge: Knowledge, tree: Tree | None, *, blind: bool
) -> tuple[PatchReview, State]:
    """What there is to say of a patch, and the document after it. A patch that does not apply changes nothing."""
    message = patch.message
    review = PatchReview(
        message.path, message.line, message.subject, message.author, message.number, message.total
    )
    after = state
    for diff in patch.diffs:
        if _is_for(diff, state.document) and not diff.broken:
            after = _examine_diff(diff, after, review, knowledge, tree, blind)
        elif is_unsafe(diff.path):
            problem = f"{diff.path} leads out of the tree; such a diff is not read, and nothing was opened"
            review.problems.append((diff.line, problem))
        elif diff.broken and _is_for(diff, state.document):
            review.problems.append((diff.line, f"{diff.path}: {diff.broken}"))
        else:
            review.elsewhere.append(diff.path)
    digests = ([s.digest for s in each.document.statements] for each in (state, after))
    before_it, after_it = (knowledge.coverage(each) for each in digests)
    review.coverage = (before_it, after_it)
    return review, after


def _is_for(diff: FileDiff, document: Document) -> bool:
    """Whether a diff is for the document: for its path, an older one of its paths, or a file of its name."""
    if is_unsafe(diff.path):
        return False
    paths = {*DOCUMENT_PATHS, document.source.path, PurePosixPath(document.source.path).name}
    return diff.path in paths


def _examine_diff(
    diff: FileDiff, state: State, review: PatchReview, knowledge: Knowledge, tree: Tree | None, blind: bool
) -> State:
    patched = apply(state.source.split("\n"), diff.hunks, blind=blind)
    review.fits += patched.fits
    review.misfits += patched.misfits
    source = state.document.source
    text = "\n".join(patched.lines)
    document, complaints = extract(text, source.path, source.release)
    drift, spec = between(state.spec, state.document, document)
    after = State(text, document, spec, tuple(complaints))
    _Examination(state, after, drift, patched, knowledge, tree).into(review)
    return after


class _Examination:
    """The document before and after one diff."""

    def __init__(
        self,
        before: State,
        after: State,
        drift: Drift,
        patched: Patched,
        knowledge: Knowledge,
        tree: Tree | None,
    ) -> None:
        self.before, self.after, self.drift, self.patched = before, after, drift, patched
        self.knowledge = knowledge
        self.release = before.document.source.release
        names = Names(before.document, tree.has_name if tree else None)
        self.scene = Scene(after.document, names, tree)
        self.ids = {id(s): given for s, given in _with_ids(after)}
        self.old = {given: s for s, given in _with_ids(before)}
        self.new = {given: s for s, given in _with_ids(after)}

    def into(self, review: PatchReview) -> None:
        """Add all that there is to say."""
        touched = {*self.drift.added, *(c.id for c in self.drift.changed if c.kind != "markup")}
        texts = {s.digest for s in self.after.document.statements}
        known = [self.knowledge.of(digest) for digest in texts]
        self.knowledge.learn_tests([*(s.id for s in known if s), *self.drift.removed, *touched])
        self._changes(review.changes)
        review.changes.fields = compare_fields(self.before.document, self.after.document)
        review.findings += self._fields()
        for item in self.after.document.items:
            for statement in item.statements:
                if quote := self._shown(statement.line, statement.end_line):
                    review.quotes[self.ids[id(statement)]] = quote
                review.findings += self._statement(item, statement, touched)
        review.findings += self._gone()
        review.findings += self._broken_markup()

    def _changes(self, changes: Changes) -> None:
        changes.added += self.drift.added
        changes.removed += self.drift.removed
        changes.moved += self.drift.moved
        changes.changed += [
            Change(c.id, c.kind or "", c.before or "", c.after, word_diff(c.before or "", c.after))
            for c in self.drift.changed
        ]

    def _fields(self) -> Iterator[Finding]:
        known = {name for item in self.before.document.fields for name in item.names}
        described: set[str] = set()
        for item in self.after.document.fields:
            quote = self._shown(item.line, item.line)
            for name in item.names:
                if name in described and quote:
                    message = f"{name} is described a second time"
                    yield Finding(Topic.TWICE, Level.WARNING, message, quote, item.id, item.text)
                described.add(name)
            new = [name for name in item.names if name not in known]
            if new:
                joined = [name for name in item.names if name in known]
                what = f"joined with {', '.join(joined)}" if joined else "a new field"
                message = f"{', '.join(new)}: {what}; {self._said_of(item)}"
                yield Finding(Topic.FIELD, Level.NOTE, message, quote, item.id, item.text)
            for name in new:
                yield from self._no_member(name, quote, item)

    def _no_member(self, name: str, quote: tuple[DiffLine, ...], item: Item) -> Iterator[Finding]:
        for unknown, near in self.scene.names.unknown(name):
            hint = f"; did you mean {near}?" if near else ""
            message = f"{unknown} is no member of the struct{hint}"
            yield Finding(Topic.NAME, Level.WARNING, message, quote, item.id, item.text)

    def _said_of(self, item: Item) -> str:
        count = len(item.statements)
        known = [self.knowledge.of(s.digest) for s in item.statements]
        words = f"{count} statement{'s' * (count != 1)}"
        known_count = sum(s is not None for s in known)
        if not known_count:
            return f"{words}, none of them known"
        decided = sum(s is not None and bool(verdicts_of(s)) for s in known)
        return f"{words}, {known_count} of them known, {decided} with a verdict"

    def _statement(self, item: Item, statement: Statement, touched: set[str]) -> Iterator[Finding]:
        given = self.ids[id(statement)]
        quote = self._shown(statement.line, statement.end_line)
        if given in touched:
            if change := next((c for c in self.drift.changed if c.id == given), None):
                yield self._reworded(change, given, quote, statement)
            known = self.knowledge.finding(statement.digest, self.release)
            if known:
                yield replace(known, quote=quote, text=statement.text)
            yield from self._checked(NEW_TEXT, item, statement, given, quote)
        elif len(quote) == statement.end_line - statement.line + 1:
            known = self.knowledge.finding(statement.digest, self.release)
            if known and known.level is Level.WARNING:
                message = f"in the context: {known.message}"
                yield replace(known, message=message, quote=quote, text=statement.text)
            yield from self._checked(CONTEXT, item, statement, given, quote)
        if given in self.drift.moved and quote:
            yield Finding(Topic.MOVED, Level.NOTE, f"{given}: moved", quote, given, statement.text)

    def _reworded(
        self, change: Changed, given: str, quote: tuple[DiffLine, ...], statement: Statement
    ) -> Finding:
        removed = self._taken(self.old[given]) if given in self.old else ()
        lines = {line.at.number: line for line in (*removed, *quote)}
        words = marked(word_diff(change.before or "", statement.text))
        message = f"{given}: reworded ({change.kind}){self._touches(given)}: {words}"
        return Finding(
            Topic.REWORDED, Level.NOTE, message, tuple(lines[number] for number in sorted(lines)), given,
            statement.text, tests=self.knowledge.tests(given),
        )  # fmt: skip

    def _checked(
        self,
        checks: Sequence[tuple[Topic, Check]],
        item: Item,
        statement: Statement,
        given: str,
        quote: tuple[DiffLine, ...],
    ) -> Iterator[Finding]:
        in_context = "" if checks is NEW_TEXT else "in the context: "
        for topic, check in checks:
            for message in check(item, statement, self.scene):
                yield Finding(topic, Level.WARNING, f"{in_context}{message}", quote, given, statement.text)

    def _gone(self) -> Iterator[Finding]:
        for given in self.drift.removed:
            statement = self.old.get(given)
            if statement is None:
                continue
            quote = self._taken(statement)
            verdict = self.knowledge.of(statement.digest)
            said = verdict.curated.verdict if verdict else None
            told = f" (the spec calls it {said})" if said else ""
            message = f"{given}: removed{told}{self._touches(given)}"
            yield Finding(
                Topic.REMOVED, Level.NOTE, message, quote, given, statement.text,
                tests=self.knowledge.tests(given),
            )  # fmt: skip

    def _touches(self, given: str) -> str:
        tests = self.knowledge.tests(given)
        claimed = self.before.spec.find(given)
        claim = "its claim" if claimed and claimed.curated.claim else ""
        counted = f"{len(tests)} test{'s' * (len(tests) != 1)}" if tests else ""
        touched = " and ".join(each for each in (claim, counted) if each)
        return f"; touches {touched}" if touched else ""

    def _broken_markup(self) -> Iterator[Finding]:
        known = {complaint.message for complaint in self.before.complaints}
        for complaint in self.after.complaints:
            if complaint.level >= rst.ERROR_LEVEL and complaint.message not in known:
                quote = self._shown(complaint.line or 1, complaint.line or 1)
                yield Finding(Topic.MARKUP, Level.WARNING, f"broken RST: {complaint.message}", quote)

    def _shown(self, first: int, last: int) -> tuple[DiffLine, ...]:
        return _lines(self.patched.added, range(first, last + 1))

    def _taken(self, statement: Statement) -> tuple[DiffLine, ...]:
        """The lines of the diff that take (part of) a statement of the old document away."""
        shown = _lines(self.patched.removed, range(statement.line, statement.end_line + 1))
        return tuple(line for line in shown if line.kind is Kind.REMOVED) or shown


def _lines(shown: Mapping[int, DiffLine], numbers: Iterable[int]) -> tuple[DiffLine, ...]:
    return tuple(shown[number] for number in numbers if number in shown)


def _with_ids(state: State) -> list[tuple[Statement, str]]:
    """The statements of a document with the ids that its spec gives them."""
    return [
        (statement, known.id)
        for statement, known in zip(state.document.statements, state.spec.statements(), strict=True)
    ]
