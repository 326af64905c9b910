"""One run of the conformance tests: what was collected, what it did, what is wrong with it.

The plugin tells it what happens; it knows the spec and makes the results, the table and the errors of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mmuspec import attachments, results
from mmuspec.attachments import Attachment
from mmuspec.errors import Problem
from mmuspec.home import spec_directory
from mmuspec.results import Death, Evidence, Findings, Results, Test
from mmuspec.similarity import nearest
from mmuspec.spec import REFUTED, Spec, Verdict
from mmuspec.specfiles import load_spec, places_of
from mmuspec.status import Status
from mmuspec.violations import DECLARED

MARK = "spec"
TIERS = ("model", "oracle", "live")
KERNEL_PARAMETER = "kernel"


class Marked(NamedTuple):
    """That one test is evidence for, or against, one statement; `kernel` is empty where none is involved."""

    id: str
    refutes: bool
    tier: str
    kernel: str


Proved = str | list[str]
"""What a test did on a wrong model: where it stopped and what its assertion said; or a word on what else it did."""


def marks_of(item: pytest.Item) -> list[Marked]:
    """The marks of a test. The kernel is that of its parameter ``kernel``."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    kernel = str(parameters.get(KERNEL_PARAMETER, ""))
    return [
        Marked(str(mark.args[0]), mark.kwargs.get("refutes", False), mark.kwargs.get("tier", "model"), kernel)
        for mark in item.iter_markers(MARK)
        if mark.args
    ]


