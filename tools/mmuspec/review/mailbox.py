"""From a file to its messages, one at a time, however large the file is.

==================  =====================================================================
the file is         recognised by
==================  =====================================================================
a web archive page  a date, ``by NAME``, ``[permalink] [raw]``, ``Subject:``; see `archive`
an mbox             a first line ``From ...``; ``git format-patch`` output is one too
a single mail       a first line that is a mail header, and ``Subject:`` or ``From:`` among them
a plain diff        none of these
==================  =====================================================================
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from mmuspec.errors import Problem
from mmuspec.review.archive import is_archive, messages_of_archive
from mmuspec.review.mail import message_of_mail
from mmuspec.review.message import Line, Message

# What a mail of a patch can have at most; an mbox may have any number of them.
MAIL_LIMIT = 8 << 20
HEAD = 8192
STDIN = "-"
SEPARATOR = re.compile(rb"From \S+.*\d\d:\d\d(?::\d\d)?.*\d{4}\s*$")
HEADER = re.compile(rb"[A-Za-z][A-Za-z0-9-]*:[ \t]")
TELLING_HEADER = re.compile(rb"^(?:Subject|From|Message-I[dD]):", re.MULTILINE)


def messages(path: str) -> Iterator[Message]:
    """The messages in a file, or on standard input for ``-``. Raises `Problem` if it cannot be read."""
    if path == STDIN:
        yield from messages_in(sys.stdin.buffer, "<stdin>")
        return
    try:
        with Path(path).open("rb") as file:
            yield from messages_in(file, path)
    except IsADirectoryError:
        raise Problem("is a folder; name the patch files in it", path) from None
    except FileNotFoundError:
        raise Problem("no such file; name a mail, an mbox or a diff", path) from None
    except OSError as error:
        raise Problem(f"cannot be read: {error.strerror or error}", path) from None


def messages_in(file: IO[bytes], name: str) -> Iterator[Message]:
    """The messages of an open file; `name` is what it is called in what is said of it."""
    head = file.readline(HEAD)
    if SEPARATOR.match(head):
        yield from _mbox(file, name)
        return
    data = head + file.read(MAIL_LIMIT + 1)
    if len(data) > MAIL_LIMIT:
        raise Problem(f"is larger than {MAIL_LIMIT >> 20} MiB and no mbox, so it is no patch", name)
    if not data.strip():
        raise Problem("is empty; name a mail, an mbox or a diff", name)
    if b"\0" in data:
        raise Problem("is binary (a NUL byte); name a mail, an mbox or a diff", name, _line_of_nul(data))
    header = re.split(rb"\r?\n\r?\n", data, maxsplit=1)[0]
    if HEADER.match(head) and TELLING_HEADER.search(header):
        yield message_of_mail(data, name, 1)
        return
    text = data.decode("utf-8", "replace")
    if is_archive(text):
        yield from messages_of_archive(text, name)
    else:
        yield Message(name, 1, "", "", _numbered(text))


def _numbered(text: str) -> tuple[Line, ...]:
    rows = text.split("\n")
    return tuple(Line(number, row.removesuffix("\r")) for number, row in enumerate(rows, 1))


def _mbox(file: Iterable[bytes], name: str) -> Iterator[Message]:
    """Cut at separator lines that follow a blank line, as the format has it. The first has been read."""
    mail: list[bytes] = []
    size, start, blank = 0, 2, False
    for number, row in enumerate(file, 2):
        if blank and row.startswith(b"From ") and SEPARATOR.match(row):
            yield message_of_mail(b"".join(mail), name, start)
            mail, size, start = [], 0, number + 1
        elif size <= MAIL_LIMIT:
            mail.append(row)
            size += len(row)
        blank = not row.strip()
    if mail:
        yield message_of_mail(b"".join(mail), name, start)


def _line_of_nul(data: bytes) -> int:
    return data[: data.index(b"\0")].count(b"\n") + 1
