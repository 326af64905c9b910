"""Frozen dataclasses to JSON values and back, driven by their type hints.

Bit patterns and numbers of frames are written as ``"0x..."``, with a role word spelled out behind; counts as
integers; None fields are left out.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from .role import Role, RoleWord
from .state import Address, Gfn, Word

T = TypeVar("T")

IN_HEX = (Word, Address, Gfn)


class CodecError(ValueError):
    """A JSON value that is not what the type demands; the message starts with its path."""


_hints: Callable[[Any], Mapping[str, Any]] = cache(get_type_hints)
_origin: Callable[[Any], Any] = cache(get_origin)
_fields: Callable[[Any], tuple[dataclasses.Field[Any], ...]] = cache(dataclasses.fields)


def encode(value: Any, hint: Any) -> Any:
    """``value``, of the type ``hint``, as something ``json`` writes."""
    hint = _without_none(hint)
    if value is None:
        return None
    if hint in IN_HEX:
        return hex(value)
    if hint is RoleWord:
        return f"{value:#x} {Role.from_word(value)}"
    if _origin(hint) is tuple:
        return [encode(item, _item(hint, i)) for i, item in enumerate(value)]
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value):
        hints = _hints(type(value))
        members = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: encode(member, hints[name]) for name, member in members if member is not None}
    return value


def decode(data: Any, hint: Any, path: str) -> Any:
    """The value of the type ``hint`` that ``data`` spells; ``path`` begins the message of a CodecError."""
    if data is None and _without_none(hint) is not hint:
        return None
    hint = _without_none(hint)
    if hint in IN_HEX or hint is RoleWord:
        return _hex(data, path)
    if _origin(hint) is tuple:
        return _tuple(data, hint, path)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum(data, hint, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _object(data, hint, path)
    plain = getattr(hint, "__supertype__", hint)
    if type(data) is not plain:
        raise CodecError(f"{path}: {data!r} is no {plain.__name__}")
    return data


@cache
def _without_none(hint: Any) -> Any:
    if _origin(hint) in (Union, types.UnionType):
        return next(arm for arm in get_args(hint) if arm is not type(None))
    return hint


def _item(hint: Any, index: int) -> Any:
    arms = get_args(hint)
    return arms[0] if len(arms) == 2 and arms[1] is Ellipsis else arms[index]


def _hex(data: Any, path: str) -> int:
    try:
        value = int(data.split()[0], 16)
    except (AttributeError, IndexError, ValueError):
        raise CodecError(f'{path}: {data!r} is no "0x..." number') from None
    if not 0 <= value < 1 << 64:
        raise CodecError(f"{path}: {data[:40]!r} does not fit in 64 bits")
    return value


def _tuple(data: Any, hint: Any, path: str) -> tuple[Any, ...]:
    arms = get_args(hint)
    if not isinstance(data, list) or (Ellipsis not in arms and len(arms) != len(data)):
        raise CodecError(f"{path}: {data!r} is no list of the right length")
    return tuple(decode(item, _item(hint, i), f"{path}[{i}]") for i, item in enumerate(data))


def _enum(data: Any, hint: type[Enum], path: str) -> Enum:
    try:
        return hint(data)
    except ValueError:
        known = ", ".join(str(member.value) for member in hint)
        raise CodecError(f"{path}: {data!r} is none of {known}") from None


def _object(data: Any, cls: type[T], path: str) -> T:
    if not isinstance(data, dict):
        raise CodecError(f"{path}: {data!r} is no object")
    hints = _hints(cls)
    if unknown := sorted(set(data) - set(hints)):
        raise CodecError(f"{path}.{unknown[0]}: no such field")
    members = {}
    for field in _fields(cls):
        name = field.name
        if name not in data and _without_none(hints[name]) is hints[name]:
            raise CodecError(f"{path}.{name}: missing")
        members[name] = decode(data.get(name), hints[name], f"{path}.{name}")
    return cls(**members)
