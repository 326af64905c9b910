"""Pictures that tests attach to their results, for the report to show beside the statements they are about.

They come from outside like everything in a results file: what is not of these types, too large, or not what it
says it is, is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

MEDIA_TYPES: Final = ("image/svg+xml", "image/png")
LONGEST_NAME: Final = 200
LONGEST_TEXT: Final = 20_000
LARGEST: Final = 200_000
"""Bytes of one picture."""


class Unfit(ValueError):
    """Something that is no attachment; the message says why."""


@dataclass(frozen=True)
class Attachment:
    """A picture: ``text`` is the alternative for who cannot see it. Raises `Unfit`."""

    name: str
    media_type: str
    text: str
    content: bytes

    def __post_init__(self) -> None:
        if self.media_type not in MEDIA_TYPES:
            raise Unfit(f"attachment of type {self.media_type[:50]!r}, none of {', '.join(MEDIA_TYPES)}")
        for what, size, most in (
            ("name", len(self.name), LONGEST_NAME),
            ("text", len(self.text), LONGEST_TEXT),
            ("content", len(self.content), LARGEST),
        ):
            if not 0 < size <= most:
                raise Unfit(f"the {what} of an attachment has a length of {size}, 1 to {most} are allowed")

    @cached_property
    def id(self) -> str:
        """Names it in results: 16 hex digits of the sha256 over all that it is."""
        named = json.dumps([self.name, self.media_type, self.text]).encode()
        return hashlib.sha256(named + b"\0" + self.content).hexdigest()[:16]

    def as_json(self) -> dict[str, str]:
        """The form in a results file."""
        return {
            "id": self.id,
            "name": self.name,
            "media_type": self.media_type,
            "text": self.text,
            "content": base64.b64encode(self.content).decode(),
        }


def from_json(data: dict[str, Any]) -> Attachment:
    """The attachment that `data` spells. Raises `Unfit`, KeyError or TypeError."""
    try:
        content = base64.b64decode(str(data["content"]), validate=True)
    except binascii.Error:
        raise Unfit("the content of an attachment is no base64") from None
    attachment = Attachment(str(data["name"]), str(data["media_type"]), str(data["text"]), content)
    if attachment.id != data.get("id", attachment.id):
        raise Unfit(f"attachment {str(data['id'])[:50]!r} is not what its id says")
    return attachment
