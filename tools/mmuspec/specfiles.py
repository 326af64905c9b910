"""The spec on disk: one YAML file a section and `obsolete.yaml`, in one canonical order.

Reading says file and line of whatever is wrong; writing replaces all files or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmuspec import folder, gaps
from mmuspec.document import Kind, Source
from mmuspec.errors import Problem
from mmuspec.slugs import section_slug
from mmuspec.spec import Curated, Mmu, Obsolete, Since, Spec, SpecItem, SpecStatement, Verdict
from mmuspec.yamlfile import Place, dump, load

SCHEMA = 1
E = TypeVar("E", Kind, Verdict, Since, Mmu)
OBSOLETE = "obsolete.yaml"
NO_SECTIONS = frozenset({OBSOLETE, gaps.NAME})
LEAD = "introduction"

SOURCE_KEYS = {"release": str, "path": str, "title": str, "sha256": str, "lines": int}
CURATED_KEYS = {"claim": str, "verdict": str, "why": str, "mmu": list, "kernels": dict, "since": str}
STATEMENT_KEYS = {"id": str, "line": int, "end_line": int, "digest": str} | CURATED_KEYS
ITEM_KEYS = {
    "id": str, "kind": str, "names": list, "section": str, "line": int, "end_line": int, "statements": list,
}  # fmt: skip
OBSOLETE_KEYS = STATEMENT_KEYS | {"item": dict, "last_seen": dict, "proposed": str, "replaced_by": str}
OWNER_KEYS = {"id": str, "kind": str, "names": list, "section": str}
LAST_SEEN_KEYS = {"release": str, "sha256": str}
OPTIONAL = frozenset({*CURATED_KEYS, "names", "release", "replaced_by", "last_seen", "proposed"})


def load_spec(directory: Path) -> Spec:
    """Read a spec folder. Raises `Problem` for whatever is not as it should be."""
    if not directory.is_dir():
        raise Problem(
            "no spec folder here; run `mmuspec regen` to make one, or name another with --spec", directory
        )
    paths = sorted(path for path in directory.glob("*.yaml") if path.name not in NO_SECTIONS)
    if not paths:
        raise Problem("no *.yaml file in this spec folder; run `mmuspec regen` to make them", directory)
    sections = [_read_section(load(path)) for path in paths]
    first = sections[0]
    for section in sections[1:]:
        if section.source != first.source:
            raise Problem(
                f"made from another document than {paths[0].name}; run `mmuspec regen`", section.place.path, 1
            )
    items = sorted((item for section in sections for item in section.items), key=lambda item: item.line)
    obsolete = _read_obsolete(load(directory / OBSOLETE)) if (directory / OBSOLETE).exists() else ()
    spec = Spec(first.source, tuple(items), obsolete)
    _ids_are_unique(spec, directory)
    return spec


def save_spec(spec: Spec, directory: Path) -> None:
    """Write a spec folder: all of its files are replaced at once, or, on an error, none."""
    files: dict[str, str | bytes] = {**_canonical(spec)}
    if (directory / gaps.NAME).exists():  # people's; it is no part of what is written here, and stays
        files[gaps.NAME] = (directory / gaps.NAME).read_bytes()
    folder.replace(directory, files, pattern="*.yaml")


def is_canonical(spec: Spec, directory: Path) -> bool:
    """Are the files that a spec was read from what it would be written as? People do not wrap as the tool does."""
    return all((directory / name).read_bytes() == text.encode() for name, text in _canonical(spec).items())


def _canonical(spec: Spec) -> dict[str, str]:
    files = {f"{name}.yaml": dump(content) for name, content in _sections(spec).items()}
    return files | ({OBSOLETE: dump(_obsolete(spec.obsolete))} if spec.obsolete else {})


def items_as_yaml(items: Iterable[SpecItem]) -> str:
    """Items as they stand below ``items:`` in a spec file."""
    return dump([_item(item) for item in items])


@dataclass(frozen=True, slots=True)
class _Section:
    place: Place
    source: Source
    items: list[SpecItem]


def _read_section(place: Place) -> _Section:
    place.table({"schema": int, "document": dict, "items": list})
    _check_schema(place)
    about = place.at("document").table(SOURCE_KEYS, OPTIONAL)
    source = Source(about["path"], about["title"], about["sha256"], about["lines"], about.get("release", ""))
    return _Section(place, source, [_read_item(item) for item in place.at("items").each(dict)])


def _read_item(place: Place) -> SpecItem:
    item = place.table(ITEM_KEYS, OPTIONAL)
    statements = tuple(_read_statement(s) for s in place.at("statements").each(dict))
    return SpecItem(
        item["id"], _one_of(Kind, place, "kind"), _strings(place, "names"), item["section"],
        item["line"], item["end_line"], statements,
    )  # fmt: skip


def _read_statement(place: Place, keys: Mapping[str, type] = STATEMENT_KEYS) -> SpecStatement:
    statement = place.table(keys, OPTIONAL)
    curated = Curated(
        claim=statement.get("claim"),
        verdict=_one_of(Verdict, place, "verdict") if "verdict" in statement else None,
        why=statement.get("why"),
        mmu=tuple(_member(Mmu, each) for each in place.at("mmu").each(str)) if "mmu" in statement else (),
        kernels=_read_kernels(place) if "kernels" in statement else (),
        since=_one_of(Since, place, "since") if "since" in statement else None,
    )
    if curated.verdict is Verdict.UNTESTABLE and not curated.why:
        raise place.problem("a verdict of untestable needs a reason; add `why:`", "verdict")
    return SpecStatement(
        statement["id"], statement["line"], statement["end_line"], statement["digest"], curated
    )


def _read_kernels(place: Place) -> tuple[tuple[str, Verdict], ...]:
    kernels = place.at("kernels")
    for release in kernels.value:
        if not isinstance(release, str):
            raise kernels.problem(f"quote the release: '{release}'", release)
    return tuple((release, _member(Verdict, kernels.at(release))) for release in kernels.value)


def _read_obsolete(place: Place) -> tuple[Obsolete, ...]:
    place.table({"schema": int, "statements": list})
    _check_schema(place)
    return tuple(_read_obsolete_statement(each) for each in place.at("statements").each(dict))


def _read_obsolete_statement(place: Place) -> Obsolete:
    statement = _read_statement(place, OBSOLETE_KEYS)
    owner = place.at("item").table(OWNER_KEYS, OPTIONAL)
    kind = _one_of(Kind, place.at("item"), "kind")
    names = _strings(place.at("item"), "names")
    item = SpecItem(owner["id"], kind, names, owner["section"], statement.line, statement.end_line, ())
    if ("last_seen" in place.value) == ("proposed" in place.value):
        raise place.problem(
            "one of last_seen and proposed is needed: what had these words, or would have", "id"
        )
    replaced, proposed = place.value.get("replaced_by", ""), place.value.get("proposed", "")
    if proposed:
        return Obsolete(statement, item, "", "", replaced, proposed)
    seen = place.at("last_seen").table(LAST_SEEN_KEYS, OPTIONAL)
    return Obsolete(statement, item, seen.get("release", ""), seen["sha256"], replaced)


def _check_schema(place: Place) -> None:
    if place.value["schema"] != SCHEMA:
        raise place.problem(
            f"schema {place.value['schema']} is not {SCHEMA}, the one this version reads", "schema"
        )


def _one_of(kind: type[E], place: Place, key: str) -> E:
    return _member(kind, place.at(key))


def _member(kind: type[E], place: Place) -> E:
    try:
        return kind(place.value)
    except ValueError:
        raise place.problem(f"{place.value!r} is none of {', '.join(kind)}") from None


def _strings(place: Place, key: str) -> tuple[str, ...]:
    return tuple(each.value for each in place.at(key).each(str)) if key in place.value else ()


def _ids_are_unique(spec: Spec, directory: Path) -> None:
    for ids in ([s.id for s in spec.everything()], [item.id for item in spec.items]):
        twice = next((one for one in ids if ids.count(one) > 1), None) if len(set(ids)) < len(ids) else None
        if twice:
            path, line = places_of(directory, twice)[-1]
            raise Problem(f"duplicate id {twice}; give one of the two another", path, line)


def places_of(directory: Path, given_id: str) -> list[tuple[Path, int]]:
    """File and line of every item and statement in a spec folder that has this id; the folder if none is found."""
    found = [
        (path, number)
        for path in sorted(directory.glob("*.yaml"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if line.strip().removeprefix("- ") in (f"id: {given_id}", f"id: '{given_id}'", f'id: "{given_id}"')
    ]
    return found or [(directory, 1)]


def _sections(spec: Spec) -> dict[str, dict[str, Any]]:
    about = {key: getattr(spec.source, key) for key in SOURCE_KEYS if getattr(spec.source, key) != ""}
    files: dict[str, dict[str, Any]] = {}
    for item in spec.items:
        name = LEAD if item.section == spec.source.title else section_slug(item.section)
        content = files.setdefault(name, {"schema": SCHEMA, "document": about, "items": []})
        content["items"].append(_item(item))
    return files


def _item(item: SpecItem) -> dict[str, Any]:
    names = {"names": list(item.names)} if item.names else {}
    return {
        "id": item.id, "kind": item.kind.value, **names, "section": item.section,
        "line": item.line, "end_line": item.end_line,
        "statements": [_statement(statement) for statement in item.statements],
    }  # fmt: skip


def _statement(statement: SpecStatement) -> dict[str, Any]:
    curated = statement.curated
    found: dict[str, Any] = {
        "id": statement.id, "line": statement.line, "end_line": statement.end_line,
        "digest": statement.digest,
        "claim": curated.claim, "verdict": curated.verdict and curated.verdict.value, "why": curated.why,
        "mmu": [mmu.value for mmu in curated.mmu],
        "kernels": {release: verdict.value for release, verdict in curated.kernels},
        "since": curated.since and curated.since.value,
    }  # fmt: skip
    return {key: value for key, value in found.items() if value not in (None, [], {})}


def _obsolete(entries: Iterable[Obsolete]) -> dict[str, Any]:
    return {"schema": SCHEMA, "statements": [_obsolete_statement(entry) for entry in entries]}


def _obsolete_statement(entry: Obsolete) -> dict[str, Any]:
    names = {"names": list(entry.item.names)} if entry.item.names else {}
    owner = {"id": entry.item.id, "kind": entry.item.kind.value, **names, "section": entry.item.section}
    release = {"release": entry.release} if entry.release else {}
    origin = (
        {"proposed": entry.proposed} if entry.proposed else {"last_seen": {**release, "sha256": entry.sha256}}
    )
    replaced = {"replaced_by": entry.replaced_by} if entry.replaced_by else {}
    statement = _statement(entry.statement)
    return {
        "id": statement.pop("id"), "item": owner, **origin, **replaced, **statement,
    }  # fmt: skip
