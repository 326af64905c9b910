"""Kernel sources: the files that the audit needs, whatever they are packed in.

=====================  ==================================================================
DIR is                 is read
=====================  ==================================================================
a folder               the files as they are
a folder, with --rev   that revision, through ``git archive``
a tar, compressed too  as a stream, unpacked no further than the files that matter
a .deb                 as dpkg-deb unpacks it; the tar in it (linux-source) as a stream
=====================  ==================================================================
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO

from mmuspec.errors import Problem
from mmuspec.fetch.commands import output_of, running
from mmuspec.fetch.places import DOCUMENT_PATHS, release_of_makefile

FOLDERS = ("arch/x86/kvm/", "virt/kvm/", "arch/x86/include/asm/")
FILES = re.compile(r"include/linux/kvm_\w+\.h|include/uapi/linux/kvm\.h|Makefile")
CODE = re.compile(r".*\.[chS]$")
IDENTIFIER = re.compile(rb"[A-Za-z_]\w{2,}")
TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tar.zst")
PACKAGE = ".deb"
# No source file of the kernel that matters here is near this; a generated register header may be larger.
FILE_LIMIT = 4 << 20
GIT_LIMIT = 4096


@dataclass
class Sources:
    """Files by their path in the tree, and where they came from. `paths` are all that the tree has, if known."""

    name: str
    files: dict[str, bytes] = field(default_factory=dict)
    paths: frozenset[str] = frozenset()
    root: Path | None = None
    rev: str | None = None

    @property
    def release(self) -> str:
        """What the Makefile says."""
        return release_of_makefile(self.files.get("Makefile", b""))

    @property
    def document(self) -> str | None:
        """The path of the document in it, the newest of its places."""
        return next((path for path in DOCUMENT_PATHS if path in self.files), None)

    @cached_property
    def names(self) -> frozenset[str]:
        """Every identifier in KVM's sources and headers."""
        code = (data for path, data in self.files.items() if CODE.match(path))
        return frozenset(name.decode() for data in code for name in set(IDENTIFIER.findall(data)))

    def has_file(self, path: str) -> bool:
        """Whether the tree has it."""
        if self.root is not None and self.rev is None:
            return (self.root / path).is_file()
        if self.root is not None:
            command = ("git", "-C", self.root, "cat-file", "-e", f"{self.rev}:{path}")
            return output_of(command, 1)[0] is not None
        return path in self.paths


def read_sources(place: Path, rev: str | None = None) -> Sources:
    """The sources in `place`. Raises `Problem`."""
    if rev is not None:
        return _revision(place, rev)
    if place.is_dir():
        return _checked(Sources(str(place), dict(_below(place)), root=place), place)
    if not place.exists():
        raise Problem("no such file or folder; name a kernel tree, a linux-source tar, or its .deb", place)
    if place.name.endswith(PACKAGE):
        return _package(place)
    if place.name.endswith(TARS):
        try:
            with place.open("rb") as file:
                return _checked(_unpacked(file, str(place)), place)
        except OSError as error:
            raise Problem(f"cannot be read: {error.strerror or error}", place) from None
    raise Problem(f"is neither a folder nor a .deb nor a tar ({', '.join(TARS)})", place)


def _wanted(path: str) -> bool:
    return path in DOCUMENT_PATHS or FILES.fullmatch(path) is not None or _is_code(path)


def _is_code(path: str) -> bool:
    return path.startswith(FOLDERS) and CODE.match(path) is not None


def _below(root: Path) -> Iterator[tuple[str, bytes]]:
    candidates: Iterable[Path] = (
        *(root / path for path in (*DOCUMENT_PATHS, "Makefile")),
        *sorted(file for folder in FOLDERS for file in (root / folder).rglob("*.[chS]")),
        *sorted((root / "include/linux").glob("kvm_*.h")),
        root / "include/uapi/linux/kvm.h",
    )
    for file in candidates:
        if file.is_file() and file.stat().st_size <= FILE_LIMIT:
            yield file.relative_to(root).as_posix(), file.read_bytes()


def _package(package: Path) -> Sources:
    with running(("dpkg-deb", "--fsys-tarfile", package)) as unpacking:
        found = None
        with suppress(tarfile.TarError, EOFError), tarfile.open(fileobj=unpacking.stdout, mode="r|") as outer:
            for member in outer:
                inner = outer.extractfile(member) if member.isfile() and member.name.endswith(TARS) else None
                if inner is not None:
                    found = _unpacked(inner, f"{package}: {Path(member.name).name}")
                    break
        if found is None:
            unpacking.stdout.read()
            said = f" ({unpacking.error})" if unpacking.process.wait() else ""
            raise Problem(f"has no tar of kernel sources in it{said}; name a linux-source package", package)
    return _checked(found, package)


def _unpacked(file: IO[bytes], name: str) -> Sources:
    """What matters of a tar. Its one top folder, if it has one, is left out of the paths."""
    sources = Sources(name)
    paths: set[str] = set()
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                path = _in_tree(member.name)
                paths.add(path)
                if _wanted(path) and member.size <= FILE_LIMIT:
                    content = tar.extractfile(member)
                    sources.files[path] = content.read() if content else b""
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise Problem(f"is damaged ({error}); get it again", name) from None
    except Exception as error:  # what the decompressors raise has no common base
        if type(error).__module__ not in ("lzma", "_lzma", "zlib"):
            raise
        raise Problem(f"is damaged ({error}); get it again", name) from None
    sources.paths = frozenset(paths)
    return sources


def _in_tree(name: str) -> str:
    """The path in the tree: what an archive puts before it is one folder."""
    name = name.removeprefix("./")
    top, _, rest = name.partition("/")
    return rest if top.startswith("linux") and rest else name


def _revision(tree: Path, rev: str) -> Sources:
    if not rev or rev.startswith("-"):
        raise Problem(f"--rev {rev!r} is no revision; name a commit, a branch or a tag", tree)
    listed, complaint = output_of(
        ("git", "-C", tree, "ls-tree", "--name-only", rev, "--", *_roots()), GIT_LIMIT
    )
    if listed is None:
        raise Problem(f"git cannot read revision {rev} here: {complaint or 'unknown revision'}", tree)
    there = listed.decode("utf-8", "replace").split()
    if not there:
        raise Problem(f"revision {rev} has none of KVM's sources; name the top folder of a kernel tree", tree)
    with running(("git", "-C", tree, "archive", "--format=tar", rev, "--", *there)) as git:
        sources = _unpacked(git.stdout, f"{tree} at {rev}")
    sources.root, sources.rev = tree, rev
    return _checked(sources, tree)


def _roots() -> list[str]:
    folders = [folder.rstrip("/") for folder in FOLDERS]
    return [
        *folders,
        "include/linux/kvm_host.h",
        "include/linux/kvm_types.h",
        "include/uapi/linux/kvm.h",
        "Makefile",
        *DOCUMENT_PATHS,
    ]


def _checked(sources: Sources, place: Path) -> Sources:
    if not any(path.startswith(FOLDERS[0]) for path in sources.files):
        raise Problem(
            f"has no {FOLDERS[0]}; name the top folder of a kernel tree, or a linux-source package", place
        )
    return sources
