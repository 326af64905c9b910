"""Which statement of a new document is which statement of the spec: the heart of regen, check and diff.

The policy, first rule that applies:

=============  =========================================================  ==============================
the statement  is recognised by                                           and keeps
=============  =========================================================  ==============================
unchanged      its digest, in the order of the document                   everything
moved          its digest, elsewhere                                      everything
taken back     its digest is that of a former wording of a statement      id; the curated words it had
               whose present wording is gone                              with that wording
come back      its digest, among the obsolete                             everything
reworded       likeness to a statement that is gone: `LIKE_IN_PLACE` in   id and curated words, marked
               the same item, `LIKE_ANYWHERE` outside it                  ``since: changed``
new            none of these                                              a new id, ``since: new``
=============  =========================================================  ==============================

A statement of the spec that no statement of the document is goes to the obsolete ones, and so does each
former wording; no curated word is dropped. A statement whose digest stands in the document is never a
candidate for rewording: that is the guess which gives one statement's id to another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

from mmuspec.document import Document, Item, Statement
from mmuspec.similarity import likeness
from mmuspec.slugs import text_slug, unique
from mmuspec.spec import Curated, Obsolete, Since, Spec, SpecItem, SpecStatement

LIKE_IN_PLACE = 0.45
LIKE_ANYWHERE = 0.7
FORMER_DIGITS = 4

# The words that had a digest, or None if no document at hand has them.
WordsOf = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Change:
    """A statement whose words are others now. `before` is None where the old words are not at hand."""

    id: str
    before: str | None
    after: str


@dataclass(slots=True)
class Merge:
    """The new spec, and what was done: ids in the order of the document they stand in."""

    spec: Spec
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    changed: list[Change] = field(default_factory=list)
    wordless: list[str] = field(default_factory=list)
    """Ids of statements that are gone and whose old words are not at hand, while unknown ones stand in the
    document: one may be the other reworded, and nobody can tell."""


@dataclass(slots=True, eq=False)
class _Old:
    """A statement of the spec and the item it belongs to."""

    item: SpecItem
    statement: SpecStatement


@dataclass(slots=True, eq=False)
class _New:
    """A statement of the document, and what it turns out to be."""

    item: Item
    statement: Statement
    old: _Old | None = None
    obsolete: Obsolete | None = None
    moved: bool = False
    reworded: bool = False


def merge(spec: Spec, document: Document, words_of: WordsOf) -> Merge:
    """Bring `spec` up to `document`. Neither is changed."""
    old = [_Old(item, statement) for item in spec.items for statement in item.statements]
    new = [_New(item, statement) for item in document.items for statement in item.statements]
    _same_words_in_order(old, new)
    _same_words_elsewhere(_unclaimed(old, new), new)
    _taken_back(spec.obsolete, _unclaimed(old, new), new)
    _come_back(spec.obsolete, new)
    wordless = _reworded(_unclaimed(old, new), new, words_of)
    return _assemble(spec, document, old, new, words_of, wordless)


def _same_words_in_order(old: Sequence[_Old], new: Sequence[_New]) -> None:
    before = [(o.statement.digest) for o in old]
    after = [(n.statement.digest) for n in new]
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for i, j, size in matcher.get_matching_blocks():
        for offset in range(size):
            new[j + offset].old = old[i + offset]


def _same_words_elsewhere(left: Sequence[_Old], new: Sequence[_New]) -> None:
    """Where the same words stand more than once, those in an item of the same name belong together first."""
    by_digest: dict[str, list[_Old]] = defaultdict(list)
    for candidate in left:
        by_digest[candidate.statement.digest].append(candidate)
    for statement in (n for n in new if n.old is None):
        candidates = by_digest[statement.statement.digest]
        candidates.sort(key=lambda c: c.item.names != statement.item.names)
        if candidates:
            statement.old, statement.moved = candidates.pop(0), True


def _taken_back(obsolete: Iterable[Obsolete], left: Sequence[_Old], new: Sequence[_New]) -> None:
    present = {o.statement.id: o for o in left}
    former = [o for o in obsolete if o.replaced_by in present]
    for statement in (n for n in new if n.old is None):
        found = next((f for f in former if f.statement.digest == statement.statement.digest), None)
        if found:
            statement.old, statement.obsolete = present.pop(found.replaced_by), found
            former = [f for f in former if f.replaced_by != found.replaced_by]


def _come_back(obsolete: Iterable[Obsolete], new: Sequence[_New]) -> None:
    waiting: dict[str, list[Obsolete]] = defaultdict(list)
    used = {n.obsolete.statement.id for n in new if n.obsolete}
    for entry in obsolete:
        if entry.statement.id not in used:
            waiting[entry.statement.digest].append(entry)
    for statement in (n for n in new if n.old is None and n.obsolete is None):
        if waiting[statement.statement.digest]:
            statement.obsolete = waiting[statement.statement.digest].pop(0)


def _reworded(left: Sequence[_Old], new: Sequence[_New], words_of: WordsOf) -> list[_Old]:
    """Pair what is gone with what is unknown, best likeness first; return what is gone without a trace."""
    unknown = [n for n in new if n.old is None and n.obsolete is None]
    if not unknown:
        return []
    words = {o: words_of(o.statement.digest) for o in left}
    twins = {item_id: votes.most_common(1)[0][0] for item_id, votes in _votes(new).items()}
    pairs = sorted(
        (
            (likeness(before, n.statement.text, LIKE_IN_PLACE), -i, -j, o, n)
            for i, (o, before) in enumerate(words.items())
            if before is not None
            for j, n in enumerate(unknown)
        ),
        key=lambda pair: pair[:3],
        reverse=True,
    )
    paired: set[_Old] = set()
    for alike, _, _, before_it, after_it in pairs:
        enough = LIKE_IN_PLACE if twins.get(after_it.item.id) == before_it.item.id else LIKE_ANYWHERE
        enough = LIKE_IN_PLACE if _share_a_name(before_it.item, after_it.item) else enough
        if alike >= enough and before_it not in paired and after_it.old is None:
            after_it.old, after_it.reworded = before_it, True
            paired.add(before_it)
    return [o for o, before in words.items() if before is None]


def _share_a_name(old: SpecItem, new: Item) -> bool:
    return not set(old.names).isdisjoint(new.names)


def _votes(new: Sequence[_New]) -> dict[str, Counter[str]]:
    """For each item of the document: the items of the spec its statements come from, and how many each."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for statement in new:
        source = statement.old or statement.obsolete
        if source:
            votes[statement.item.id][source.item.id] += 1
    return votes


