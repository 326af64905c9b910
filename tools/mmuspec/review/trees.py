"""A kernel tree to look things up in: its files as they are, or a revision of it through git."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

from mmuspec.errors import Problem
from mmuspec.fetch.commands import output_of, running
from mmuspec.fetch.places import DOCUMENT_PATHS
from mmuspec.review.mailbox import messages_in
from mmuspec.review.message import Message

# Where a name that KVM's MMU uses is declared.
PLACES = (
    "arch/x86/kvm",
    "arch/x86/include",
    "virt/kvm",
    "include/linux/kvm_host.h",
    "include/linux/kvm_types.h",
)
IDENTIFIER = re.compile(rb"[A-Za-z_]\w{2,}")
RANGE = re.compile(r"(?P<old>[^.\s-][^\s]*?)\.\.(?P<new>[^.\s][^\s]*)$")
PATCHES_LIMIT = 64 << 20


@dataclass(frozen=True)
class Tree:
    """A folder with a kernel in it; `rev` is a revision, or None for the files as they are."""

    path: Path
    rev: str | None = None

    def has_file(self, name: str) -> bool:
        """Whether the tree has this file."""
        if self.rev is None:
            return (self.path / name).is_file()
        command = ("git", "-C", self.path, "cat-file", "-e", f"{self.rev}:{name}")
        return output_of(command, 1)[0] is not None

    def has_name(self, name: str) -> bool:
        """Whether KVM's sources, or the headers it uses, have this name in them."""
        if self.rev is None:
            return name.encode() in self._identifiers
        pattern = ("-qwF", "-e", name, self.rev, "--", *PLACES)
        return output_of(("git", "-C", self.path, "grep", *pattern), 1)[0] is not None

    @cached_property
    def _identifiers(self) -> frozenset[bytes]:
        return frozenset(name for file in self._sources() for name in IDENTIFIER.findall(file.read_bytes()))

    def _sources(self) -> Iterator[Path]:
        for place in PLACES:
            root = self.path / place
            if root.is_file():
                yield root
            yield from (file for file in sorted(root.rglob("*.[chS]")) if file.is_file())


def range_named(argument: str) -> tuple[str, str] | None:
    """The two revisions of ``A..B``, or None: then the argument is a file."""
    found = RANGE.match(argument)
    return (found["old"], found["new"]) if found and not Path(argument).exists() else None


def messages_of_range(tree: Path, old: str, new: str) -> Iterator[Message]:
    """The commits of a range that touch the document, as the patches that git makes of them."""
    options = (
        "--stdout",
        "--no-signature",
        "--zero-commit",
        "--no-renames",
        "--no-ext-diff",
        "--no-textconv",
    )
    command = ("git", "-C", tree, "format-patch", *options, f"{old}..{new}", "--", *DOCUMENT_PATHS)
    with running(command) as git:
        data = git.stdout.read(PATCHES_LIMIT + 1)
        if len(data) > PATCHES_LIMIT:
            raise Problem(
                f"the range has more than {PATCHES_LIMIT >> 20} MiB of patches; take less of it", tree
            )
        if git.process.wait() != 0:
            raise Problem(f"git cannot make patches of {old}..{new}: {git.error}", tree)
    if data.strip():
        yield from messages_in(BytesIO(data), f"{old}..{new}")
