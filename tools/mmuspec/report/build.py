"""The report as data: everything that the reporters show is computed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmuspec.document import Document, Source
from mmuspec.errors import Problem
from mmuspec.report.anchors import Anchors
from mmuspec.report.dossier import Dossier, dossier, totals
from mmuspec.report.layout import Chapter, Layout
from mmuspec.report.pairing import Pairing, pair
from mmuspec.report.pictures import Gallery, Picture
from mmuspec.results import DEFAULT, Results, StatementResult
from mmuspec.spec import Obsolete, Spec, SpecItem, SpecStatement
from mmuspec.status import Status
from mmuspec.version import version_key


@dataclass(frozen=True, slots=True)
class Former:
    """A statement that the document no longer has, and the last revision that had it, or what proposed it."""

    dossier: Dossier
    release: str
    sha256: str
    replaced_by: str
    proposed: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of a document. `notices` say what was not at hand when the report was made.

    `dossiers` are those of the document's statements in the spec's order; `chapters` have the same ones in
    the order in which they are read, which differs where a list entry goes on below what is nested in it.
    """

    source: Source
    kernels: tuple[str, ...]
    notices: tuple[str, ...]
    chapters: tuple[Chapter, ...]
    dossiers: tuple[Dossier, ...]
    obsolete: tuple[Former, ...]
    pictures: tuple[Picture, ...] = ()

    @property
    def totals(self) -> Mapping[Status, int]:
        """How many statements of the document have each status; every status is there."""
        return totals(self.dossiers)

    @property
    def results(self) -> Results:
        """The part of it that the results schema has: the document's statements, today's statuses."""
        return Results(
            self.source.release,
            self.source.sha256,
            self.kernels,
            tuple(each.result for each in self.dossiers),
        )

    def having(self, *statuses: Status) -> tuple[Dossier, ...]:
        """The statements of the document that have one of `statuses`."""
        return tuple(each for each in self.dossiers if each.status in statuses)


def build(
    spec: Spec,
    results: Results | None = None,
    document: Document | None = None,
    *,
    results_from: Path = DEFAULT,
) -> Report:
    """Bring together what is known. `results_from` is the file that a complaint about `results` names.

    Raises `Problem` if `results` are of another spec.
    """
    if results is not None:
        _is_of(spec, results, results_from)
    pairing = pair(spec, document) if document else Pairing()
    maker = _Maker(spec, results, pairing)
    dossiers = {
        statement.id: maker.dossier(item, statement) for item in spec.items for statement in item.statements
    }
    obsolete = tuple(maker.former(old) for old in spec.obsolete)
    layout = Layout(spec.items, dossiers, maker.anchors)
    return Report(
        source=spec.source,
        kernels=maker.kernels,
        notices=(
            *_about_document(spec, document, pairing),
            *_about_results(spec, results),
            *_about_pictures(maker.gallery),
        ),
        chapters=layout.of_document(document, pairing) if document else layout.of_spec(spec.source.title),
        dossiers=tuple(dossiers.values()),
        obsolete=obsolete,
        pictures=maker.gallery.pictures,
    )


class _Maker:
    """Makes the dossiers of one report: knows the results by id, the words, and the anchors given."""

    def __init__(self, spec: Spec, results: Results | None, pairing: Pairing) -> None:
        self.shown: dict[str, StatementResult] = {s.id: s for s in results.statements} if results else {}
        self.texts = pairing.texts
        self.anchors = Anchors()
        self.gallery = Gallery(results, self.anchors)
        curated = {kernel for s in spec.everything() for kernel, _ in s.curated.kernels}
        self.kernels = tuple(sorted({*curated, *(results.kernels if results else ())}, key=version_key))

    def dossier(self, item: SpecItem, statement: SpecStatement) -> Dossier:
        shown, text = self.shown.get(statement.id), self.texts.get(statement.id)
        anchor, pictures = self.anchors.give(statement.id), self.gallery.of(shown)
        return dossier(item, statement, shown, text, self.kernels, anchor, pictures)

    def former(self, old: Obsolete) -> Former:
        return Former(
            self.dossier(old.item, old.statement), old.release, old.sha256, old.replaced_by, old.proposed
        )


def _is_of(spec: Spec, results: Results, path: Path) -> None:
    if results.sha256 != spec.source.sha256:
        raise Problem(
            f"results of another document ({_revision(results)}) than the spec's "
            f"({_revision(spec.source)}); run `pytest conformance/` again",
            path,
        )
    known = {statement.id for statement in spec.everything()}
    unknown = [statement.id for statement in results.statements if statement.id not in known]
    if unknown:
        raise Problem(
            f"results of another spec: {unknown[0]!r} is no statement of this one"
            f"{_and_more(unknown)}; run `pytest conformance/` again",
            path,
        )


def _about_document(spec: Spec, document: Document | None, pairing: Pairing) -> Iterator[str]:
    if document is None:
        wanted = f" {spec.source.release}" if spec.source.release else ""
        yield (
            "No document at hand: claims stand in for the document's words. "
            f"To see its words, run mmuspec fetch{wanted}, then mmuspec report."
        )
        return
    if document.source.sha256 != spec.source.sha256:
        yield (
            f"The document at hand ({_revision(document.source)}) is not the one that the spec was made from "
            f"({_revision(spec.source)}). mmuspec check says what differs."
        )
    wordless = sum(statement.id not in pairing.texts for statement in spec.statements())
    if wordless:
        yield f"Statements of the spec that are not in the document at hand: {wordless}."
    if pairing.strangers:
        yield f"Statements of the document at hand that are not in the spec: {len(pairing.strangers)}."


def _about_results(spec: Spec, results: Results | None) -> Iterator[str]:
    if results is None:
        yield "No test results at hand: nothing counts as tested. Run pytest conformance/ to get them."
        return
    shown = {statement.id: statement.verdict for statement in results.statements}
    verdicts = {s.id: s.curated.verdict and s.curated.verdict.value for s in spec.statements()}
    missing = sum(each not in shown for each in verdicts)
    edited = sum(each in shown and verdict != shown[each] for each, verdict in verdicts.items())
    if missing:
        yield f"Statements that were not part of the test run: {missing}. Run pytest conformance/ again."
    if edited:
        yield f"Verdicts edited since the tests ran: {edited}. Statuses follow the verdicts of today."


def _about_pictures(gallery: Gallery) -> Iterator[str]:
    if gallery.left_out:
        yield f"Pictures left out to keep the page small: {len(gallery.left_out)}."


def _and_more(ids: Sequence[str]) -> str:
    return f" (nor are {len(ids) - 1} more)" if len(ids) > 1 else ""


def _revision(of: Source | Results) -> str:
    return f"{of.release or 'no release'}, sha256 {of.sha256[:12]}"
