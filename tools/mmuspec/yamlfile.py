"""YAML in and out: values that know their place in the file, text in one canonical form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmuspec.errors import Problem

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
BaseDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
WIDTH = 110
SIZE_LIMIT = 20_000_000
FOLDED = frozenset({"claim", "why"})
IN_ONE_LINE = frozenset({"names", "mmu", "kernels", "last_seen"})


@dataclass(frozen=True, slots=True)
class Place:
    """A value and the way to it from the top of its file; the line is looked up only for a complaint."""

    path: Path
    value: Any
    way: tuple[str | int, ...] = ()

    def at(self, key: str | int) -> Place:
        """The value under `key`."""
        return Place(self.path, self.value[key], (*self.way, key))

    def each(self, kind: type) -> Iterator[Place]:
        """The entries of a list, each of which has to be a `kind`."""
        for index, value in enumerate(self.value):
            place = Place(self.path, value, (*self.way, index))
            if not isinstance(value, kind):
                raise place.problem(f"{_name(kind)} expected, {_name(type(value))} found")
            yield place

    def table(self, keys: Mapping[str, type], optional: AbstractSet[str] = frozenset()) -> dict[str, Any]:
        """The value as a mapping that has just these keys, each of its type."""
        if not isinstance(self.value, dict):
            raise self.problem(f"{_name(dict)} expected, {_name(type(self.value))} found")
        for key, value in self.value.items():
            if key not in keys:
                raise self.problem(f"unknown key {key!r}; known are {', '.join(keys)}", key)
            if not isinstance(value, keys[key]) or isinstance(value, bool):
                raise self.problem(f"{key}: {_name(keys[key])} expected, {_name(type(value))} found", key)
        for key in keys:
            if key not in self.value and key not in optional:
                raise self.problem(f"key {key!r} is missing")
        return self.value

    def problem(self, message: str, key: str | int | None = None) -> Problem:
        """An error at this value, or at the one under `key`."""
        way = self.way if key is None else (*self.way, key)
        return Problem(message, self.path, _line(self.path, way))


def load(path: Path) -> Place:
    """Read one YAML file. Raises `Problem` if it cannot be read or is no YAML."""
    text = _read(path)
    try:
        return Place(path, yaml.load(text, Loader))  # noqa: S506 (a safe loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Problem(f"not YAML: {error.problem}", path, mark.line + 1 if mark else 1) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Problem(f"not YAML: {' '.join(str(error).split())}", path, 1) from None


def dump(content: Any) -> str:
    """The canonical text: keys in the order given, long words of ours folded, short lists on one line."""
    return str(yaml.dump(_styled(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise Problem(f"larger than {SIZE_LIMIT // 1_000_000} MB; that is no spec file", path)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Problem(f"cannot be read: {error.strerror}", path) from None
    except UnicodeDecodeError:
        raise Problem("is not UTF-8 text", path) from None


def _line(path: Path, way: tuple[str | int, ...]) -> int:
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader)
    line = node.start_mark.line if node else 0
    for step in way:
        found = None
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = mark = node.value[step]
        elif isinstance(node, yaml.MappingNode):
            pair = next((p for p in node.value if p[0].value == str(step)), None)
            mark, found = pair or (None, None)
        if found is None:
            break
        node, line = found, mark.start_mark.line
    return line + 1


def _name(kind: type) -> str:
    return {dict: "a mapping", list: "a list", str: "text", int: "a number", type(None): "nothing"}.get(
        kind, kind.__name__
    )


class _Folded(str):
    pass


class _OneLine(list[Any]):
    pass


class _OneLineTable(dict[str, Any]):
    pass


class _Dumper(BaseDumper):  # type: ignore[misc]
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _styled(value: Any, key: str | None = None) -> Any:
    if isinstance(value, dict):
        kind = _OneLineTable if key in IN_ONE_LINE else dict
        return kind({k: _styled(v, k) for k, v in value.items()})
    if isinstance(value, list):
        return _OneLine(value) if key in IN_ONE_LINE else [_styled(v) for v in value]
    return _Folded(value) if key in FOLDED else value


TAG = "tag:yaml.org,2002:"
_Dumper.add_representer(_Folded, lambda d, v: d.represent_scalar(TAG + "str", str(v), style=">"))
_Dumper.add_representer(_OneLine, lambda d, v: d.represent_sequence(TAG + "seq", v, flow_style=True))
_Dumper.add_representer(_OneLineTable, lambda d, v: d.represent_mapping(TAG + "map", v, flow_style=True))
