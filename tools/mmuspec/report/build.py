"""The report as data: everything that the reporters show is computed here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmuspec.document import Document, Source
from mmuspec.errors import Problem
from mmuspec.gaps import Gap
from mmuspec.merge import WordsOf
from mmuspec.report.anchors import Anchors
from mmuspec.report.changes import TIERS, Change, changes, tiers_of
from mmuspec.report.code import Code, Place
from mmuspec.report.dossier import Dossier, Shown, dossier, totals
from mmuspec.report.history import Edition, history
from mmuspec.report.kernels import SideBySide, side_by_side
from mmuspec.report.layout import Chapter, Layout
from mmuspec.report.pairing import Pairing, pair
from mmuspec.report.pictures import Gallery, Picture
from mmuspec.report.recorded import scenes
from mmuspec.results import DEFAULT, Results, StatementResult
from mmuspec.spec import REFUTED, Obsolete, Spec, SpecItem, SpecStatement, Verdict
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
class Aside:
    """What a report can have besides spec, results and document; each may be missing.

    `editions` are the documents of other releases, `words_of` finds former words by their digests, `gaps` is what
    the document leaves out, `code` the checkout with the tests, `baseline` an earlier report.
    """

    editions: Sequence[Edition] = ()
    words_of: WordsOf = lambda _digest: None
    gaps: tuple[Gap, ...] = ()
    code: Code | None = None
    baseline: Results | None = None


NOTHING_ELSE = Aside()


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of a document. `notices` say what was not at hand when the report was made.

    `dossiers` are those of the document's statements in the spec's order; `chapters` have the same ones in
    the order in which they are read, which differs where a list entry goes on below what is nested in it.
    `places` says where tests (by node id without parameters), violations and assertions (by file and line) and
    recordings stand. `changes` is what is new since the baseline, None without one.
    """

    source: Source
    kernels: tuple[str, ...]
    notices: tuple[str, ...]
    chapters: tuple[Chapter, ...]
    dossiers: tuple[Dossier, ...]
    obsolete: tuple[Former, ...]
    gaps: tuple[Gap, ...] = ()
    places: Mapping[str, Place] = field(default_factory=dict)
    changes: tuple[Change, ...] | None = None
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

    @property
    def verdicts(self) -> Mapping[Verdict | None, int]:
        """How many statements have each verdict; every verdict is there, and None for those without."""
        counted = Counter(each.verdict for each in self.dossiers)
        return {verdict: counted[verdict] for verdict in (*Verdict, None)}

    @property
    def tiers(self) -> Mapping[str, int]:
        """How many statements have evidence of each tier, the weakest tier first; "" are those without any."""
        counted = Counter(tier for each in self.dossiers for tier in each.tiers or ("",))
        order = [*dict.fromkeys(tier for s in self.results.statements for tier in tiers_of(s))]
        known = [tier for tier in TIERS if tier in order]
        return {tier: counted[tier] for tier in (*known, *(t for t in order if t not in known), "")}

    @property
    def wrong(self) -> tuple[Dossier, ...]:
        """What is wrong in the document, the untrue before the outdated, or what a test says is: first of all failures."""
        found = [each for each in self.dossiers if each.status is Status.FAILING or each.verdict in REFUTED]
        order = {Verdict.WRONG: 1, Verdict.STALE: 2}
        return tuple(
            sorted(found, key=lambda d: 0 if d.status is Status.FAILING else order.get(d.verdict, 3))  # type: ignore[arg-type]
        )

    @property
    def side_by_side(self) -> SideBySide:
        """The kernels beside each other."""
        return side_by_side(self.dossiers, self.kernels)

    def having(self, *statuses: Status) -> tuple[Dossier, ...]:
        """The statements of the document that have one of `statuses`."""
        return tuple(each for each in self.dossiers if each.status in statuses)


def build(
    spec: Spec,
    results: Results | None = None,
    document: Document | None = None,
    *,
    aside: Aside = NOTHING_ELSE,
    results_from: Path = DEFAULT,
) -> Report:
    """Bring together what is known. `results_from` is the file that a complaint about `results` names.

    Raises `Problem` if `results` have not one statement of this spec.
    """
    if results is not None:
        _is_of(spec, results, results_from)
    pairing = pair(spec, document, aside.words_of) if document else Pairing()
    maker = _Maker(spec, results, pairing, aside)
    dossiers = {
        statement.id: maker.dossier(item, statement) for item in spec.items for statement in item.statements
    }
    obsolete = tuple(maker.former(old) for old in spec.obsolete)
    layout = Layout(spec.items, dossiers, maker.anchors)
    report = Report(
        source=spec.source,
        kernels=maker.kernels,
        notices=(
            *_about_document(spec, document, pairing),
            *_about_results(spec, results, maker),
            *_about_pictures(maker.gallery),
        ),
        chapters=layout.of_document(document, pairing) if document else layout.of_spec(spec.source.title),
        dossiers=tuple(dossiers.values()),
        obsolete=obsolete,
        gaps=aside.gaps,
        places=_places(results, aside.code) if results and aside.code else {},
        pictures=maker.gallery.pictures,
    )
    return replace(report, changes=changes(aside.baseline, report.results)) if aside.baseline else report


