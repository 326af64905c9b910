"""How often a member changed since its sentence last did: what git says, over a range of commits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmuspec.audit.compare import Members
from mmuspec.document import Document
from mmuspec.errors import Problem
from mmuspec.fetch.commands import output_of
from mmuspec.review.names import ROLE

LIMIT = 16 << 20
CODE = ("arch/x86/kvm", "arch/x86/include/asm/kvm_host.h")
BLAMED = re.compile(r"^([0-9a-f]{40}) \d+ \d+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Age:
    """`changes` commits of the range touched lines with the member's name after `since`, when the description
    of the field last changed."""

    name: str
    line: int
    since: str
    changes: int


def ages(tree: Path, old: str, new: str, document: Document, members: Members) -> list[Age]:
    """Every described member whose code changed in ``old..new`` after its description did, the most first.

    Raises `Problem` if git does not know a revision.
    """
    found = []
    for item in document.fields:
        since = _last_change(tree, new, document.source.path, item.line, item.end_line)
        for name in item.names:
            if name in members.by_name:
                changes = len(list(_changes(tree, old, new, since, name)))
                if changes:
                    found.append(Age(name, item.line, since[:12], changes))
    return sorted(found, key=lambda age: (-age.changes, age.line))


def _last_change(tree: Path, rev: str, path: str, first: int, last: int) -> str:
    """The newest of the commits that these lines come from: none of the others has it among its ancestors."""
    said = _git(tree, "blame", "--porcelain", "-L", f"{first},{last}", rev, "--", path)
    commits = set(BLAMED.findall(said))
    return _git(tree, "rev-list", "--topo-order", "--max-count=1", *sorted(commits)).strip()


def _changes(tree: Path, old: str, new: str, since: str, name: str) -> Iterator[str]:
    """Commits after the description's that change a line of KVM's code with the member's name in it."""
    word = name.removeprefix(ROLE)
    pattern = rf"\b(role|r)\.{word}\b|{word}:[0-9]" if name.startswith(ROLE) else rf"\b{word}\b"
    said = _git(
        tree, "log", "--format=%H", "--perl-regexp", "-G", pattern, new, f"^{old}", f"^{since}", "--", *CODE
    )
    yield from said.split()


def _git(tree: Path, *arguments: str) -> str:
    data, complaint = output_of(("git", "-C", tree, *arguments), LIMIT)
    if data is None:
        raise Problem(f"git cannot tell: {complaint or 'no such revision'}", tree)
    return data.decode("utf-8", "replace")
