"""The fields that the document describes against the members that there are, both ways.

==============  ===========================================================================================
topic           is found where
==============  ===========================================================================================
not-described   a member has no entry. Padding, and a word that is all of a union's bits, need none
excess          an entry has no member; if it was renamed, to what is told by the spec, by the likeness of
                the names, or by its neighbours
no-such-name    running text names what nothing in the sources is called
condition       an entry speaks of 32- or 64-bit hosts only and the #ifdef does not, or the other way round
width           an entry gives a member a value or a width that its bit-field has no room for
no-such-file    running text names a file of the tree that is not there
==============  ===========================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches

from mmuspec.audit.members import STRUCT, UNION, Member, find_struct
from mmuspec.audit.source import Sources
from mmuspec.document import Document, Item
from mmuspec.review.data import data
from mmuspec.review.figures import wrong_widths
from mmuspec.review.names import C_LIKE, ROLE, names_in, parts
from mmuspec.review.references import missing_files
from mmuspec.spec import Spec

PAGE, PAGE_ROLE = "kvm_mmu_page", "kvm_mmu_page_role"
ALIKE = 0.6
MISSPELT = 0.8
A_LETTER_OFF = 0.95
HOSTS = re.compile(r"\bonly\b[^.]*\bon (?P<bits>32|64)-bit (?:hosts|kernels)", re.IGNORECASE)
CONDITIONS = {"32": {"CONFIG_X86_32", "!CONFIG_X86_64"}, "64": {"CONFIG_X86_64", "!CONFIG_X86_32"}}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be, and where to look at it. `name` is the field's or member's."""

    topic: str
    path: str
    line: int
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Members:
    """Members by the name that the document has for them: those of the role with ``role.`` before."""

    by_name: Mapping[str, Member]
    structs: Mapping[str, str]

    @classmethod
    def of(cls, sources: Sources) -> Members:
        """Those of the page, and of its role. Raises `Problem` if the sources have no such structs."""
        page = find_struct(sources.files, PAGE, kind=STRUCT)
        role = find_struct(sources.files, PAGE_ROLE, kind=UNION)
        by_name: dict[str, Member] = {}
        structs: dict[str, str] = {}
        for member in page.members:
            by_name[member.name] = member
            structs[member.name] = PAGE
        for member in role.members:
            if member.bits is not None:
                by_name[f"{ROLE}{member.name}"] = member
                structs[f"{ROLE}{member.name}"] = PAGE_ROLE
        return cls(by_name, structs)


@dataclass(slots=True)
class Audit:
    """What was compared, and what was found."""

    source: str
    release: str
    document: str
    described: int = 0
    members: int = 0
    findings: list[Finding] = field(default_factory=list)


def compare(document: Document, sources: Sources, spec: Spec | None = None) -> Audit:
    """Hold the document against the sources. `spec` may know what a field was renamed to."""
    members = Members.of(sources)
    items = {name: item for item in document.fields for name in item.names}
    audit = Audit(sources.name, sources.release, document.source.path, len(items), len(members.by_name))
    undescribed = [name for name in members.by_name if name not in items and not _by_its_fields(name, items)]
    audit.findings += _not_described(undescribed, members, items)
    audit.findings += _excess(document, undescribed, members, spec)
    for name, item in items.items():
        if name in members.by_name:
            audit.findings += _condition(name, item, members.by_name[name], document)
            audit.findings += _width(name, item, members.by_name[name], document)
    audit.findings += _names(document, sources, members)
    return audit


def _by_its_fields(name: str, items: Mapping[str, Item]) -> bool:
    """The role is described field by field."""
    return any(described.startswith(f"{name}.") for described in items)


def _not_described(
    undescribed: Iterable[str], members: Members, items: Mapping[str, Item]
) -> Iterator[Finding]:
    for name in undescribed:
        member = members.by_name[name]
        message = f"struct member '{member.name}' not described in '{members.structs[name]}'"
        shares = [
            other
            for other, each in members.by_name.items()
            if member.union and each.union == member.union and other in items
        ]
        if shares:
            message += f" (it shares its storage with '{shares[0]}', which is)"
        yield Finding("not-described", member.path, member.line, name, message)


