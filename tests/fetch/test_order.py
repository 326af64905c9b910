"""Which source wins, and what is said when none has the release."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmuspec.errors import Problem
from mmuspec.fetch import fetch

NEW = "Documentation/virt/kvm/x86/mmu.rst"

Put = Callable[[Path, str], Path]


def test_each_source_gives_way_to_the_one_before_it(
    tmp_path: Path, archive: Any, site: Any, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources are added from the last to the first; each new one wins, once the cache has been emptied."""

    def source(name: str) -> str:
        for entry in (tmp_path / "cache").rglob("*.json"):
            entry.unlink()
        fetched = fetch("6.12")
        assert fetched.source == f"{name}\n"
        return fetched.origin

    site.says(f"/{NEW}?h=v6.12", b"web\n")
    assert source("web").startswith("http://")
    archive.build("6.12", {f"{NEW}.gz": "package\n"})
    assert source("package").startswith("Debian package")
    put(tmp_path / "linux" / NEW, "tree\n")
    monkeypatch.setenv("KERNEL_TREE", str(tmp_path / "linux"))
    assert source("tree").startswith("kernel tree")
    put(tmp_path / "share-doc/linux-doc-6.12" / NEW, "installed\n")
    assert source("installed").startswith("installed package")
    (tmp_path / "share-doc/linux-doc-6.12" / NEW).write_text("newer\n")
    assert fetch("6.12").source == "installed\n"
    assert fetch("6.12").origin.startswith("cache, from installed package")


def test_a_tree_named_is_read_anew_where_only_a_tree_has_had_it(tmp_path: Path, put: Put) -> None:
    """Its files change under our feet; what they once were counts only while nobody names a tree."""
    tree = tmp_path / "linux"
    put(tree / NEW, "before\n")
    fetch("6.12", tree=tree)
    put(tree / NEW, "after\n")

    assert fetch("6.12").source == "before\n"
    assert fetch("6.12", tree=tree).source == "after\n"
    assert fetch("6.12").source == "after\n"


def test_the_command_line_names_another_tree_than_the_environment(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a" / NEW, "a\n")
    put(tmp_path / "b" / NEW, "b\n")
    monkeypatch.setenv("KERNEL_TREE", str(tmp_path / "a"))
    assert fetch("6.12", tree=tmp_path / "b").source == "b\n"


def test_a_tree_that_was_not_read_is_named(
    tmp_path: Path, put: Put, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "share-doc/linux-doc-6.12" / NEW, "installed\n")
    put(tmp_path / "linux" / NEW, "tree\n")

    assert fetch("6.12", tree=tmp_path / "linux").source == "installed\n"
    assert "linux: warning: not read, as 6.12 is at hand (installed package" in capsys.readouterr().err
    assert fetch("6.12", tree=tmp_path / "linux").source == "installed\n"
    assert "linux: warning: not read, as 6.12 is at hand (cache, from" in capsys.readouterr().err


def test_a_bad_tree_in_the_environment_is_a_reason_among_others(
    tmp_path: Path, archive: Any, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNEL_TREE", str(tmp_path / "nowhere"))
    with pytest.raises(Problem, match=r"nowhere: cannot be read: No such file"):
        fetch("6.12")
    archive.build("6.12", {NEW: page})
    assert fetch("6.12").source == page


def test_every_source_has_its_say_when_none_has_the_release() -> None:
    with pytest.raises(Problem) as caught:
        fetch("6.99")
    message = str(caught.value)
    assert message.startswith("6.99: error: this release is nowhere to be found (")
    for part in (
        "linux-doc-6.99: is not installed;",
        "apt-get download: Unable to locate package;",
        "127.0.0.1:1: cannot be reached (Connection refused)",
        "No release is at hand.",
        "--tree",
    ):
        assert part in message


def test_releases_at_hand_are_in_the_order_of_their_numbers(tmp_path: Path, put: Put) -> None:
    for release in ("6.12", "6.1", "5.10"):
        put(tmp_path / f"share-doc/linux-doc-{release}" / NEW, "text\n")
    (tmp_path / "share-doc/linux-doc-4.19").mkdir()
    fetch("6.12")
    with pytest.raises(Problem, match=r"Releases at hand: 5\.10, 6\.1, 6\.12\. Name one"):
        fetch("6.99")


@pytest.mark.parametrize("doc", ["6.12", "v6.12"])
def test_a_release_may_be_written_like_its_tag(tmp_path: Path, put: Put, doc: str) -> None:
    put(tmp_path / "share-doc/linux-doc-6.12" / NEW, "text\n")
    assert fetch(doc).release == "6.12"


def test_a_release_is_told_from_a_file_by_its_form(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "6.12", "file\n")
    put(tmp_path / "share-doc/linux-doc-6.12" / NEW, "release\n")
    assert fetch("6.12").source == "release\n"
    assert fetch("./6.12").source == "file\n"


def test_a_cached_release_needs_neither_network_nor_programs(tmp_path: Path, put: Put) -> None:
    """What every run does at its start must not load what only a first run needs."""
    put(tmp_path / "share-doc/linux-doc-6.12" / NEW, "text\n")
    fetch("6.12")
    costly = {"subprocess", "tarfile", "urllib.request", "http.client", "gzip", "tempfile", "docutils"}
    code = (
        "import sys; before = set(sys.modules)\n"
        "from mmuspec.fetch import fetch; fetch('6.12')\n"
        f"print(*sorted({costly} & (set(sys.modules) - before)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.strip() == ""
