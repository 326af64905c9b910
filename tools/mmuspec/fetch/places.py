"""Where the document lies in a kernel tree, and how a release is written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# Newest first: each is where the page lay for some years.
DOCUMENT_PATHS = (
    "Documentation/virt/kvm/x86/mmu.rst",
    "Documentation/virt/kvm/mmu.rst",
    "Documentation/virt/kvm/mmu.txt",
    "Documentation/virtual/kvm/mmu.txt",
    "Documentation/kvm/mmu.txt",
)
RELEASE = re.compile(r"v?(\d+(?:\.\d+){1,3}(?:-rc\d+)?)")
MAKEFILE_VERSION = re.compile(rb"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(\S*)", re.MULTILINE)


def release_named(doc: str) -> str | None:
    """The release that `doc` names (`6.12`, `v6.12`, `6.13-rc1`), or None: then it is a path."""
    named = RELEASE.fullmatch(doc)
    return named[1] if named else None


def release_of_makefile(makefile: bytes) -> str:
    """The release that a kernel's top Makefile says it is, or an empty string."""
    said = {
        key.decode(): value.decode("ascii", "replace") for key, value in MAKEFILE_VERSION.findall(makefile)
    }
    if not {"VERSION", "PATCHLEVEL"} <= said.keys():
        return ""
    sublevel = said.get("SUBLEVEL", "")
    point = f".{sublevel}" if sublevel not in ("", "0") else ""
    return f"{said['VERSION']}.{said['PATCHLEVEL']}{point}{said.get('EXTRAVERSION', '')}"


def first_there(candidates: Iterable[Path]) -> Path | None:
    """The first that exists; one in a folder closed to us does not."""
    for candidate in candidates:
        with suppress(OSError):
            if candidate.exists():
                return candidate
    return None


def belongs(release: str, to: str) -> bool:
    """Whether `release` is `to` or one of its series: 6.12.5 and 6.12-rc1 belong to 6.12, 6.1 does not."""
    return release == to or release.startswith((f"{to}.", f"{to}-"))


def by_number(release: str) -> tuple[int, ...]:
    """A key that sorts 6.1 before 6.12."""
    return tuple(int(number) for number in re.findall(r"\d+", release))
