"""A document named by its path, and everything that can be wrong with a file."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
from pathlib import Path

import pytest

from mmuspec.errors import Problem
from mmuspec.extract import extract
from mmuspec.fetch import fetch
from mmuspec.fetch.content import LIMIT


@pytest.mark.parametrize("name", ["mmu.rst", "mmu.txt", "mmu.rst.gz", "mmu.txt.gz"])
def test_a_file_is_read_whatever_it_is_called(tmp_path: Path, page: str, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(gzip.compress(page.encode()) if file.suffix == ".gz" else page.encode())

    fetched = fetch(str(file))

    assert (fetched.source, fetched.path, fetched.release) == (page, str(file), "")
    assert fetched.sha256 == hashlib.sha256(page.encode()).hexdigest()
    assert fetched.cached.read_bytes() == page.encode()
    assert str(file) in fetched.origin


@pytest.mark.parametrize(
    "text", ["a\r\nb\rc\n", "\ufeffWalks\n=====\n", "no newline at the end", "ß 漢\u2028x\x0cy"]
)
def test_text_and_digest_are_those_of_the_bytes(tmp_path: Path, text: str) -> None:
    """Neither line ends nor a byte order mark are touched, so extraction computes the same sha256."""
    file = tmp_path / "mmu.rst"
    file.write_bytes(text.encode())

    fetched = fetch(str(file))
    document, _ = extract(fetched.source, fetched.path)

    assert fetched.source == text
    assert document.source.sha256 == fetched.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        (b"", None, "is empty"),
        (b" \n\t\n", None, "is empty"),
        (gzip.compress(b"", mtime=0), None, "is empty"),
        (b"one\ntwo \0 three\n", 2, "is binary"),
        ("Walks\n=====\n".encode("utf-16"), 1, "is binary"),
        (b"one\ntwo\nM\xfcnchen\n", 3, "is not UTF-8 (byte 0xfc)"),
        (gzip.compress(b"one\nM\xfcnchen\n", mtime=0), 2, "is not UTF-8"),
        (gzip.compress(b"one\ntwo\n" * 99, mtime=0)[:-20], None, "ends in the middle of the gzip data"),
        (b"\x1f\x8b", None, "ends in the middle of the gzip data"),
        (gzip.compress(b"one\n", mtime=0)[:-8] + b"\xff" * 8, None, "is damaged gzip data"),
        (b"\x1f\x8bgarbage garbage garbage", None, "is damaged gzip data"),
        (b"\n <!DOCTYPE html>\n<html><body>mmu</body></html>", 1, "is an HTML page"),
        (b"<?xml version='1.0'?>\n<!-- a -->\n<HTML lang=en>", 1, "is an HTML page"),
    ],
)
def test_what_cannot_be_the_document_is_refused(
    tmp_path: Path, content: bytes, line: int | None, what: str
) -> None:
    file = tmp_path / "mmu.rst"
    file.write_bytes(content)

    with pytest.raises(Problem) as caught:
        fetch(str(file))

    assert (caught.value.where, caught.value.line) == (str(file), line)
    assert caught.value.message.startswith(what)
    assert not list((tmp_path / "cache").rglob("*.rst"))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_far_too_large_is_not_read_whole(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "mmu.rst"
    if zipped:
        file.write_bytes(gzip.compress(b"a" * 100_000_000, 1, mtime=0))
    else:
        with file.open("wb") as sparse:
            sparse.truncate(100_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(Problem, match="larger than 4 MiB"):
            fetch(str(file))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 8 * LIMIT


def test_the_largest_file_allowed_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mmu.rst"
    file.write_bytes(b"a" * LIMIT)
    assert len(fetch(str(file)).source) == LIMIT


@pytest.mark.parametrize(
    ("doc", "what"),
    [
        ("missing.rst", "no such file; name another, or a release"),
        (".", "is a folder; .*--tree"),
        ("6.x", "no such file"),
        ("x" * 5000, "cannot be read: File name too long"),
        ("file/mmu.rst", "cannot be read: Not a directory"),
    ],
)
def test_what_is_no_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doc: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    with pytest.raises(Problem, match=what) as caught:
        fetch(doc)
    assert str(caught.value).startswith(f"{doc}: error: ")


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path, page: str) -> None:
    file = tmp_path / "mmu.rst"
    file.write_text(page)
    before = fetch(str(file))
    file.write_text(page + "More.\n")

    after = fetch(str(file))

    assert after.source == page + "More.\n"
    assert before.cached.read_text() == page
    assert after.cached != before.cached


def test_a_file_has_no_revisions(tmp_path: Path, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mmu.rst"
    file.write_text(page)
    assert fetch(str(file), rev="v6.12").source == page
    assert "--rev does nothing" in capsys.readouterr().err
