"""A document from the Debian package, through a stand-in for apt-get and a real dpkg-deb."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mmuspec.cache import Cache
from mmuspec.errors import Problem
from mmuspec.fetch import fetch
from mmuspec.fetch.apt import document_in_package

NEW = "Documentation/virt/kvm/x86/mmu.rst"

pytestmark = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not installed")


@pytest.mark.parametrize(
    "path", [f"{NEW}.gz", NEW, "Documentation/virt/kvm/mmu.rst.gz", "Documentation/virtual/kvm/mmu.txt.gz"]
)
def test_the_package_is_downloaded_read_and_thrown_away(
    tmp_path: Path, archive: Any, page: str, path: str
) -> None:
    archive.build("6.12", {path: page, "Documentation/virt/kvm/zzz.rst": "after it\n"})
    told: list[str] = []

    fetched = fetch("6.12", progress=told.append)

    assert (fetched.source, fetched.path) == (page, path.removesuffix(".gz"))
    assert fetched.origin == "Debian package linux-doc-6.12 6.12.7-1, apt-get download"
    assert told[:2] == ["downloading linux-doc-6.12", "downloading linux-doc-6.12: 50 %"]
    assert archive.calls == ["download"]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not (tmp_path / "cache/apt").exists()


def test_lists_are_made_where_none_lead_to_the_package(tmp_path: Path, archive: Any, page: str) -> None:
    archive.build("6.12", {f"{NEW}.gz": page})
    archive.build("6.1", {f"{NEW}.gz": "Other\n=====\n"})
    archive.install(needs_lists=True)

    assert fetch("6.12").source == page
    assert archive.calls == ["download", "update", "download"]
    assert (tmp_path / "cache/apt/lists/made").exists()

    assert fetch("6.1").source == "Other\n=====\n"
    assert archive.calls[3:] == ["download", "download"], "lists of today are not made again"


def test_lists_of_yesterday_are_made_again(tmp_path: Path, archive: Any, page: str) -> None:
    archive.build("6.12", {f"{NEW}.gz": page})
    archive.build("6.1", {f"{NEW}.gz": page})
    archive.install(needs_lists=True)
    fetch("6.12")
    yesterday = time.time() - 25 * 60 * 60
    os.utime(tmp_path / "cache/apt/updated", (yesterday, yesterday))

    fetch("6.1")

    assert archive.calls[3:] == ["download", "update", "download"]


def test_two_at_once_make_lists_once(archive: Any, page: str) -> None:
    for release in ("6.1", "6.12"):
        archive.build(release, {f"{NEW}.gz": page})
    archive.install(needs_lists=True, update="sleep 0.3")

    with ThreadPoolExecutor(2) as pool:
        assert [fetched.source for fetched in pool.map(fetch, ("6.1", "6.12"))] == [page, page]
    assert archive.calls.count("update") == 1


def test_one_archive_that_does_not_answer_does_not_matter(tmp_path: Path, archive: Any, page: str) -> None:
    archive.build("6.12", {f"{NEW}.gz": page})
    archive.install(needs_lists=True, update='echo "E: Failed to fetch a list" >&2; exit 100')

    assert fetch("6.12").source == page
    assert not (tmp_path / "cache/apt/updated").exists(), "so the next call tries again"


def test_lists_that_cannot_be_made_are_the_reason_given(archive: Any) -> None:
    archive.install(
        needs_lists=True, update='echo "W: so-so" >&2; echo "E: Failed to fetch a list" >&2; exit 100'
    )
    with pytest.raises(Problem, match=r"apt-get update: Failed to fetch a list"):
        fetch("6.12")


def test_a_package_whose_name_only_resembles_is_not_taken(archive: Any, page: str) -> None:
    """apt-get takes an unknown name with a dot for a pattern: 6.1 would bring 6.12."""
    archive.build("6.12", {f"{NEW}.gz": page})
    with pytest.raises(Problem, match=r"apt-get download: no package linux-doc-6\.1;"):
        fetch("6.1")


def test_a_truncated_package_is_refused(tmp_path: Path, archive: Any, page: str) -> None:
    package = archive.build("6.12", {f"{NEW}.gz": page})
    package.write_bytes(package.read_bytes()[:-200])
    with pytest.raises(Problem, match=r"linux-doc-6\.12_6\.12\.7-1_all\.deb: cannot be unpacked"):
        fetch("6.12")
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no package at all", b"!<arch>\n"])
def test_what_is_no_package_is_refused(tmp_path: Path, content: bytes) -> None:
    package = tmp_path / "linux-doc-6.12_1_all.deb"
    package.write_bytes(content)
    with pytest.raises(Problem, match="cannot be unpacked"):
        document_in_package(package)


def test_a_package_without_the_document_is_refused(archive: Any) -> None:
    archive.build("6.12", {"Documentation/virt/kvm/api.rst.gz": "API\n===\n"})
    with pytest.raises(Problem, match=r"_all\.deb: has none of Documentation/virt/kvm/x86/mmu\.rst"):
        fetch("6.12")


def test_a_damaged_document_in_a_package_is_named(archive: Any) -> None:
    archive.build("6.12", {NEW: "a\nb\0"})
    with pytest.raises(Problem, match=rf"_all\.deb: {NEW}: is binary"):
        fetch("6.12")


def test_without_apt_get_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(Problem, match="apt-get: is not installed"):
        fetch("6.12")


def test_an_apt_get_that_cannot_be_run_is_a_reason_too(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(machine))
    (machine / "apt-get").write_bytes(b"\x7fELF no program")
    with pytest.raises(Problem, match="apt-get: cannot be run"):
        fetch("6.12")


def test_the_releases_that_apt_offers_are_named(machine: Path) -> None:
    (machine / "apt-cache").write_text(
        "#!/bin/sh\nprintf 'linux-doc-6.12\\nlinux-doc-6.1\\nlinux-doc\\nlinux-doc-x\\n'\n"
    )
    with pytest.raises(Problem, match=r"^.*Releases at hand: 6\.1, 6\.12\. Name one of them"):
        fetch("6.99")


def test_without_a_cache_lists_live_as_long_as_they_are_needed(
    tmp_path: Path, archive: Any, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MMUSPEC_CACHE", str(tmp_path / "file/cache"))
    archive.build("6.12", {f"{NEW}.gz": page})
    archive.install(needs_lists=True)

    assert fetch("6.12").source == page
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path: Path, machine: Path) -> None:
    """Ctrl-C during the download: apt-get is gone, so is what it had written, and the cache is as it was."""
    pid = tmp_path / "pid"
    (machine / "apt-get").write_text(f"""\
#!/bin/sh
echo half > linux-doc-6.12_1_all.deb
echo $$ > "{pid}.part"
mv "{pid}.part" "{pid}"
exec sleep 60
""")
    code = """\
from mmuspec.fetch import fetch
try:
    fetch("6.12")
except KeyboardInterrupt:
    raise SystemExit(130)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while not pid.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(list((tmp_path / "scratch").rglob("*.deb"))) == 1

    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=20)

    assert (process.returncode, complaint) == (130, b"")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert list((tmp_path / "cache").rglob("*")) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_package_is_remembered_as_the_release(archive: Any, page: str) -> None:
    archive.build("6.12", {f"{NEW}.gz": page})
    fetch("6.12")
    entry = Cache().release("6.12")
    assert entry
    assert (entry.path, entry.settled) == (NEW, True)
    assert fetch("6.12").source == page
    assert archive.calls == ["download"]
