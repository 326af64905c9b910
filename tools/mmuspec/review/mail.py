"""One mail taken apart: headers decoded, the parts that are plain text as numbered lines.

A line of a quoted-printable part has the number of the line of the file that it begins on; base64 has no
lines, so all of such a part stands on the line where it begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message as Mail

from mmuspec.review.message import Line, Message

TEXT = ("text/plain", "text/x-patch", "text/x-diff", "application/x-patch", "application/octet-stream")
HTML = "text/html"
ADDRESS = re.compile(r"\s*<[^>]*>\s*$")
MESSAGE_ID = re.compile(r"<[^<>\s]+>")


def message_of_mail(raw: bytes, path: str, line: int) -> Message:
    """`raw` begins on `line` of the file `path`. Never raises: what cannot be read is a complaint."""
    mail: Mail = message_from_bytes(raw)
    body: list[Line] = []
    complaints: list[Line] = []
    at = 0
    for part in mail.walk():
        if part.is_multipart():
            continue
        payload = part.get_payload()
        encoded = payload.encode("utf-8", "surrogateescape") if isinstance(payload, str) else b""
        found = raw.find(encoded, at) if encoded else -1
        at = found if found >= 0 else at
        first = line + raw.count(b"\n", 0, at)
        kind = part.get_content_type()
        if kind in TEXT and not _is_binary(part):
            body += _lines(part, encoded, first)
        elif kind == HTML:
            complaints.append(Line(first, "is HTML, which loses the diff; send (or save) it as plain text"))
    if body:
        complaints = []
    return Message(
        path,
        line,
        _decoded(mail.get("Subject")),
        ADDRESS.sub("", _decoded(mail.get("From"))).strip('"'),
        tuple(body),
        _thread(mail),
        complaints=tuple(complaints),
    )


def _lines(part: Mail, encoded: bytes, first: int) -> Iterator[Line]:
    data = part.get_payload(decode=True)
    text = _text(data if isinstance(data, bytes) else b"", part.get_content_charset())
    numbers = _numbers(encoded, str(part.get("Content-Transfer-Encoding", "")).strip().lower(), first)
    number = first
    for row in text.split("\n"):
        number = next(numbers, number)
        yield Line(number, row.removesuffix("\r"))


def _numbers(encoded: bytes, encoding: str, first: int) -> Iterator[int]:
    """The line of the file that each line of the decoded text begins on."""
    if encoding == "base64":
        return
    goes_on = False
    for number, row in enumerate(encoded.split(b"\n"), first):
        if not goes_on:
            yield number
        goes_on = encoding == "quoted-printable" and row.rstrip(b"\r \t").endswith(b"=")


def _text(data: bytes, charset: str | None) -> str:
    try:
        return data.decode(charset or "utf-8")
    except (LookupError, UnicodeDecodeError):
        return data.decode("utf-8", "replace")


def _is_binary(part: Mail) -> bool:
    data = part.get_payload(decode=True)
    return isinstance(data, bytes) and b"\0" in data


def _decoded(header: object) -> str:
    """A header in one line; what is said in no charset we know stays as it was sent."""
    raw = " ".join(str(header or "").split())
    try:
        return str(make_header(decode_header(raw)))
    except (LookupError, ValueError):
        return raw


def _thread(mail: Mail) -> str:
    """The id of the mail that began the thread: the first that is referred to, or its own."""
    for header in ("References", "In-Reply-To", "Message-Id"):
        found = MESSAGE_ID.search(str(mail.get(header, "")))
        if found:
            return found[0]
    return ""
