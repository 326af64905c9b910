"""A document from the kernel's web site, played by a server on the loopback."""

from __future__ import annotations

import socket
import tracemalloc
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mmuspec.errors import Problem
from mmuspec.fetch import fetch, web
from mmuspec.fetch.content import LIMIT

NEW = "/Documentation/virt/kvm/x86/mmu.rst?h=v6.12"
OLD = "/Documentation/virtual/kvm/mmu.txt?h=v4.19"


def test_a_tag_is_read(site: Any, page: str) -> None:
    site.says(NEW, page.encode(), Content_Type="text/plain")

    fetched = fetch("6.12")

    assert (fetched.source, fetched.path, fetched.release) == (page, NEW[1:].partition("?")[0], "6.12")
    assert fetched.origin == site.url + NEW


def test_an_old_release_has_it_elsewhere(site: Any, page: str) -> None:
    site.says(OLD, page.encode())
    fetched = fetch("v4.19")
    assert (fetched.source, fetched.path) == (page, OLD[1:].partition("?")[0])
    assert site.asked[-1] == OLD


def test_an_unknown_tag_is_refused(site: Any) -> None:
    with pytest.raises(Problem, match=r"has no tag v6\.99 with the document in it") as caught:
        fetch("6.99")
    assert caught.value.where == "6.99"
    assert "No release is at hand." in caught.value.message


@pytest.mark.parametrize(
    ("body", "headers", "status", "what"),
    [
        (b"", {}, 200, "is empty"),
        (b"<!doctype html><p>prove that you are human", {}, 200, "is an HTML page"),
        (b"Walks\n", {"Content_Length": "600"}, 200, "came cut short: 6 of 600 bytes"),
        (b"Walks\n=====\n", {"Content_Length": "6"}, 200, None),
        (b"a" * (5 << 20), {}, 200, "larger than 4 MiB"),
        (b"a\0", {}, 200, "is binary"),
        (b"\xff\n", {}, 200, "is not UTF-8"),
        (b"later", {}, 503, "the server answered 503"),
        (b"nothing", {"Location": "file:///etc/passwd"}, 302, "file:///etc/passwd' is not allowed"),
        (b"nothing", {"Location": "ftp://127.0.0.1/mmu.rst"}, 302, "redirects to ftp://127.0.0.1/mmu.rst"),
        (b"nothing", {"Location": "data:text/plain,Walks"}, 301, "data:text/plain,Walks' is not allowed"),
        (b"zz\r\n", {"Transfer_Encoding": "chunked"}, 200, "cannot be reached"),
    ],
)
def test_what_a_server_may_answer(
    site: Any, body: bytes, headers: dict[str, str], status: int, what: str | None
) -> None:
    site.says(NEW, body, status, **headers)
    if what is None:
        assert fetch("6.12").source == "Walks\n"
    else:
        with pytest.raises(Problem, match=what):
            fetch("6.12")


def test_a_page_far_too_large_is_not_read_whole(site: Any) -> None:
    site.says(NEW, b"a" * 50_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(Problem, match="larger than 4 MiB"):
            fetch("6.12")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * LIMIT


def test_a_redirect_within_the_web_is_followed(site: Any, page: str) -> None:
    site.says(NEW, b"", 302, Location="/elsewhere")
    site.says("/elsewhere", page.encode())
    assert fetch("6.12").source == page


def test_a_redirect_from_https_to_http_is_refused() -> None:
    import urllib.request

    request = urllib.request.Request("https://127.0.0.1/a")
    with pytest.raises(Problem, match=r"redirects to http://127\.0\.0\.1/b, which is not followed"):
        web._StayOnTheWeb().redirect_request(request, None, 302, "", None, "http://127.0.0.1/b")  # type: ignore[arg-type]


def test_a_redirect_in_a_circle_ends(site: Any) -> None:
    site.says(NEW, b"", 302, Location=NEW)
    with pytest.raises(Problem, match="the server answered 302"):
        fetch("6.12")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        (
            "http://127.0.0.1:1",
            "127.0.0.1:1: cannot be reached .Connection refused.; name a file or a kernel tree",
        ),
        ("file:///etc", "file:///etc: is no http or https address; correct MMUSPEC_KERNEL_SITE"),
        ("http://[::1", "is no http or https address"),
        ("http://127.0.0.1:port", "cannot be reached"),
        ("http://", "is no http or https address"),
    ],
)
def test_a_site_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, url: str, what: str) -> None:
    monkeypatch.setenv("MMUSPEC_KERNEL_SITE", url)
    with pytest.raises(Problem, match=what):
        fetch("6.12")


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MMUSPEC_KERNEL_SITE", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(Problem, match="timed out"):
            fetch("6.12")


def test_a_server_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte now and then keeps each read alive; the whole still has an end."""
    monkeypatch.setattr(web, "DEADLINE", 0.3)

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                while True:
                    connection.sendall(b"a")
                    threading_pause.wait(0.05)
            except OSError:
                pass

    from threading import Event

    threading_pause = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=drip, args=(server,))
        thread.start()
        monkeypatch.setenv("MMUSPEC_KERNEL_SITE", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(Problem, match="took longer than"):
            fetch("6.12")
        thread.join(5)
    assert not thread.is_alive()


def test_nothing_of_a_bad_answer_is_kept(site: Any, tmp_path: Path) -> None:
    site.says(NEW, b"Walks\n", Content_Length="600")
    with pytest.raises(Problem):
        fetch("6.12")
    assert not list((tmp_path / "cache").rglob("*.rst"))
