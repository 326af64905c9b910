"""A machine of our own for each test: no document anywhere, and nothing reachable but the loopback."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from mmuspec import cache

NEW = "Documentation/virt/kvm/x86/mmu.rst"

NO_SUCH_PACKAGE = """\
#!/bin/sh
echo "$@" >> "{log}"
[ "$1" = update ] && exit 0
echo "E: Unable to locate package" >&2
exit 100
"""


@pytest.fixture
def page() -> str:
    """A small document, written here."""
    return "Walks\n=====\n\nA guest walks its own tables.  Each step reads one entry.\n"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty machine. Returns the folder on PATH whose programs come first."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("cache", "share-doc", "scratch"):
        (tmp_path / name).mkdir()
    settings = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(tmp_path / "scratch"),
        "MMUSPEC_CACHE": str(tmp_path / "cache"),
        "MMUSPEC_SHARE_DOC": str(tmp_path / "share-doc"),
        "MMUSPEC_KERNEL_SITE": "http://127.0.0.1:1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "tester" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KERNEL_TREE", raising=False)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(cache, "_warned", set())
    for program in ("apt-get", "apt-cache"):
        put_program(programs / program, NO_SUCH_PACKAGE.format(log=tmp_path / f"{program}.log"))
    return programs


def put_program(place: Path, script: str) -> None:
    place.write_text(script, encoding="utf-8")
    place.chmod(0o755)


@pytest.fixture
def put() -> Callable[[Path, str], Path]:
    """Write a file and the folders above it; gzipped if its name says so."""

    def put(place: Path, text: str) -> Path:
        place.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        place.write_bytes(gzip.compress(data, mtime=0) if place.suffix == ".gz" else data)
        return place

    return put


class GitTree:
    """A git tree in the making."""

    def __init__(self, top: Path) -> None:
        self.top = top
        top.mkdir()
        self.git("init", "-q")

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.top), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, files: dict[str, str], tag: str | None = None) -> str:
        """Commit exactly these files; returns the commit."""
        for old in self.git("ls-files").splitlines():
            (self.top / old).unlink()
        for path, text in files.items():
            (self.top / path).parent.mkdir(parents=True, exist_ok=True)
            (self.top / path).write_text(text, encoding="utf-8")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "state")
        if tag:
            self.git("tag", tag)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def git_tree(tmp_path: Path) -> GitTree:
    """An empty git tree."""
    return GitTree(tmp_path / "linux")


class Site:
    """A web server whose answers are set by the test: path -> (status, headers, body)."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                status, headers, body = site.answers.get(self.path, (404, {}, b"<html>none</html>"))
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def says(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        self.answers[path] = (
            status,
            {name.replace("_", "-"): value for name, value in headers.items()},
            body,
        )


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The kernel's web site, on the loopback."""
    site = Site()
    thread = Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("MMUSPEC_KERNEL_SITE", site.url)
    yield site
    site.server.shutdown()
    thread.join()
    site.server.server_close()


class Archive:
    """A Debian archive: a stand-in for apt-get that copies packages built by the test."""

    def __init__(self, tmp_path: Path, programs: Path) -> None:
        self.packages = tmp_path / "packages"
        self.packages.mkdir()
        self.log = tmp_path / "apt-get.log"
        self.work = tmp_path
        self.programs = programs
        self.needs_lists = False
        self.install()

    def build(self, release: str, files: dict[str, str], name: str | None = None) -> Path:
        """Make linux-doc-RELEASE with these files under its documentation folder."""
        name = name or f"linux-doc-{release}"
        root = self.work / f"build-{name}"
        documents = root / "usr/share/doc" / name
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: {release}.7-1\nArchitecture: all\n"
            "Maintainer: Tester <tester@example.org>\nDescription: documents of a test\n"
        )
        documents.mkdir(parents=True)
        (documents / "AAA").write_text("before the document\n")
        for path, text in files.items():
            (documents / path).parent.mkdir(parents=True, exist_ok=True)
            data = text.encode()
            (documents / path).write_bytes(gzip.compress(data, mtime=0) if path.endswith(".gz") else data)
        package = self.packages / f"{name}_{release}.7-1_all.deb"
        command = ["dpkg-deb", "--root-owner-group", "--build", str(root), str(package)]
        subprocess.run(command, check=True, capture_output=True)
        return package

    def install(self, needs_lists: bool = False, update: str = "exit 0") -> None:
        """Put the stand-in on PATH. With `needs_lists` it has packages only once our own lists were made."""
        missing = '[ -z "$lists" ] || [ ! -e "$lists/made" ]' if needs_lists else "false"
        script = f"""\
#!/bin/sh
echo "$@" >> "{self.log}"
lists=; package=; status=
for word; do
    case "$word" in
        Dir::State::Lists=*) lists="${{word#*=}}" ;;
        APT::Status-Fd=*) status="${{word#*=}}" ;;
        linux-doc-*) package="$word" ;;
    esac
done
case "$1" in
    update) [ -n "$lists" ] && touch "$lists/made"; {update} ;;
    download)
        if {missing}; then echo "E: Unable to locate package $package" >&2; exit 100; fi
        echo dlstatus:1:50.0000:Retrieving > "/dev/fd/$status"
        cp "{self.packages}/$package"* . 2>/dev/null ||
            {{ echo "E: Unable to locate package $package" >&2; exit 100; }} ;;
esac
"""
        put_program(self.programs / "apt-get", script)

    @property
    def calls(self) -> list[str]:
        """What apt-get was asked for, command by command."""
        return [line.split()[0] for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def archive(tmp_path: Path, machine: Path) -> Archive:
    """An archive with no packages yet."""
    return Archive(tmp_path, machine)
