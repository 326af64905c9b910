"""Bytes from outside: how much of them is read, and whether they can be the document at all."""

from __future__ import annotations

import re
from pathlib import Path

from mmuspec.errors import Problem

# The largest page of the kernel's documentation has 0.3 MiB.
LIMIT = 4 << 20
GZIP = b"\x1f\x8b"
HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b",
    re.IGNORECASE | re.DOTALL,
)


def read_file(path: Path) -> bytes:
    """The document in a file, plain or gzipped. Raises `Problem`."""
    try:
        with path.open("rb") as file:
            raw = file.read(LIMIT + 1)
    except IsADirectoryError:
        raise Problem("is a folder; name a file in it, or a kernel tree with --tree", path) from None
    except FileNotFoundError:
        raise Problem("no such file; name another, or a release such as 6.12", path) from None
    except OSError as error:
        raise Problem(f"cannot be read: {error.strerror or error}", path) from None
    return document_bytes(raw, path)


def document_bytes(raw: bytes, where: str | Path) -> bytes:
    """What was read (up to `LIMIT` + 1 bytes), unzipped if need be, and found fit to be a document.

    The encoding is UTF-8; a byte order mark counts as text, as some pages of the kernel begin with one.
    Raises `Problem`.
    """
    _check_size(raw, where)
    data = _gunzip(raw, where) if raw.startswith(GZIP) else raw
    _check_size(data, where)
    if not data.strip():
        raise Problem("is empty; name another document", where)
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise Problem("is binary (a NUL byte); the document is reStructuredText in UTF-8", where, line)
    if HTML.match(data):
        raise Problem("is an HTML page, not the reStructuredText that it was made from", where, 1)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Problem(f"is not UTF-8 (byte {data[error.start]:#04x}); convert it", where, line) from None
    return data


def _check_size(data: bytes, where: str | Path) -> None:
    if len(data) > LIMIT:
        raise Problem(f"is larger than {LIMIT >> 20} MiB, so it is not the document", where)


def _gunzip(raw: bytes, where: str | Path) -> bytes:
    import gzip
    import io
    import zlib

    try:
        return gzip.GzipFile(fileobj=io.BytesIO(raw)).read(LIMIT + 1)
    except EOFError:
        raise Problem("ends in the middle of the gzip data; get it again", where) from None
    except (OSError, zlib.error) as error:
        raise Problem(f"is damaged gzip data ({error}); get it again", where) from None
