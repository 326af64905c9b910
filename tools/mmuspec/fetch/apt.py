"""The document from Debian's package linux-doc-RELEASE: downloaded by apt-get, read, and thrown away.

Nothing is installed and nobody needs to be root. The machine's own package lists are used if they lead to
the package. If not, because there are none or they are too old for the archive, apt makes lists in our cache
folder, and takes them for a day.
"""

from __future__ import annotations

import fcntl
import os
import re
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mmuspec.errors import Problem
from mmuspec.fetch.commands import output_of, running
from mmuspec.fetch.content import LIMIT, document_bytes
from mmuspec.fetch.found import Found, Progress
from mmuspec.fetch.installed import PACKAGE
from mmuspec.fetch.places import DOCUMENT_PATHS

LISTS_LAST = 24 * 60 * 60
PATIENCE = ("-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30", "-o", "Acquire::Retries=1")
STATUS = re.compile(rb"dlstatus:[^:]*:(\d+)")
# The machine's hooks serve its own lists and may need root; only what names packages is worth fetching.
CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::Contents-deb;
#clear Acquire::IndexTargets::deb::CNF;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi;
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""


def from_package(release: str, folder: Path, progress: Progress) -> Found:
    """The document of the package; `folder` is where private lists go. Raises `Problem`."""
    with tempfile.TemporaryDirectory(prefix="mmuspec-") as scratch:
        try:
            package = _download(release, Path(scratch), (), progress)
        except Problem as problem:
            if problem.where != "apt-get download":
                raise
            package = _download_with_own_lists(release, folder, Path(scratch), progress)
        progress(f"reading {package.name}")
        path, data = document_in_package(package)
        version = package.name.split("_")[1].replace("%3a", ":")
        return Found(data, path, f"Debian package {PACKAGE}{release} {version}, apt-get download", release)


def document_in_package(package: Path) -> tuple[str, bytes]:
    """Path in the kernel tree and bytes of the document in a .deb, unpacked no further than it takes.

    Raises `Problem`.
    """
    with running(("dpkg-deb", "--fsys-tarfile", package)) as unpacking:
        found = None
        with (
            suppress(tarfile.TarError, EOFError, OSError),
            tarfile.open(fileobj=unpacking.stdout, mode="r|") as tar,
        ):
            found = next(_documents(tar), None)
        if found:
            return found[0], document_bytes(found[1], f"{package.name}: {found[0]}")
        unpacking.stdout.read()
        if unpacking.process.wait() != 0:
            raise Problem(f"cannot be unpacked ({unpacking.error}); get it again", package.name)
    raise Problem(f"has none of {', '.join(DOCUMENT_PATHS)} in it", package.name)


def releases(folder: Path) -> list[str]:
    """The releases that the package lists offer, the private ones in `folder` among them."""
    offered: set[str] = set()
    for options in ((), _options(folder) if (folder / "updated").exists() else ()):
        with suppress(Problem):
            names, _ = output_of(("apt-cache", *options, "pkgnames", PACKAGE), LIMIT)
            offered.update(re.findall(rf"^{PACKAGE}(\d[\d.]*)$", (names or b"").decode(), re.MULTILINE))
    return sorted(offered)


def _documents(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        path = member.name.partition(f"/{PACKAGE}")[2].partition("/")[2].removesuffix(".gz")
        if path in DOCUMENT_PATHS and member.isfile():
            file = tar.extractfile(member)
            raw = file.read(LIMIT + 1) if file else b""
            if len(raw) == min(member.size, LIMIT + 1):
                yield path, raw


def _download(release: str, scratch: Path, lists: Sequence[str], progress: Progress) -> Path:
    package = f"{PACKAGE}{release}"
    error = _apt_get(("download", package, *lists), f"downloading {package}", scratch, progress)
    # A name with a dot in it that no package has is taken for a pattern, and may bring quite another one.
    path = next(scratch.glob(f"{package}_*.deb"), None)
    if error is not None or path is None:
        raise Problem(error or f"no package {package}", "apt-get download")
    return path


def _download_with_own_lists(release: str, folder: Path, scratch: Path, progress: Progress) -> Path:
    folder = _writable(folder, scratch)
    try:
        complaint = _refresh_lists(folder, progress)
    except OSError as error:
        raise Problem(f"cannot be used for package lists: {error.strerror or error}", folder) from None
    try:
        return _download(release, scratch, _options(folder), progress)
    except Problem as problem:
        raise Problem(
            complaint or problem.message, "apt-get update" if complaint else problem.where
        ) from None


def _refresh_lists(folder: Path, progress: Progress) -> str | None:
    """Make lists in `folder`, or renew them if older than a day. Returns what apt has to complain of.

    One archive of several that does not answer need not be the one with the package.
    """
    with _locked(folder / "lock"):
        stamp = folder / "updated"
        if stamp.exists() and 0 <= time.time() - stamp.stat().st_mtime < LISTS_LAST:
            return None
        (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (folder / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        (folder / "apt.conf").write_text(CONFIGURATION, encoding="utf-8")
        command = ("update", *_options(folder), "-o", "APT::Update::Error-Mode=any")
        complaint = _apt_get(command, "making package lists", folder, progress)
        if complaint is None:
            stamp.touch()
        return complaint


def _options(folder: Path) -> Sequence[str]:
    own = (f"Dir::State::Lists={folder / 'lists'}", f"Dir::Cache={folder}")
    return ("-c", str(folder / "apt.conf"), *(word for each in own for word in ("-o", each)))


def _writable(folder: Path, scratch: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return scratch
    return folder if os.access(folder, os.W_OK) else scratch


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """One process at a time: two that make lists at once would be one that fails."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _apt_get(arguments: Sequence[str], doing: str, cwd: Path, progress: Progress) -> str | None:
    """Run apt-get and tell how far it is. Returns its complaint, or None if all went well."""
    progress(doing)
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as status, os.fdopen(writer, "wb") as ours:
        command = ("apt-get", *arguments, "-q", "-o", f"APT::Status-Fd={writer}", *PATIENCE)
        with running(command, output=False, cwd=cwd, pass_fds=(writer,)) as apt:
            ours.close()
            told = 0
            for line in status:
                at = STATUS.match(line)
                if at and int(at[1]) > told:
                    told = int(at[1])
                    progress(f"{doing}: {told} %")
            if apt.process.wait() == 0:
                return None
            return apt.error or f"exit status {apt.process.returncode}"
