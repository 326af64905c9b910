"""Names in new text: are they fields, functions or constants that exist?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

from mmuspec.document import Document
from mmuspec.review.data import data

# What only a name of C looks like: an underscore inside, an arrow, a member, a call.
NAME = re.compile(r"(?<![\w./-])_{0,2}[A-Za-z]\w*(?:(?:->|\.)[A-Za-z_]\w*)*(?:\(\))?(?![\w/-])")
C_LIKE = re.compile(r"_|->|\(\)")
ROLE = "role."
ALIKE = 0.8
# Registers, bits of registers, and Latin: these have full stops in them, as files have.
REGISTER = re.compile(r"(?:e?cr[0-9]|efer|eptp|rflags|eflags)\.\w+$", re.IGNORECASE)
FILE_NAME = re.compile(r".*\.(?:[chS]|rst|txt|py)$")


@dataclass(frozen=True)
class Names:
    """What exists: in the data of this package, in the document before the patch, in a kernel tree.

    `in_tree` says whether a tree has a name; None where no tree is at hand.
    """

    document: Document
    in_tree: Callable[[str], bool] | None = None

    @cached_property
    def roles(self) -> frozenset[str]:
        """The fields of a role."""
        return frozenset(data("names")["members"]["kvm_mmu_page_role"].split())

    @cached_property
    def known(self) -> frozenset[str]:
        """Every name there is without a tree."""
        facts = data("names")
        members = {name for names in facts["members"].values() for name in names.split()}
        return frozenset({*members, *facts["others"].split(), *self._fields, *self._used})

    @cached_property
    def _fields(self) -> frozenset[str]:
        return frozenset(
            part for item in self.document.fields for name in item.names for part in name.split(".")
        )

    @cached_property
    def _used(self) -> frozenset[str]:
        found = (parts(name) for s in self.document.statements for name in names_in(s.text))
        return frozenset(part for each in found for part in each)

    def unknown(self, text: str) -> Iterator[tuple[str, str]]:
        """Names in `text` that nothing knows, each with the known one that is most like it, or nothing."""
        for name in dict.fromkeys(names_in(text)):
            if name.startswith(ROLE) and name.removeprefix(ROLE) not in self.roles:
                yield name, _nearest(name, {f"{ROLE}{role}" for role in self.roles})
                continue
            for part in parts(name):
                if C_LIKE.search(part) and part not in self.known and not self._tree_has(part):
                    yield part, _nearest(part, self.known)

    def _tree_has(self, name: str) -> bool:
        return self.in_tree is not None and self.in_tree(name)


def names_in(text: str) -> Iterator[str]:
    """Whatever in `text` looks like a name of C."""
    for found in NAME.finditer(text):
        name = found[0]
        if (C_LIKE.search(name) or name.startswith(ROLE)) and not (
            REGISTER.match(name) or FILE_NAME.match(name)
        ):
            yield name


def parts(name: str) -> list[str]:
    """The members that a path goes through: ``sp->role.level`` has three."""
    return [part for part in re.split(r"->|\.", name.removesuffix("()")) if part]


def _nearest(name: str, known: frozenset[str] | set[str]) -> str:
    found = get_close_matches(name, sorted(known), n=1, cutoff=ALIKE)
    return found[0] if found else ""
