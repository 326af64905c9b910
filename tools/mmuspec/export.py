"""A document as full-text YAML: what ``mmuspec extract`` prints."""

from __future__ import annotations

from typing import Any

from mmuspec.document import Document, Item
from mmuspec.yamlfile import dump

SCHEMA = 1


def as_yaml(document: Document) -> str:
    """The published schema, in one canonical form."""
    source = document.source
    about = {"path": source.path, "title": source.title, "sha256": source.sha256, "lines": source.lines}
    return dump({"schema": SCHEMA, "document": about, "items": [_item(item) for item in document.items]})


def _item(item: Item) -> dict[str, Any]:
    names = {"names": list(item.names)} if item.names else {}
    return {
        "id": item.id,
        "kind": item.kind.value,
        **names,
        "section": item.section,
        "line": item.line,
        "end_line": item.end_line,
        "text": item.text,
        "statements": [
            {"id": s.id, "line": s.line, "end_line": s.end_line, "digest": s.digest, "text": s.text}
            for s in item.statements
        ],
    }
