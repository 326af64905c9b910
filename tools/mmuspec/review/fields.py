"""Which fields a document describes that another did not."""

from __future__ import annotations

from dataclasses import dataclass

from mmuspec.document import Document


@dataclass(frozen=True, slots=True)
class FieldChanges:
    """Names, in the order of the document. A joined one shares its entry with a name that was there before."""

    added: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def compare_fields(before: Document, after: Document) -> FieldChanges:
    """What became of the fields."""
    known = dict.fromkeys(name for item in before.fields for name in item.names)
    now = {name for item in after.fields for name in item.names}
    added: list[str] = []
    joined: list[str] = []
    for item in after.fields:
        new = [name for name in item.names if name not in known]
        (joined if len(new) < len(item.names) else added).extend(new)
    return FieldChanges(tuple(added), tuple(joined), tuple(name for name in known if name not in now))
