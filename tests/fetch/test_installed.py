"""A document from an installed package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mmuspec.errors import Problem
from mmuspec.fetch import fetch


@pytest.mark.parametrize(
    "path",
    [
        "Documentation/virt/kvm/x86/mmu.rst",
        "Documentation/virt/kvm/mmu.rst",
        "Documentation/virtual/kvm/mmu.txt",
    ],
)
@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_an_installed_package_has_it(
    tmp_path: Path, page: str, put: Callable[[Path, str], Path], path: str, zipped: str
) -> None:
    put(tmp_path / "share-doc/linux-doc-6.12" / f"{path}{zipped}", page)

    fetched = fetch("6.12")

    assert (fetched.source, fetched.path, fetched.release) == (page, path, "6.12")
    assert fetched.origin.startswith("installed package, ")
    assert not (tmp_path / "apt-get.log").exists()


def test_another_release_is_not_taken_for_it(
    tmp_path: Path, page: str, put: Callable[[Path, str], Path]
) -> None:
    put(tmp_path / "share-doc/linux-doc-6.12/Documentation/virt/kvm/x86/mmu.rst.gz", page)
    with pytest.raises(Problem, match=r"linux-doc-6\.1: is not installed.*Releases at hand: 6\.12\."):
        fetch("6.1")


def test_a_damaged_package_is_named_when_nothing_else_has_it(tmp_path: Path) -> None:
    file = tmp_path / "share-doc/linux-doc-6.12/Documentation/virt/kvm/x86/mmu.rst.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\x1f\x8b")
    with pytest.raises(Problem, match=r"mmu\.rst\.gz: ends in the middle of the gzip data"):
        fetch("6.12")
