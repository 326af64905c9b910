"""The documents read so far, kept by their sha256, and which of them is which release.

The folder is ``$MMUSPEC_CACHE``, else ``$XDG_CACHE_HOME/mmuspec``, else ``~/.cache/mmuspec``:

=======================  ======================================================================
documents/SHA256.rst     a document, byte for byte; its name is the proof that it is unchanged
releases/RELEASE.json    which document is that release, and how it was found
=======================  ======================================================================

Each file is replaced whole by a rename and none depends on another being written at the same moment, so any
number of processes may share the folder. A folder that cannot be written is no error: work goes on without.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mmuspec.errors import Problem

SHA256 = re.compile(r"[0-9a-f]{64}")

_warned: set[str] = set()


@dataclass(frozen=True, slots=True)
class Entry:
    """Which document is a release: its sha256, its path in the kernel tree, and how it was found.

    `settled` is false for what a kernel tree had at some moment: the tree moves on, a release does not.
    """

    sha256: str
    path: str
    origin: str
    settled: bool


class Cache:
    """The cache folder. Reads return None for what is not there or no longer what it was; no call raises."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self._words: dict[str, str] = {}
        self._unread: Iterator[str] | None = None

    def place(self, sha256: str) -> Path:
        """Where the document with this sha256 is, or would be."""
        return self.folder / "documents" / f"{sha256}.rst"

    def text(self, sha256: str) -> str | None:
        """The document with this sha256, newlines untouched. A changed one is refused with a warning."""
        if not SHA256.fullmatch(sha256):
            return None
        place = self.place(sha256)
        data = _read(place)
        if data is None:
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            warn(place, "changed since it was cached, so it is not used; remove it")
            return None
        return data.decode("utf-8", "replace")  # only UTF-8 is ever kept

    def texts(self) -> Iterator[str]:
        """Every document, the one read most recently first."""
        for sha256 in self._newest_first():
            text = self.text(sha256)
            if text is not None:
                yield text

    def words_of(self, digest: str) -> str | None:
        """The text of the statement with this digest in any document, the newest first; None if none has it.

        Documents are taken apart one by one, each at most once, and none before it is needed.
        """
        if self._unread is None:
            self._unread = self.texts()
        while digest not in self._words:
            text = next(self._unread, None)
            if text is None:
                return None
            from mmuspec.extract import extract

            document, _ = extract(text, "")
            for statement in document.statements:
                self._words.setdefault(statement.digest, statement.text)
        return self._words[digest]

    def keep(self, data: bytes) -> str:
        """Store a document (UTF-8) and return its sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        place = self.place(sha256)
        if _read(place) == data:
            with suppress(OSError):
                os.utime(place)
        else:
            self._write(place, data)
        return sha256

    def release(self, release: str) -> Entry | None:
        """What is known of a release; its document may still be missing."""
        place = self._release(release)
        data = _read(place)
        if data is None:
            return None
        try:
            entry = Entry(**json.loads(data))
        except (ValueError, TypeError):
            warn(place, "is damaged, so it is not used; remove it")
            return None
        return entry if isinstance(entry.sha256, str) else None

    def remember(self, release: str, entry: Entry) -> None:
        """Note which document is a release. A settled entry gives way to a settled one only."""
        known = self.release(release)
        if known != entry and (entry.settled or not (known and known.settled and self.text(known.sha256))):
            self._write(self._release(release), json.dumps(asdict(entry), indent=1).encode())

    def releases(self) -> list[str]:
        """The releases whose document is here."""
        names = [path.stem for path in _listing(self.folder / "releases", "*.json")]
        entries = {name: self.release(name) for name in names}
        return [name for name, entry in entries.items() if entry and self.place(entry.sha256).is_file()]

    def _release(self, release: str) -> Path:
        return self.folder / "releases" / f"{release}.json"

    def _newest_first(self) -> list[str]:
        ages: dict[str, int] = {}
        for path in _listing(self.folder / "documents", "*.rst"):
            with suppress(OSError):
                ages[path.stem] = path.stat().st_mtime_ns
        return sorted(ages, key=lambda sha256: (-ages[sha256], sha256))

    def _write(self, place: Path, data: bytes) -> None:
        from mmuspec.folder import write

        try:
            write(place, data)
        except Problem as problem:
            warn(
                self.folder,
                f"{problem.message}; going on without a cache (MMUSPEC_CACHE names another folder)",
            )


def default_folder() -> Path:
    """The folder that the environment names. Raises `Problem` where there is not even a home folder."""
    if named := os.environ.get("MMUSPEC_CACHE"):
        return Path(named).absolute()
    # The XDG base directory specification: a relative path is invalid and to be ignored.
    if (shared := os.environ.get("XDG_CACHE_HOME")) and Path(shared).is_absolute():
        return Path(shared) / "mmuspec"
    try:
        return Path.home() / ".cache" / "mmuspec"
    except RuntimeError:
        raise Problem("there is no home folder to keep documents in; set it", "MMUSPEC_CACHE") from None


def warn(where: str | Path, message: str) -> None:
    """Say on standard error what the user should know but need not act on now; the same thing only once."""
    line = f"{where}: warning: {message}\n"
    if line not in _warned:
        _warned.add(line)
        sys.stderr.write(line)


def _read(place: Path) -> bytes | None:
    try:
        return place.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        warn(place, f"cannot be read: {error.strerror or error}; going on without it")
        return None


def _listing(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []
