"""A page of our own about shadow pages, patches of it, and the mails that they travel in."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PATH = "Documentation/virt/kvm/x86/mmu.rst"

PAGE = """\
=================
The tiny page mmu
=================

It keeps pages.  It is small.

Pages
=====

A page holds 512 sptes.

Pages contain the following information:
  role.level:
    The level of the page in the tower.
    1=4k sptes, 2=2M sptes.
  role.passthrough:
    The first entry leads on.  This is set if the tower has 5-level
    steps (host CR4.LA57=1) and stands on a 4-level tower (guest CR4.LA57=1).
  root_count:
    Counts who uses the page as a root.  While it is not zero, the
    page stays.
  parent_ptes:
    Where the page hangs.  See "Reverse map" below.
  spt:
    A page of entries.

Reverse map
===========

The way back from a page to its entries.

Events
======

- a page is removed

  The entries go first.

- a page is added
"""

LOCKED = "When it is not zero, a vCPU may take one more under the read lock."


def diff(before: str, after: str, path: str = PATH, context: int = 3) -> str:
    """A diff as git prints it."""
    rows = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{path}", f"b/{path}", n=context
    )
    return f"diff --git a/{path} b/{path}\nindex 111111111111..222222222222 100644\n{''.join(rows)}"


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """`text` with each first of a pair, which has to be in it, replaced by the second."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def mail(
    subject: str, body: str, *, author: str = "Ada Author", headers: Sequence[str] = (), message_id: str = ""
) -> str:
    """A mail as `git format-patch` writes it."""
    named = [f"Message-Id: <{message_id}>"] if message_id else []
    head = "\n".join([f"From: {author} <ada@example.org>", "Date: Tue, 1 Aug 2023 01:00:00 +0000",
                      f"Subject: {subject}", *named, *headers])  # fmt: skip
    return f"{head}\n\n{body}"


def patch_mail(subject: str, before: str, after: str, **options: Any) -> str:
    """A patch in a mail, with what stands between its text and its diff."""
    body = f"Say more.\n\nSigned-off-by: Ada Author <ada@example.org>\n---\n {PATH} | 2 ++\n\n{diff(before, after)}--\n2.41.0\n"
    return mail(subject, body, **options)


def mbox(*mails: str) -> str:
    """Mails in one file."""
    return "\n".join(f"From 0123456789abcdef Mon Sep 17 00:00:00 2001\n{each}" for each in mails)


def quoted(text: str, author: str = "Ada Author") -> str:
    """Text as a reply quotes it."""
    return f"On Tue, Aug 1, 2023, {author} wrote:\n" + "".join(
        f"> {row}".rstrip() + "\n" for row in text.splitlines()
    )


def archived(*mails: tuple[str, str, str]) -> str:
    """(author, subject, body) as a web archive shows a thread: leading white space collapsed, addresses masked."""
    return "\n\n".join(
        f"2023-08-0{number} 01:07:53\n\nby {author}\n\n[permalink] [raw]\nSubject: {subject}\n\n{_collapsed(body)}"
        for number, (author, subject, body) in enumerate(mails, 1)
    )


def _collapsed(body: str) -> str:
    rows = [re.sub(r"[ \t]+", " ", re.sub(r"\S+@\S+", "[email protected]", row)) for row in body.splitlines()]
    return "\n".join(row.lstrip() for row in rows) + "\n"


def write(folder: Path, name: str, text: str | bytes) -> str:
    """A file, and its path."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)
