"""What is known of a statement, for a terminal: plain text, 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from mmuspec.document import Document
from mmuspec.errors import Problem
from mmuspec.report import Report, build
from mmuspec.report.build import Former
from mmuspec.report.dossier import Dossier
from mmuspec.report.marks import DRIFT_TELLS, MARKS
from mmuspec.results import Results
from mmuspec.similarity import nearest
from mmuspec.spec import Spec
from mmuspec.visible import visible

WIDTH = 80
INDENT = "  "


def explain(spec: Spec, results: Results | None, document: Document | None, statement_id: str) -> str:
    """Text, claim, verdict, tests, violations and evidence of one statement, or of each one of an item.

    Raises `Problem` if the spec has neither, or `results` are of another spec.
    """
    report = build(spec, results, document)
    chosen = [*_chosen(report, statement_id)]
    if not chosen:
        raise Problem(_unknown(report, statement_id))
    lines = [line for dossier, former in chosen for line in (*_told(report, dossier, former), "")]
    lines += [line for notice in report.notices for line in _wrapped(f"Note: {notice}", "")]
    return visible("\n".join(lines).rstrip("\n") + "\n")


def _chosen(report: Report, wanted: str) -> Iterator[tuple[Dossier, Former | None]]:
    for dossier in report.dossiers:
        if wanted in (dossier.id, dossier.item):
            yield dossier, None
    for former in report.obsolete:
        if wanted == former.dossier.id:
            yield former.dossier, former


def _unknown(report: Report, wanted: str) -> str:
    everything = [*report.dossiers, *(former.dossier for former in report.obsolete)]
    near = nearest(wanted, dict.fromkeys([*(d.id for d in everything), *(d.item for d in report.dossiers)]))
    hint = f"did you mean {near!r}?" if near else "`mmuspec report` shows all that there are"
    return f"no statement and no item is called {wanted!r}; {hint}"


def _told(report: Report, dossier: Dossier, former: Former | None) -> Iterator[str]:
    yield dossier.id
    mark = MARKS[dossier.status]
    yield from _wrapped(f"{mark.sign} {dossier.status}: a statement that {mark.meaning}", "")
    yield from _wrapped(_place(report, dossier, former), "")
    for title, entries in _facts(dossier):
        yield ""
        yield title
        for entry in entries:
            yield from _wrapped(entry, INDENT)


def _place(report: Report, dossier: Dossier, former: Former | None) -> str:
    if former and former.proposed:
        return f"never in a document: proposed in {former.proposed}"
    if former:
        seen = f"Linux {former.release}" if former.release else f"sha256 {former.sha256[:12]}"
        now = f"; now {former.replaced_by}" if former.replaced_by else ""
        return f"obsolete: last seen in {seen}{now}"
    lines = (
        f"line {dossier.line}"
        if dossier.line == dossier.end_line
        else f"lines {dossier.line} to {dossier.end_line}"
    )
    release = f" of Linux {report.source.release}" if report.source.release else ""
    speaks_of = f", about {', '.join(dossier.mmu)}" if dossier.mmu else ""
    since = f"; {dossier.since}: nobody has looked yet" if dossier.since else ""
    return f"{report.source.path}{release}, {lines}, in {dossier.section!r}{speaks_of}{since}"


def _facts(dossier: Dossier) -> Iterator[tuple[str, Iterable[str]]]:
    if dossier.drift:
        yield "Drift", [DRIFT_TELLS[dossier.drift]]
    yield "Text", [dossier.text if dossier.text is not None else "not at hand"]
    yield "Claim", [dossier.claim or "none yet"]
    yield "Verdict", _verdicts(dossier)
    tests = [f"{each.outcome}  {each.family}{'  (refutes)' * each.refutes}" for each in dossier.trials]
    yield "Tests", tests or ["none"]
    violations = [
        f"{name}: "
        + (f"killed by {', '.join(map(str, killers))}" if killers else "killed by no test in these results")
        for name, killers in ((killing.name, killing.killers) for killing in dossier.killings)
    ]
    yield "Violations", violations or ["none"]
    evidence = [" ".join([each.tier, *each.kernels, str(each.family)]) for each in dossier.sightings]
    recorded = [
        f"recorded {scene.scenario}, {scene.snapshots or 'all of it'}: "
        + ", ".join(f"{each.kernel} {each.mmu}" for each in scene.recordings)
        for scene in dossier.scenes
    ]
    yield "Evidence", evidence + recorded or ["none"]
    if dossier.pictures:
        yield "Pictures", [f"{each.name}: {each.test}" for each in dossier.pictures]


def _verdicts(dossier: Dossier) -> Iterator[str]:
    yield dossier.verdict or "none yet"
    for kernel, verdict in dossier.kernels:
        yield f"{kernel}: {verdict or 'none yet'}"
    if dossier.why:
        yield dossier.why


def _wrapped(text: str, indent: str) -> list[str]:
    """Ids and paths stay whole, whatever their length: they are there to be copied."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