class _Maker:
    """Makes the dossiers of one report: knows the results by id, the words, and the anchors given."""

    def __init__(self, spec: Spec, results: Results | None, pairing: Pairing, aside: Aside) -> None:
        self.ran: dict[str, StatementResult] = {s.id: s for s in results.statements} if results else {}
        self.same_spec = results is not None and results.sha256 == spec.source.sha256
        self.texts = pairing.texts
        self.reworded = set(pairing.reworded.values())
        self.aside = aside
        self.formers: dict[str, list[Obsolete]] = defaultdict(list)
        for old in spec.obsolete:
            self.formers[old.replaced_by].append(old)
        self.anchors = Anchors()
        self.gallery = Gallery(results, self.anchors)
        curated = {kernel for s in spec.everything() for kernel, _ in s.curated.kernels}
        self.kernels = tuple(sorted({*curated, *(results.kernels if results else ())}, key=version_key))

    def dossier(self, item: SpecItem, statement: SpecStatement) -> Dossier:
        shown = self.shown(statement)
        return dossier(
            item,
            statement,
            shown,
            self.texts.get(statement.id) or self.former_words(statement),
            self.kernels,
            self.anchors.give(statement.id),
            history(statement, self.formers[statement.id], self.aside.editions),
            reworded=statement.id in self.reworded,
            pictures=self.gallery.of(shown.result if shown and shown.counts else None),
        )

    def shown(self, statement: SpecStatement) -> Shown | None:
        """What the run showed; it counts if it saw the same words."""
        ran = self.ran.get(statement.id)
        if ran is None:
            return None
        return Shown(ran, counts=ran.digest == statement.digest or (not ran.digest and self.same_spec))

    def former_words(self, statement: SpecStatement) -> str | None:
        """The spec's own words where the document at hand has others."""
        return self.aside.words_of(statement.digest) if statement.id in self.reworded else None

    def former(self, old: Obsolete) -> Former:
        known = replace(self.dossier(old.item, old.statement), text=self.aside.words_of(old.statement.digest))
        return Former(known, old.release, old.sha256, old.replaced_by, old.proposed)


def _places(results: Results, code: Code) -> dict[str, Place]:
    """All places that the statements of a run name, if they are there."""
    found: dict[str, Place | None] = {}
    for name, where in results.declared.items():
        found[name] = code.violation(name, where)
    for statement in results.statements:
        for test in statement.tests:
            found.setdefault(test.nodeid.partition("[")[0], code.test(test.nodeid))
        for death in statement.deaths:
            found.setdefault(death.where, code.line(death.where))
        for scene in scenes(statement.evidence):
            for path in (scene.source, *(each.path for each in scene.recordings)):
                found.setdefault(path, code.file(path))
    return {name: place for name, place in found.items() if place}


def _is_of(spec: Spec, results: Results, path: Path) -> None:
    known = {statement.id for statement in spec.everything()}
    unknown = [statement.id for statement in results.statements if statement.id not in known]
    if results.sha256 != spec.source.sha256 and len(unknown) == len(results.statements):
        raise Problem(
            f"results of another document ({_revision(results)}) than the spec's "
            f"({_revision(spec.source)}), and of none of its statements; run `pytest conformance/` again",
            path,
        )
    if unknown and results.sha256 == spec.source.sha256:
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


def _about_results(spec: Spec, results: Results | None, maker: _Maker) -> Iterator[str]:
    if results is None:
        yield "No test results at hand: nothing counts as tested. Run pytest conformance/ to get them."
        return
    if results.sha256 != spec.source.sha256:
        yield (
            f"The tests ran on another document ({_revision(results)}) than the spec's ({_revision(spec.source)}). "
            "What they showed counts for the sentences that have the same words in both."
        )
    outrun = sum(bool(shown) and not shown.counts for shown in map(maker.shown, spec.statements()) if shown)
    if outrun:
        yield f"Statements whose words changed since the tests ran: {outrun}. Run pytest conformance/ again."
    unknown = {s.id for s in results.statements} - {s.id for s in spec.everything()}
    if unknown:
        yield f"Statements of the test run that the spec does not have: {len(unknown)}."
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
