"""The review as plain data: what ``--format json`` prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mmuspec.review.finding import Changes, Finding, PatchReview, SeriesReview

SCHEMA = 1


def as_data(review: SeriesReview) -> dict[str, Any]:
    """The published schema; `docs/reviewing.md` says what its keys are."""
    return {
        "schema": SCHEMA,
        "base": {"path": review.base, "release": review.release},
        "patches": [_patch(patch) for patch in review.patches],
        "missing": [asdict(missing) for missing in review.missing],
        "notes": review.notes,
        "errors": [{"file": path, "line": line, "message": text} for path, line, text in review.complaints],
        "series": {**_changes(review.changes), "coverage": _coverage(review)},
        "todo": review.todo,
        "stub": review.stub,
    }


def _patch(patch: PatchReview) -> dict[str, Any]:
    return {
        "file": patch.path,
        "line": patch.line,
        "subject": patch.subject,
        "author": patch.author,
        "number": patch.number,
        "total": patch.total,
        "applied": [asdict(fit) for fit in patch.fits],
        "rejected": [asdict(misfit) for misfit in patch.misfits],
        "other_files": patch.elsewhere,
        **_changes(patch.changes),
        "coverage": _coverage(patch),
        "findings": [_finding(finding) for finding in patch.findings],
    }


def _changes(changes: Changes) -> dict[str, Any]:
    return {
        "added": changes.added,
        "removed": changes.removed,
        "moved": changes.moved,
        "changed": [
            {"id": c.statement, "class": c.kind, "before": c.before, "after": c.after}
            for c in changes.changed
        ],
        "fields": asdict(changes.fields),
    }


def _coverage(of: PatchReview | SeriesReview) -> dict[str, Any] | None:
    if of.coverage is None:
        return None
    before, after = of.coverage
    return {"before": asdict(before), "after": asdict(after)}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "topic": finding.topic.value,
        "level": finding.level.value,
        "message": finding.message,
        "line": finding.line,
        "quote": [line.at.text for line in finding.quote],
        "statement": finding.statement,
        "text": finding.text,
        "verdicts": {kernel or "others": verdict for kernel, verdict in finding.verdicts},
        "why": finding.why,
        "tests": [asdict(test) for test in finding.tests],
        "said_in": {"file": finding.place[0], "line": finding.place[1]} if finding.place else None,
    }
