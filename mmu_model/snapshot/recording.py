"""The file of one scenario on one kernel and one MMU: what each step gave, and the canonical snapshots.

Gzipped JSON, an entry a line, the same bytes for the same content. ``digest`` is the sha256 of all the
rest: a recording is evidence, and one that somebody edited is none.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .codec import CodecError, decode, encode
from .spte import Spte, SpteFormat
from .state import Address, Snapshot, Word

SCHEMA = 1
GZIP = b"\x1f\x8b"  # the first bytes of a gzipped file (RFC 1952, section 2.3.1)


class RecordingError(ValueError):
    """A file that is no recording, or not one to be trusted; the message says what to do."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step gave the guest. ``value`` is what it read; of a fault the vector, the error code and,
    for a page fault, cr2; of a dirty log the pages marked in it. ``step`` is its number in the scenario.
    """

    step: int
    value: Word | None = None
    vector: int | None = None
    error_code: Word | None = None
    cr2: Address | None = None
    dirty: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """``scenario`` is its name; ``program`` the sha256 of its compiled form, by which one knows
    that the scenario has not changed since.
    """

    scenario: str
    program: str
    results: tuple[StepResult, ...]
    snapshots: tuple[Snapshot, ...]


def to_json(recording: Recording) -> str:
    """The text of the file, before compression."""
    body = encode(recording, Recording)
    for snapshot in body["snapshots"]:
        for page in snapshot["pages"]:
            page["entries"] = {str(entry["index"]): _entry_to_json(entry, page) for entry in page["entries"]}
    return json.dumps({"schema": SCHEMA, "digest": _digest(body), **body}, indent=1) + "\n"


def from_json(text: str, where: str) -> Recording:
    """The recording ``text`` spells; ``where`` names it in errors. Raises RecordingError."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{where}: error: not a recording: {error}; record it again") from None
    if not isinstance(body, dict) or not isinstance(body.get("schema"), int):
        raise RecordingError(f"{where}: error: not a recording (no schema number)")
    if body["schema"] != SCHEMA:
        newer = "update this project" if body["schema"] > SCHEMA else "record it again"
        raise RecordingError(f"{where}: error: schema {body['schema']}, this version reads {SCHEMA}; {newer}")
    del body["schema"]
    if body.pop("digest", None) != _digest(body):
        raise RecordingError(
            f"{where}: error: content and digest differ, somebody edited it; record it again"
        )
    try:
        for snapshot in body["snapshots"]:
            for page in snapshot["pages"]:
                page["entries"] = [_entry_from_json(index, line) for index, line in page["entries"].items()]
        recording: Recording = decode(body, Recording, "recording")
        _each_page_once(recording)
    except (CodecError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordingError(f"{where}: error: {error}; record it again") from None
    return recording


def write_recording(path: Path, recording: Recording, *, compress: bool = True) -> None:
    """Writes beside ``path``, then renames. The same recording gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    try:
        text = to_json(recording).encode()
        beside.write_bytes(gzip.compress(text, mtime=0) if compress else text)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_recording(path: Path) -> Recording:
    """Reads and checks a recording, gzipped or not. Raises RecordingError, also where it cannot be read."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data.startswith(GZIP) else data).decode()
    except OSError as error:
        reason = error.strerror or error
        raise RecordingError(f"{path}: error: cannot read the recording: {reason}") from None
    except (EOFError, zlib.error, UnicodeDecodeError):
        raise RecordingError(f"{path}: error: the recording is cut off or damaged; record it again") from None
    return from_json(text, str(path))


def _each_page_once(recording: Recording) -> None:
    for snapshot in recording.snapshots:
        if len(snapshot.by_id()) != len(snapshot.pages):
            raise CodecError(f"snapshot {snapshot.name!r}: two pages have the same id")


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _entry_to_json(entry: dict[str, Any], page: dict[str, Any]) -> str:
    """``0x... leaf pfn ...``: the word, for people what it says, and that of shadowed_translation."""
    level = int(page["role_word"].split()[0], 16) & 15
    layout = SpteFormat(page.get("spte_format", SpteFormat.PAGING))
    translation = entry.get("shadowed_translation")
    return str(Spte(int(entry["raw"], 16), level, layout)) + (f" = {translation}" if translation else "")


def _entry_from_json(index: str, line: str) -> dict[str, Any]:
    spelled, _, translation = line.partition(" = ")
    entry: dict[str, Any] = {"index": int(index), "raw": spelled}
    return {**entry, "shadowed_translation": translation} if translation else entry
