"""The cache: what is kept, what is refused, and two processes at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from mmuspec import cache as cache_module
from mmuspec.cache import Cache, Entry, default_folder
from mmuspec.errors import Problem
from mmuspec.extract import extract
from mmuspec.fetch import fetch

NEW = "Documentation/virt/kvm/x86/mmu.rst"
INSTALLED = f"share-doc/linux-doc-6.12/{NEW}"

Put = Callable[[Path, str], Path]


def entry(sha256: str, origin: str = "somewhere", settled: bool = True) -> Entry:
    return Entry(sha256, NEW, origin, settled)


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ({"MMUSPEC_CACHE": "/a"}, "/a"),
        ({"MMUSPEC_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/mmuspec"),
        ({"MMUSPEC_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/mmuspec"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/mmuspec"),
        ({}, "/home/me/.cache/mmuspec"),
    ],
)
def test_the_environment_names_the_folder(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], folder: str
) -> None:
    for name in ("MMUSPEC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/me"} | settings).items():
        monkeypatch.setenv(name, value)
    assert default_folder() == Path(folder)


def test_without_a_home_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MMUSPEC_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    with pytest.raises(Problem, match="no home folder") as caught:
        default_folder()
    assert caught.value.where == "MMUSPEC_CACHE"


def test_a_document_is_kept_byte_for_byte() -> None:
    text = "\ufeffa\r\nb\x0c"
    sha256 = Cache().keep(text.encode())
    assert sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert Cache().text(sha256) == text


@pytest.mark.parametrize("sha256", ["0" * 64, "../../etc/passwd", "", "0" * 63, "A" * 64])
def test_what_is_not_there_is_none(sha256: str) -> None:
    assert Cache().text(sha256) is None


def test_a_changed_document_is_refused_with_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    cache = Cache()
    sha256 = cache.keep(b"Walks\n")
    cache.place(sha256).write_bytes(b"Walks!\n")

    assert (cache.text(sha256), cache.text(sha256), list(cache.texts())) == (None, None, [])
    assert capsys.readouterr().err == (
        f"{cache.place(sha256)}: warning: changed since it was cached, so it is not used; remove it\n"
    )


def test_a_release_changed_since_cached_is_found_again(
    tmp_path: Path, page: str, put: Put, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / INSTALLED, page)
    cached = fetch("6.12").cached
    cached.write_text("tampered\n")

    again = fetch("6.12")

    assert (again.source, again.cached.read_text()) == (page, page)
    assert again.origin.startswith("installed package")
    assert "changed since it was cached" in capsys.readouterr().err


def test_a_release_changed_since_cached_and_found_nowhere_is_an_error(
    tmp_path: Path, page: str, put: Put, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = put(tmp_path / INSTALLED, page)
    fetch("6.12").cached.write_text("tampered\n")
    installed.unlink()

    with pytest.raises(Problem, match="nowhere to be found"):
        fetch("6.12")
    assert "changed since it was cached" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"sha256": "0"}', '{"a": 1}', "\x00", '"text"'])
def test_a_damaged_entry_is_no_entry(
    tmp_path: Path, page: str, put: Put, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / INSTALLED, page)
    put(tmp_path / "cache/releases/6.12.json", content)
    assert fetch("6.12").source == page
    assert "is damaged" in capsys.readouterr().err
    assert fetch("6.12").origin.startswith("cache")


@pytest.mark.parametrize("where", ["documents/SHA.rst", "releases/6.12.json"])
def test_a_folder_in_the_place_of_a_file_is_stepped_around(
    tmp_path: Path, page: str, put: Put, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / INSTALLED, page)
    sha256 = hashlib.sha256(page.encode()).hexdigest()
    (tmp_path / "cache" / where.replace("SHA", sha256)).mkdir(parents=True)
    assert fetch("6.12").source == page
    assert "cannot be read" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, page: str, put: Put, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / INSTALLED, page)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MMUSPEC_CACHE", str(tmp_path / "file/cache"))

    fetched = fetch("6.12")

    assert fetched.source == fetch("6.12").source == page
    assert not os.path.lexists(fetched.cached)
    error = capsys.readouterr().err
    assert error.count("\n") == error.count("going on without a cache") == 1
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: object, __: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    Cache().keep(b"Walks\n")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert "No space left on device" in capsys.readouterr().err


def test_texts_come_newest_first() -> None:
    cache = Cache()
    for age, text in enumerate(["a", "b", "c"]):
        os.utime(cache.place(cache.keep(text.encode())), (1000 - age, 1000 - age))
    (cache.folder / "documents/.writing-x.rst").write_text("half")
    (cache.folder / "documents/note.rst").write_text("not ours")
    assert list(cache.texts()) == ["a", "b", "c"]
    cache.keep(b"c")
    assert next(cache.texts()) == "c", "reading it again makes it the newest"


def test_words_are_found_in_any_document_and_none_is_taken_apart_twice(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache()
    other = "Roots\n=====\n\nA root is *never* shared.\n"
    for age, text in enumerate([page, other]):
        os.utime(cache.place(cache.keep(text.encode())), (1000 - age, 1000 - age))
    first, second = (extract(text, "")[0].statements for text in (page, other))
    taken_apart: list[str] = []

    def counting(text: str, path: str) -> object:
        taken_apart.append(text)
        return extract(text, path)

    monkeypatch.setattr("mmuspec.extract.extract", counting)

    assert taken_apart == []
    assert cache.words_of(first[1].digest) == "Each step reads one entry."
    assert taken_apart == [page], "the other is not needed yet"
    assert cache.words_of(second[0].digest) == "A root is *never* shared."
    assert cache.words_of("0" * 16) is None
    assert cache.words_of(first[0].digest) == "A guest walks its own tables."
    assert taken_apart == [page, other]


def test_a_settled_entry_is_not_replaced_by_one_that_is_not() -> None:
    cache = Cache()
    release, tree = cache.keep(b"release\n"), cache.keep(b"tree\n")
    cache.remember("6.12", entry(tree, settled=False))
    cache.remember("6.12", entry(release))
    cache.remember("6.12", entry(tree, settled=False))
    assert cache.release("6.12") == entry(release)

    cache.place(release).unlink()
    cache.remember("6.12", entry(tree, settled=False))
    assert cache.release("6.12") == entry(tree, settled=False), "unless its document is gone"


def test_only_releases_whose_document_is_here_are_at_hand() -> None:
    cache = Cache()
    cache.remember("6.1", entry(cache.keep(b"text\n")))
    cache.remember("6.12", entry("0" * 64))
    assert cache.releases() == ["6.1"]


def _keep_many(number: int) -> list[str]:
    cache_module._warned.clear()
    cache = Cache()
    for round_ in range(40):
        sha256 = cache.keep(f"document {round_ % 4}\n".encode())
        cache.remember("6.12", entry(sha256, f"process {number}"))
        known = cache.release("6.12")
        assert known
        assert cache.text(known.sha256) is not None
    return sorted(cache_module._warned)


def test_processes_share_the_folder(tmp_path: Path) -> None:
    """Every read in the midst of others' writing sees a whole file, and nothing half written stays."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(_keep_many, range(2))) == [[], []]
    files = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) == 5