def _excess(
    document: Document, undescribed: Sequence[str], members: Members, spec: Spec | None
) -> Iterator[Finding]:
    fields = [name for item in document.fields for name in item.names]
    for item in document.fields:
        for name in item.names:
            if name in members.by_name:
                continue
            new = _renamed(name, fields, undescribed, members, spec)
            hint = f"; it seems to be '{new}' now" if new else ""
            struct = PAGE_ROLE if name.startswith(ROLE) else PAGE
            message = f"Excess struct member '{name}' description in '{struct}'{hint}"
            yield Finding("excess", document.source.path, item.line, name, message)


def _renamed(
    name: str, fields: Sequence[str], undescribed: Sequence[str], members: Members, spec: Spec | None
) -> str:
    for candidates in (
        _by_history(name, spec),
        _by_name(name, undescribed),
        _by_place(name, fields, members),
    ):
        found = [candidate for candidate in candidates if candidate in undescribed]
        if found:
            return found[0]
    return ""


def _by_history(name: str, spec: Spec | None) -> list[str]:
    """What the item is called now that the spec once knew under this name."""
    if spec is None:
        return []
    ids = {old.item.id for old in spec.obsolete if name in old.item.names}
    return [now for item in spec.items if item.id in ids for now in item.names]


def _by_name(name: str, undescribed: Sequence[str]) -> list[str]:
    return get_close_matches(name, undescribed, n=1, cutoff=ALIKE)


def _by_place(name: str, fields: Sequence[str], members: Members) -> list[str]:
    """The one member that stands between the neighbours which the entry has in the document."""
    order = list(members.by_name)
    place = fields.index(name)
    before = next((f for f in reversed(fields[:place]) if f in members.by_name), None)
    behind = next((f for f in fields[place + 1 :] if f in members.by_name), None)
    if before is None or behind is None:
        return []
    between = order[order.index(before) + 1 : order.index(behind)]
    return between if len(between) == 1 else []


def _condition(name: str, item: Item, member: Member, document: Document) -> Iterator[Finding]:
    said = next((found for s in item.statements if (found := HOSTS.search(s.text))), None)
    has = set(member.conditions)
    what = " and ".join(member.conditions)
    message = ""
    if said and not has:
        message = f"'{name}' is said to be there on {said['bits']}-bit hosts only; no #ifdef says so"
    elif said and not has & CONDITIONS[said["bits"]]:
        message = f"'{name}' is said to be there on {said['bits']}-bit hosts only; it is under {what}"
    elif has and not said:
        message = f"'{name}' is under {what}, which its description does not say"
    if message:
        yield Finding("condition", document.source.path, item.line, name, message)


def _width(name: str, item: Item, member: Member, document: Document) -> Iterator[Finding]:
    if member.bits is not None:
        for statement in item.statements:
            for message in wrong_widths(name, member.bits, statement.text):
                yield Finding("width", document.source.path, statement.line, name, message)


def _names(document: Document, sources: Sources, members: Members) -> Iterator[Finding]:
    known = {part for name in members.by_name for part in name.split(".")}
    described = {part for item in document.fields for name in item.names for part in name.split(".")}
    listed = frozenset(data("names")["others"].split())
    for statement in document.statements:
        for name in dict.fromkeys(part for found in names_in(statement.text) for part in parts(found)):
            if not C_LIKE.search(name) or name in (known | described | listed):
                continue
            if name in sources.names:
                # A local variable may be called so; in the text it is a member with a letter too few.
                near = _nearest(name, described & known, at_least=A_LETTER_OFF)
                message = f"'{name}' is no member; did you mean '{near}'?" if near else ""
            else:
                near = _nearest(name, known) or _nearest(name, described) or _nearest(name, sources.names)
                hint = f"; did you mean '{near}'?" if near else ""
                message = f"'{name}' is the name of nothing in the sources{hint}"
            if message:
                yield Finding("no-such-name", document.source.path, statement.line, name, message)
        for message in missing_files(statement.text, sources.has_file):
            yield Finding("no-such-file", document.source.path, statement.line, "", message)


def _nearest(name: str, known: Iterable[str], at_least: float = MISSPELT) -> str:
    """The known name that is most like this one. Names of quite another length are not even looked at."""
    size = len(name)
    near = (each for each in known if abs(len(each) - size) <= size // 3 and each[:2] == name[:2])
    scored = ((SequenceMatcher(None, name, each).ratio(), each) for each in near)
    likely = max(scored, default=(0.0, ""))
    return likely[1] if likely[0] >= at_least else ""
