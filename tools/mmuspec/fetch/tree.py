"""The document from a kernel tree: its files as they are, or a revision of it through git.

================  ==========================================  =====================================
asked for         what is read                                refused
================  ==========================================  =====================================
a revision        that commit                                 one that git does not know
a release         the files, unless the Makefile says that    a tree that is of another release and
                  they are another release; then the tag      has no such tag
================  ==========================================  =====================================
"""

from __future__ import annotations

from pathlib import Path

from mmuspec.errors import Problem
from mmuspec.fetch.commands import output_of
from mmuspec.fetch.content import LIMIT, document_bytes, read_file
from mmuspec.fetch.found import Found
from mmuspec.fetch.places import DOCUMENT_PATHS, belongs, first_there, release_named, release_of_makefile

NOT_THERE = f"has no {', no '.join(DOCUMENT_PATHS)}; name the top folder of a kernel tree"


def release_in_tree(tree: Path, release: str) -> Found:
    """The document of `release`: from the files of `tree`, or from its tag. Raises `Problem`."""
    _check_folder(tree)
    said = _makefile(tree)
    if not said or belongs(said, release):
        file = first_there(tree / path for path in DOCUMENT_PATHS)
        if file:
            path = file.relative_to(tree).as_posix()
            return Found(read_file(file), path, f"kernel tree, {file}", release, settled=False)
    tag = f"v{release}"
    if _is_git(tree) and _commit(tree, f"refs/tags/{tag}"):
        return revision_of_tree(tree, tag, release)
    if said and not belongs(said, release):
        raise Problem(f"is a tree of {said} without a tag {tag}; ask for {said}, or name --rev", tree)
    raise Problem(NOT_THERE, tree)


def revision_of_tree(tree: Path, rev: str, release: str) -> Found:
    """The document as commit, branch or tag `rev` has it. Raises `Problem`.

    Its release is `release` unless the revision says that it is of another series.
    """
    _check_folder(tree)
    if not rev or rev.startswith("-"):
        raise Problem(f"--rev {rev!r} is no revision; name a commit, a branch or a tag", tree)
    if not _is_git(tree):
        raise Problem("is not a git tree, so it has no revisions; leave --rev out", tree)
    commit = _commit(tree, rev)
    if not commit:
        raise Problem(f"git knows no revision {rev} here; fetch it, or name another with --rev", tree)
    for path in DOCUMENT_PATHS:
        raw = _show(tree, commit, path)
        if raw is not None:
            own = release_named(rev) or release_of_makefile(_show(tree, commit, "Makefile") or b"")
            release = own if own and not belongs(own, release) else release
            data = document_bytes(raw, f"{tree}: {rev}:{path}")
            origin = f"kernel tree {tree}, {rev} ({commit[:12]})"
            return Found(data, path, origin, release, settled=rev == f"v{release}")
    raise Problem(f"revision {rev} {NOT_THERE}", tree)


def _check_folder(tree: Path) -> None:
    try:
        next(tree.iterdir(), None)
    except OSError as error:
        what = error.strerror or error
        raise Problem(f"cannot be read: {what}; --tree and KERNEL_TREE name a kernel tree", tree) from None


def _makefile(tree: Path) -> str:
    try:
        with (tree / "Makefile").open("rb") as file:
            return release_of_makefile(file.read(LIMIT))
    except OSError:
        return ""


def _is_git(tree: Path) -> bool:
    """A work tree's top folder or a bare repository; not a folder that happens to lie inside another's."""
    bare = first_there([tree / "HEAD"]) and first_there([tree / "objects"])
    return bool(first_there([tree / ".git"]) or bare)


def _commit(tree: Path, rev: str) -> str:
    """The commit that `rev` names, or an empty string: git says nothing then, unless there is more to it."""
    said, complaint = _git(tree, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
    if complaint:
        raise Problem(f"git cannot read this tree: {complaint}", tree)
    return said.decode("ascii", "replace").strip() if said else ""


def _show(tree: Path, commit: str, path: str) -> bytes | None:
    return _git(tree, "show", f"{commit}:{path}")[0]


def _git(tree: Path, *arguments: str) -> tuple[bytes | None, str]:
    try:
        return output_of(("git", "-C", tree, *arguments), LIMIT + 1)
    except Problem as problem:
        raise Problem(f"{problem.message}; install it, or name a file of the tree", "git") from None