def _unclaimed(old: Sequence[_Old], new: Sequence[_New]) -> list[_Old]:
    claimed = {n.old for n in new}
    return [o for o in old if o not in claimed]


def _assemble(
    spec: Spec,
    document: Document,
    old: Sequence[_Old],
    new: Sequence[_New],
    words_of: WordsOf,
    wordless: Sequence[_Old],
) -> Merge:
    used_obsolete = {n.obsolete.statement.id for n in new if n.obsolete}
    obsolete = [entry for entry in spec.obsolete if entry.statement.id not in used_obsolete]
    gone = _unclaimed(old, new)
    result = Merge(spec, wordless=[o.statement.id for o in wordless])
    taken = {s.id for s in spec.everything()}
    item_ids = _item_ids(spec, document, new)
    statements: dict[str, list[SpecStatement]] = defaultdict(list)
    for entry in new:
        statements[entry.item.id].append(_statement(entry, item_ids[entry.item.id], taken, result, words_of))
        if entry.old and entry.old.statement.digest != entry.statement.digest:
            obsolete.append(_former(spec, entry.old, taken))
    obsolete += [_removed(spec, o) for o in gone]
    result.removed = [o.statement.id for o in gone]
    items = tuple(
        SpecItem(
            item_ids[item.id], item.kind, item.names, item.section, item.line, item.end_line,
            tuple(statements[item.id]),
        )
        for item in document.items
    )  # fmt: skip
    result.spec = Spec(document.source, items, _in_order(obsolete))
    return result


def _statement(entry: _New, item_id: str, taken: set[str], result: Merge, words_of: WordsOf) -> SpecStatement:
    at = entry.statement
    if entry.old is None and entry.obsolete is None:
        given = unique(f"{item_id}/{text_slug(at.text, item_id)}", taken)
        result.added.append(given)
        return SpecStatement(given, at.line, at.end_line, at.digest, Curated(since=Since.NEW))
    if entry.old is None and entry.obsolete is not None:
        back = entry.obsolete.statement
        result.returned.append(back.id)
        result.added.append(back.id)
        return replace(back, line=at.line, end_line=at.end_line)
    assert entry.old is not None
    known = entry.old.statement
    curated = known.curated
    if entry.obsolete is not None:
        curated = entry.obsolete.statement.curated
    elif entry.reworded and curated.since is None:
        curated = replace(curated, since=Since.CHANGED)
    if known.digest != at.digest:
        result.changed.append(Change(known.id, words_of(known.digest), at.text))
    elif entry.moved or entry.old.item.section != entry.item.section:
        result.moved.append(known.id)
    return SpecStatement(known.id, at.line, at.end_line, at.digest, curated)


def _item_ids(spec: Spec, document: Document, new: Sequence[_New]) -> dict[str, str]:
    """The id of each item of the document: that of a field with one of its names, or of the item that most of
    its statements come from, the clearer case first; else a new one."""
    taken = {item.id for item in spec.items} | {entry.item.id for entry in spec.obsolete}
    by_name = {name: item.id for item in reversed(spec.items) for name in item.names}
    claims: list[tuple[bool, int, int, str, str]] = []
    votes = _votes(new)
    for place, item in enumerate(document.items):
        claims += [(True, 0, -place, item.id, by_name[name]) for name in item.names if name in by_name]
        claims += [(False, count, -place, item.id, known) for known, count in votes[item.id].items()]
    given: dict[str, str] = {}
    for _, _, _, item_id, known in sorted(claims, reverse=True):
        if item_id not in given and known not in given.values():
            given[item_id] = known
    for item in document.items:
        if item.id not in given:
            given[item.id] = unique(item.id, taken)
    return given


def _former(spec: Spec, old: _Old, taken: set[str]) -> Obsolete:
    """What a reworded statement was: the same curated words under the old digest and an id of its own."""
    known = old.statement
    former = replace(known, id=unique(f"{known.id}~{known.digest[:FORMER_DIGITS]}", taken))
    return replace(_removed(spec, old), statement=former, replaced_by=known.id)


def _removed(spec: Spec, old: _Old) -> Obsolete:
    known = old.statement
    owner = replace(old.item, statements=(), line=known.line, end_line=known.end_line)
    return Obsolete(known, owner, spec.source.release, spec.source.sha256)


def _in_order(obsolete: Iterable[Obsolete]) -> tuple[Obsolete, ...]:
    return tuple(sorted(obsolete, key=lambda entry: entry.statement.id))


def bare(document: Document) -> Spec:
    """A spec of a document about which nobody has said anything yet."""
    return Spec(document.source, tuple(_bare_item(item) for item in document.items))


def _bare_item(item: Item) -> SpecItem:
    new = Curated(since=Since.NEW)
    statements = tuple(SpecStatement(s.id, s.line, s.end_line, s.digest, new) for s in item.statements)
    return SpecItem(item.id, item.kind, item.names, item.section, item.line, item.end_line, statements)
