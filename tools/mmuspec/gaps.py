"""What the document leaves out: `spec/gaps.yaml`, curated by people and read by the report alone.

A gap is a member that no entry describes, or behaviour that no sentence covers. There is no statement to hang
it on, so it is no part of the spec, and nothing that compares spec and document looks at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mmuspec.yamlfile import Place, load

NAME = "gaps.yaml"
SCHEMA = 1
KEYS = {"name": str, "kind": str, "section": str, "says": str, "where": str, "kernels": list}
OPTIONAL = frozenset({"kernels"})


class GapKind(StrEnum):
    """What is missing."""

    FIELD = "field"
    BEHAVIOUR = "behaviour"


@dataclass(frozen=True, slots=True)
class Gap:
    """`says` is what an author should say, `where` the place in the kernel's sources that shows it, `section` the
    heading it belongs under; `kernels` are the releases it is true of, none for all that the spec knows."""

    name: str
    kind: GapKind
    section: str
    says: str
    where: str
    kernels: tuple[str, ...] = ()


def load_gaps(directory: Path) -> tuple[Gap, ...]:
    """The gaps of a spec folder; none if it has no such file. Raises `Problem` for whatever is wrong in it."""
    path = directory / NAME
    if not path.exists():
        return ()
    place = load(path)
    place.table({"schema": int, "gaps": list})
    if place.value["schema"] != SCHEMA:
        raise place.problem(
            f"schema {place.value['schema']} is not {SCHEMA}, the one this version reads", "schema"
        )
    gaps = tuple(_gap(each) for each in place.at("gaps").each(dict))
    for index, gap in enumerate(gaps):
        if gap.name in {other.name for other in gaps[:index]}:
            raise place.at("gaps").problem(f"{gap.name} is in here twice; keep one", index)
    return gaps


def _gap(place: Place) -> Gap:
    entry = place.table(KEYS, OPTIONAL)
    for key in ("name", "section", "says", "where"):
        if not entry[key].strip():
            raise place.problem(f"{key} is empty; say it", key)
    try:
        kind = GapKind(entry["kind"])
    except ValueError:
        raise place.problem(f"{entry['kind']!r} is none of {', '.join(GapKind)}", "kind") from None
    kernels = tuple(each.value for each in place.at("kernels").each(str)) if "kernels" in entry else ()
    return Gap(entry["name"], kind, entry["section"], entry["says"].strip(), entry["where"], kernels)
