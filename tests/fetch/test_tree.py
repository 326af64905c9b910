"""A document from a kernel tree, with git and without."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmuspec.cache import Cache
from mmuspec.errors import Problem
from mmuspec.fetch import fetch

NEW = "Documentation/virt/kvm/x86/mmu.rst"
PATHS = [
    NEW,
    "Documentation/virt/kvm/mmu.rst",
    "Documentation/virt/kvm/mmu.txt",
    "Documentation/virtual/kvm/mmu.txt",
    "Documentation/kvm/mmu.txt",
]
MAKEFILE = "# SPDX\nVERSION = {}\nPATCHLEVEL = {}\nSUBLEVEL = {}\nEXTRAVERSION ={}\n\nall:\n"

Put = Callable[[Path, str], Path]


@pytest.mark.parametrize("path", PATHS)
def test_a_tree_without_git_is_read_as_it_is(tmp_path: Path, page: str, put: Put, path: str) -> None:
    put(tmp_path / "linux" / path, page)

    fetched = fetch("6.12", tree=tmp_path / "linux")

    assert (fetched.source, fetched.path, fetched.release) == (page, path, "6.12")
    assert fetched.origin == f"kernel tree, {tmp_path / 'linux' / path}"


@pytest.mark.parametrize("path", PATHS)
def test_a_revision_is_read_by_git(git_tree: Any, page: str, path: str) -> None:
    commit = git_tree.commit({path: page})
    git_tree.commit({NEW: "Another\n=======\n"})

    fetched = fetch("6.1", tree=git_tree.top, rev=commit)

    assert (fetched.source, fetched.path, fetched.release) == (page, path, "6.1")
    assert commit[:12] in fetched.origin


@pytest.mark.parametrize("rev", ["v6.12", "topic", "HEAD~1", "HEAD^"])
def test_a_revision_is_whatever_git_takes_for_one(git_tree: Any, page: str, rev: str) -> None:
    git_tree.commit({NEW: page}, tag="v6.12")
    git_tree.git("branch", "topic")
    git_tree.commit({NEW: "Another\n=======\n"})
    assert fetch("6.12", tree=git_tree.top, rev=rev).source == page


def test_a_revision_has_the_bytes_that_were_committed(git_tree: Any) -> None:
    """Neither a filter nor a configured conversion of line ends stands between the commit and us."""
    git_tree.git("config", "diff.shout.textconv", "tr a-z A-Z <")
    (git_tree.top / NEW).parent.mkdir(parents=True)
    (git_tree.top / NEW).write_bytes(b"Walks\r\n=====\r\n")
    (git_tree.top / ".gitattributes").write_text("*.rst diff=shout -text\n")
    git_tree.git("add", "-A")
    git_tree.git("commit", "-q", "-m", "state")
    git_tree.git("config", "core.autocrlf", "input")
    assert fetch("6.12", tree=git_tree.top, rev="HEAD").source == "Walks\r\n=====\r\n"


def test_git_is_asked_about_the_tree_and_not_about_the_hook_we_run_in(
    git_tree: Any, page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    git_tree.commit({NEW: page})
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert fetch("6.12", tree=git_tree.top, rev="HEAD").source == page


def test_a_bare_repository_will_do(git_tree: Any, page: str, tmp_path: Path) -> None:
    git_tree.commit({NEW: page}, tag="v6.12")
    git_tree.git("clone", "-q", "--bare", str(git_tree.top), str(tmp_path / "bare.git"))
    assert fetch("6.12", tree=tmp_path / "bare.git").source == page


def test_a_tree_of_another_release_gives_the_tag(git_tree: Any, page: str) -> None:
    git_tree.commit({PATHS[1]: page, "Makefile": MAKEFILE.format(5, 10, 0, "")}, tag="v5.10")
    git_tree.commit({NEW: "Another\n=======\n", "Makefile": MAKEFILE.format(6, 12, 0, " -rc1")})

    assert fetch("5.10", tree=git_tree.top).source == page
    assert fetch("6.12", tree=git_tree.top).source == "Another\n=======\n"


@pytest.mark.parametrize(
    ("version", "said"),
    [((6, 1, 0, ""), "6.1"), ((6, 1, 12, ""), "6.1.12"), ((6, 13, 0, " -rc2"), "6.13-rc2")],
)
def test_a_tree_of_another_release_without_the_tag_is_refused(
    tmp_path: Path, page: str, put: Put, version: tuple[object, ...], said: str
) -> None:
    put(tmp_path / "linux" / NEW, page)
    put(tmp_path / "linux/Makefile", MAKEFILE.format(*version))
    with pytest.raises(
        Problem, match=f"is a tree of {said} without a tag v6.12; ask for {said}, or name --rev"
    ):
        fetch("6.12", tree=tmp_path / "linux")


@pytest.mark.parametrize(
    ("asked", "version", "release"),
    [
        ("6.12", (6, 12, 5, ""), "6.12"),
        ("6.12", (6, 13, 0, " -rc2"), "6.13-rc2"),
        ("6.1", (6, 12, 0, ""), "6.12"),
    ],
)
def test_a_revision_says_itself_what_release_it_is(
    git_tree: Any, page: str, asked: str, version: tuple[object, ...], release: str
) -> None:
    git_tree.commit({NEW: page, "Makefile": MAKEFILE.format(*version)})
    assert fetch(asked, tree=git_tree.top, rev="HEAD").release == release


def test_only_a_release_tag_is_remembered_as_the_release(git_tree: Any, page: str) -> None:
    git_tree.commit({NEW: page}, tag="v6.1")
    git_tree.commit({NEW: "Another\n=======\n"})

    fetch("6.1", tree=git_tree.top, rev="HEAD")
    assert Cache().release("6.1") is None

    fetch("6.1", tree=git_tree.top, rev="v6.1")
    assert fetch("6.1").source == page


@pytest.mark.parametrize(
    "rev", ["nonsense", "--help", "-1", "--output=x", "", "HEAD:Makefile", "HEAD..HEAD", "v6.1\n"]
)
def test_an_unknown_revision_is_refused(git_tree: Any, page: str, rev: str) -> None:
    git_tree.commit({NEW: page})
    with pytest.raises(Problem, match="revision") as caught:
        fetch("6.12", tree=git_tree.top, rev=rev)
    assert caught.value.where == str(git_tree.top)
    assert sorted(path.name for path in git_tree.top.iterdir()) == [".git", "Documentation"]


def test_a_revision_without_the_document_is_refused(git_tree: Any) -> None:
    git_tree.commit({"README": "nothing\n"})
    with pytest.raises(Problem, match=r"revision HEAD has no Documentation/virt/kvm/x86/mmu\.rst"):
        fetch("6.12", tree=git_tree.top, rev="HEAD")


def test_a_revision_whose_document_is_none_is_refused(git_tree: Any) -> None:
    git_tree.commit({NEW: "a\nb\0\n"})
    with pytest.raises(Problem, match="is binary") as caught:
        fetch("6.12", tree=git_tree.top, rev="HEAD")
    assert (caught.value.where, caught.value.line) == (f"{git_tree.top}: HEAD:{NEW}", 2)


def test_a_revision_needs_a_tree() -> None:
    with pytest.raises(Problem, match="needs a kernel tree; name it with --tree or KERNEL_TREE"):
        fetch("6.12", rev="HEAD")


def test_a_revision_needs_git_in_the_tree(tmp_path: Path, page: str, put: Put) -> None:
    put(tmp_path / "linux" / NEW, page)
    with pytest.raises(Problem, match="is not a git tree"):
        fetch("6.12", tree=tmp_path / "linux", rev="HEAD")


def test_git_need_not_be_installed_unless_a_revision_is_asked_for(
    git_tree: Any, page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    git_tree.commit({NEW: page})
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))

    assert fetch("6.12", tree=git_tree.top).source == page
    with pytest.raises(Problem, match=r"^git: error: is not installed|is not installed; install it"):
        fetch("6.12", tree=git_tree.top, rev="HEAD")


def test_what_git_complains_of_is_passed_on(git_tree: Any, page: str) -> None:
    git_tree.commit({NEW: page})
    (git_tree.top / ".git/config").write_text("[core\n")
    with pytest.raises(Problem, match="git cannot read this tree: fatal: bad config"):
        fetch("6.12", tree=git_tree.top, rev="HEAD")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nowhere", "No such file"),
        ("file", "Not a directory"),
        ("empty", "has no Documentation/virt/kvm/x86/mmu.rst"),
    ],
)
def test_a_tree_that_is_none_is_refused(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match=what) as caught:
        fetch("6.12", tree=tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_closed_tree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "linux").mkdir(mode=0)
    with pytest.raises(Problem, match="Permission denied"):
        fetch("6.12", tree=tmp_path / "linux")