class Run:
    """Everything known of a run so far. Workers of xdist have one each and hand theirs over at the end."""

    def __init__(self, root: Path, directory: Path, output: Path, *, whole: bool, proving: bool) -> None:
        self.root = root
        self.directory = directory
        self.output = output
        self.whole = whole
        self.proving = proving
        self.marks: dict[str, list[Marked]] = {}
        self.violations: dict[str, tuple[list[str], str]] = {}
        self.outcomes: dict[str, str] = {}
        self.seen: dict[str, list[list[str]]] = {}
        self.attachments: dict[str, list[Attachment]] = {}
        self.proofs: dict[str, dict[str, Proved]] = {}
        self.errors: list[str] = []
        self.results: Results | None = None

    @classmethod
    def of(cls, config: pytest.Config) -> Run:
        """The run that `config` describes. It is whole if it was not told to take single files or tests."""
        directory = config.getoption("spec_dir")
        output = config.getoption("spec_results")
        root = config.rootpath
        return cls(
            root,
            Path(directory) if directory else spec_directory(root),
            Path(output) if output else root / results.DEFAULT,
            whole=_takes_everything(config),
            proving=config.getoption("prove"),
        )

    @cached_property
    def spec(self) -> Spec:
        """Read when the first mark is met. Raises `Problem`."""
        return load_spec(self.directory)

    @cached_property
    def known(self) -> set[str]:
        return {statement.id for statement in self.spec.everything()}

    def complaints(self, items: Iterable[pytest.Item]) -> list[str]:
        """What is wrong with the marks of these tests: one line each, with file and line."""
        found = dict.fromkeys(complaint for item in items for complaint in self._complaints(item))
        return list(found)

    def _complaints(self, item: pytest.Item) -> Iterator[str]:
        path, line, _ = item.location
        where = f"{path}:{(line or 0) + 1}: error: {getattr(item, 'originalname', item.name)}: "
        for mark in item.iter_markers(MARK):
            if len(mark.args) != 1 or not isinstance(mark.args[0], str):
                yield where + "the mark spec takes one id: @pytest.mark.spec('role.level/...')"
            elif unknown := set(mark.kwargs) - {"refutes", "tier"}:
                yield (
                    where + f"the mark spec knows no {', '.join(sorted(unknown))}; it knows refutes and tier"
                )
            elif mark.kwargs.get("tier", "model") not in TIERS:
                yield where + f"tier {mark.kwargs['tier']!r} is none of {', '.join(TIERS)}"
            else:
                yield from self._unknown(where, mark.args[0])

    def _unknown(self, where: str, wanted: str) -> Iterator[str]:
        try:
            known = self.known
        except Problem as problem:
            yield str(problem)
            return
        if wanted not in known:
            likely = nearest(wanted, known)
            hint = f"; did you mean {likely}?" if likely else ""
            yield where + f"no statement has the id {wanted}{hint}"

    def collected(self, nodeid: str, marks: list[Marked]) -> None:
        """A test that is evidence was found."""
        self.marks[nodeid] = marks

    def as_data(self) -> dict[str, Any]:
        """What a worker hands over: plain data."""
        return {
            "marks": {nodeid: [list(mark) for mark in marks] for nodeid, marks in self.marks.items()},
            "violations": {v.name: [list(v.ids), v.where] for v in DECLARED},
        }

    def add(self, data: dict[str, Any]) -> None:
        """What a worker handed over."""
        self.marks |= {
            nodeid: [Marked(*mark) for mark in marks] for nodeid, marks in data.get("marks", {}).items()
        }
        self.violations |= {name: (ids, where) for name, (ids, where) in data.get("violations", {}).items()}

    def ran(self, nodeid: str, when: str, outcome: str) -> None:
        """One phase of a test ended: it passed only if every phase did."""
        if outcome != "passed" or when == "call":
            worst = self.outcomes.get(nodeid)
            self.outcomes[nodeid] = outcome if worst in (None, "passed") else worst

    def saw(self, nodeid: str, evidence: list[list[str]]) -> None:
        """A test said where else it saw what it shows."""
        if evidence:
            self.seen[nodeid] = evidence

    def attached(self, nodeid: str, attached: list[dict[str, str]]) -> None:
        """A test attached pictures."""
        if attached:
            self.attachments[nodeid] = [attachments.from_json(each) for each in attached]

    def proved(self, nodeid: str, verdicts: dict[str, Proved]) -> None:
        """A test was run on wrong models."""
        if verdicts:
            self.proofs[nodeid] = verdicts

    def finish(self) -> None:
        """Make the results of it all and write them; note what is wrong."""
        if not self.marks:
            return
        self.add(self.as_data())
        try:
            declared = {name: self._from_root(where) for name, (_, where) in self.violations.items()}
            self.results = results.compose(self.spec, self._findings(), declared)
            results.save(self.results, self.output)
        except Problem as problem:
            self.errors.append(str(problem))
            return
        self.errors += self._dead_violations()
        if self.whole:
            self.errors += self._verdicts_without_evidence()
        if self.proving:
            self.errors += self._violations_unnoticed()

    def _findings(self) -> dict[str, Findings]:
        found: dict[str, Findings] = {}
        for nodeid, marks in self.marks.items():
            if nodeid not in self.outcomes:
                continue
            for mark in marks:
                self._note(found.setdefault(mark.id, Findings()), nodeid, mark)
        for name, (ids, _) in self.violations.items():
            for statement_id in ids:
                found.setdefault(statement_id, Findings()).violations.setdefault(name, set())
        return found

    def _note(self, findings: Findings, nodeid: str, mark: Marked) -> None:
        outcome = self.outcomes[nodeid]
        findings.tests[nodeid] = Test(nodeid, outcome, mark.refutes)
        if outcome == "passed":
            findings.evidence.add(Evidence(mark.tier, mark.kernel, nodeid))
            findings.evidence.update(Evidence(*seen) for seen in self.seen.get(nodeid, []))
            if nodeid in self.attachments:
                findings.attachments[nodeid] = self.attachments[nodeid]
        for name, proved in self.proofs.get(nodeid, {}).items():
            if mark.id in self.violations[name][0]:
                killers = findings.violations.setdefault(name, set())
                if isinstance(proved, list) and outcome == "passed":
                    killers.add(nodeid)
                    findings.deaths.add(Death(name, nodeid, *proved))

    def _from_root(self, where: str) -> str:
        """Paths as node ids have them, so that results say nothing of the machine they come from."""
        return where.removeprefix(f"{self.root}{os.sep}")

    def _dead_violations(self) -> Iterator[str]:
        for name, (ids, where) in self.violations.items():
            for dead in sorted(set(ids) - self.known):
                likely = nearest(dead, self.known)
                hint = f"; did you mean {likely}?" if likely else ""
                yield f"{where}: error: {name} violates {dead}, which no statement has as its id{hint}"

    def _verdicts_without_evidence(self) -> Iterator[str]:
        marks = {(mark.id, mark.refutes) for each in self.marks.values() for mark in each}
        for statement in self.spec.everything():
            verdicts = {statement.curated.verdict, *dict(statement.curated.kernels).values()} - {None}
            for verdict in sorted(v for v in verdicts if v and v is not Verdict.UNTESTABLE):
                refutes = verdict in REFUTED
                if (statement.id, refutes) not in marks:
                    what = "refuting test" if refutes else "test"
                    path, line = places_of(self.directory, statement.id)[0]
                    yield f"{path}:{line}: error: {statement.id}: the verdict {verdict} has no {what}"

    def _violations_unnoticed(self) -> Iterator[str]:
        """Each violation must be noticed, by an assertion, by a test of each statement that it breaks."""
        assert self.results is not None
        for statement in self.results.statements:
            tests = [nodeid for nodeid, marks in self.marks.items() if statement.id in {m.id for m in marks}]
            tried = all(nodeid in self.outcomes for nodeid in tests) if tests else self.whole
            for proof in statement.violations:
                if proof.killed_by or not tried:
                    continue
                where = self.violations[proof.name][1]
                yield f"{where}: error: {proof.name}: {self._why_unnoticed(proof.name, statement.id, tests)}"

    def _why_unnoticed(self, name: str, statement_id: str, tests: list[str]) -> str:
        crashes = [f"{t}: {self.proofs.get(t, {}).get(name, '')}" for t in tests]
        crashes = [crash for crash in crashes if ": crashed: " in crash]
        if not tests:
            return f"{statement_id} has no test that could notice it"
        if crashes:
            return f"a crash is no proof; {crashes[0]}"
        return f"no test of {statement_id} fails on this wrong model ({len(tests)} tried)"

    def summary(self) -> Sequence[str]:
        """The table at the end of a run; nothing if no test named a statement."""
        if self.results is None:
            return []
        sections = list(dict.fromkeys(statement.section for statement in self.results.statements))
        width = max(map(len, sections), default=0)
        lines = ["", f"{'statements':<{width}}" + "".join(f"{status.value:>11}" for status in Status)]
        for section in sections:
            inside = [s.status for s in self.results.statements if s.section == section]
            lines.append(f"{section:<{width}}" + "".join(f"{inside.count(s) or '.':>11}" for s in Status))
        totals = self.results.totals
        return [*lines, f"{'all':<{width}}" + "".join(f"{totals[s.value]:>11}" for s in Status)]


def _takes_everything(config: pytest.Config) -> bool:
    """Whether the command line takes whole folders, so that a test that is not there does not exist."""
    chosen = config.getoption("keyword") or config.getoption("markexpr") or config.getoption("deselect")
    return not chosen and all(Path(str(argument)).is_dir() for argument in config.args)
