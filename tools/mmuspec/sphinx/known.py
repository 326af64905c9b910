"""What is known of the statements of the document that Sphinx builds: those whose words the spec has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmuspec import results
from mmuspec.document import Statement
from mmuspec.errors import Problem
from mmuspec.extract import extract
from mmuspec.report import build
from mmuspec.report.dossier import Dossier
from mmuspec.report.pairing import pair
from mmuspec.specfiles import load_spec


@dataclass(frozen=True, slots=True)
class Known:
    """A statement of the document: its words without markup, and what is known of it."""

    words: str
    dossier: Dossier


def known_of(spec_directory: Path, results_file: Path, source: Path) -> list[Known]:
    """The statements of `source` in the order in which they are read. Raises `Problem`."""
    spec = load_spec(spec_directory)
    ran = results.load([results_file])
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"cannot be read: {error}", source) from None
    document, _ = extract(text, str(source))
    same = pair(spec, document).statements
    dossiers = {each.id: each for each in build(spec, ran, document, results_from=results_file).dossiers}
    found = sorted(document.statements, key=lambda statement: statement.line)
    return [Known(_words(each), dossiers[same[each.id]]) for each in found if each.id in same]


def _words(statement: Statement) -> str:
    return " ".join(piece.run.plain_between(piece.start, piece.stop) for piece in statement.pieces)
