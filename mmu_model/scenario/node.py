"""YAML nodes that know their line, and say what they are not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import yaml

from .schema import ScenarioError

T = TypeVar("T")

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Node:
    """A value of the file, with its place. Everything that does not fit raises ScenarioError."""

    def __init__(self, where: str, node: yaml.Node) -> None:
        self.where, self._node = where, node
        self.line = node.start_mark.line + 1

    @classmethod
    def load(cls, path: Path) -> Node:
        """The root of the file at ``path``."""
        try:
            root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except OSError as error:
            raise ScenarioError(str(path), 1, f"cannot read it: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ScenarioError(str(path), 1, "not UTF-8 text") from None
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ScenarioError(str(path), line, f"not YAML: {error.problem}") from None
        except yaml.YAMLError as error:
            raise ScenarioError(str(path), 1, f"not YAML: {error}") from None
        if root is None:
            raise ScenarioError(str(path), 1, "empty; a scenario has title, vm and steps")
        return cls(str(path), root)

    def fail(self, what: str) -> NoReturn:
        """Raises ScenarioError at this node."""
        raise ScenarioError(self.where, self.line, what)

    @property
    def is_map(self) -> bool:
        """Keys and values."""
        return isinstance(self._node, yaml.MappingNode)

    def map(self, *, required: Sequence[str] = (), optional: Sequence[str] = ()) -> dict[str, Node]:
        """The members by key."""
        members = self.any_map()
        known = (*required, *optional)
        for key, value in members.items():
            if key not in known:
                value.fail(f"unknown key {key!r}; known are {', '.join(known)}")
        for key in required:
            if key not in members:
                self.fail(f"{key!r} is missing")
        return members

    def any_map(self) -> dict[str, Node]:
        """The members by key, whatever the keys."""
        if not isinstance(self._node, yaml.MappingNode):
            self.fail("keys and values expected")
        members: dict[str, Node] = {}
        for key, value in self._node.value:
            name = Node(self.where, key).text()
            if name in members:
                Node(self.where, key).fail(f"{name!r} a second time")
            members[name] = Node(self.where, value)
        return members

    def list(self) -> list[Node]:
        """The items."""
        if not isinstance(self._node, yaml.SequenceNode):
            self.fail("a list expected")
        return [Node(self.where, item) for item in self._node.value]

    def text(self) -> str:
        """A scalar as it is written."""
        if not isinstance(self._node, yaml.ScalarNode):
            self.fail("a single value expected")
        return str(self._node.value)

    def number(self, low: int = 0, high: int = (1 << 64) - 1) -> int:
        """An integer (also 0x..., and with K, M or G behind it) within the bounds."""
        text = self.text()
        match = re.fullmatch(r"(0[xX][0-9a-fA-F][0-9a-fA-F_]*|0|[1-9][0-9_]*)([KMG]?)", text)
        if match is None:
            self.fail(f"{text!r} is no number")
        value = int(match[1].replace("_", ""), 0) * UNITS[match[2]]
        if not low <= value <= high:
            self.fail(f"{text} is not from {low:#x} to {high:#x}")
        return value

    def aligned(self, size: int, high: int = (1 << 64) - 1) -> int:
        """A number that ``size`` divides."""
        value = self.number(0, high)
        if value % size:
            self.fail(f"{value:#x} is no multiple of {size:#x}")
        return value

    def flag(self) -> bool:
        """true or false; 1 or 0."""
        return self.choice({"true": True, "false": False, "1": True, "0": False})

    def choice(self, choices: dict[str, T]) -> T:
        """One of the words."""
        text = self.text()
        if text not in choices:
            self.fail(f"{text!r} is none of {', '.join(choices)}")
        return choices[text]

    def each(self, make: Callable[[Node], T]) -> tuple[T, ...]:
        """The items, made into something."""
        return tuple(make(item) for item in self.list())
