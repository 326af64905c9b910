"""What a run of the conformance tests showed, statement by statement: `build/results.json`.

Written by the pytest plugin, read by the report. Several files (shards of one run) merge into one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from mmuspec import attachments, folder
from mmuspec.attachments import Attachment
from mmuspec.errors import Problem
from mmuspec.spec import Spec, SpecStatement, Verdict
from mmuspec.status import Status, status_of
from mmuspec.version import version_key

SCHEMA = 1
DEFAULT = Path("build/results.json")
SIZE_LIMIT = 100_000_000


@dataclass(frozen=True, slots=True, order=True)
class Test:
    """One test that names a statement. `outcome` is pytest's: passed, failed, skipped, xfailed, xpassed."""

    __test__: ClassVar[bool] = False  # pytest: not a test class, whatever its name

    nodeid: str
    outcome: str
    refutes: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Proof:
    """A violation of a statement and the tests of that statement that it makes fail."""

    name: str
    killed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Death:
    """What a test said when a violation made it fail: the assertion, and the file and line it stands in."""

    violation: str
    test: str
    where: str
    assertion: str


@dataclass(frozen=True, slots=True, order=True)
class Evidence:
    """Where a statement was seen to be true (or untrue). `kernel` is empty where none is involved."""

    tier: str
    kernel: str
    where: str


@dataclass(frozen=True, slots=True, order=True)
class Attached:
    """A picture that a test attached: `attachment` is its id among those of the results."""

    nodeid: str
    attachment: str


@dataclass(frozen=True, slots=True)
class StatementResult:
    """All that a run showed of one statement. `digest` is that of the words it had then, empty if not noted."""

    id: str
    line: int
    section: str
    mmu: tuple[str, ...] = ()
    verdict: str | None = None
    status: Status = Status.UNCOVERED
    tests: tuple[Test, ...] = ()
    violations: tuple[Proof, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    deaths: tuple[Death, ...] = ()
    digest: str = ""
    pictures: tuple[Attached, ...] = ()


@dataclass(frozen=True, slots=True)
class Results:
    """A run: the document it was held against, the kernels it spoke of, the statements in order.

    `declared` has the file and line of each violation by its name, `attachments` the pictures, sorted by id.
    """

    release: str
    sha256: str
    kernels: tuple[str, ...] = ()
    statements: tuple[StatementResult, ...] = ()
    declared: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()

    @property
    def totals(self) -> dict[str, int]:
        """How many statements have each status; every status is there."""
        counted = Counter(statement.status for statement in self.statements)
        return {status.value: counted[status] for status in Status}

    def of(self, statement_id: str) -> StatementResult | None:
        """What was shown of one statement."""
        return next((s for s in self.statements if s.id == statement_id), None)


@dataclass(slots=True)
class Findings:
    """What is known of one statement while a run is under way."""

    tests: dict[str, Test] = field(default_factory=dict)
    violations: dict[str, set[str]] = field(default_factory=dict)
    evidence: set[Evidence] = field(default_factory=set)
    deaths: set[Death] = field(default_factory=set)
    attachments: dict[str, list[Attachment]] = field(default_factory=dict)


def compose(spec: Spec, findings: dict[str, Findings], declared: Mapping[str, str] | None = None) -> Results:
    """The results of a run over `spec`: every statement is in it, the obsolete ones that have tests too."""
    sections = {s.id: item.section for item in spec.items for s in item.statements}
    sections |= {old.statement.id: old.item.section for old in spec.obsolete if old.statement.id in findings}
    statements = tuple(
        _result(statement, sections[statement.id], findings.get(statement.id, Findings()))
        for statement in spec.everything()
        if statement.id in sections
    )
    kernels = {e.kernel for s in statements for e in s.evidence if e.kernel}
    attached = [a for found in findings.values() for some in found.attachments.values() for a in some]
    return Results(
        spec.source.release,
        spec.source.sha256,
        tuple(sorted(kernels, key=version_key)),
        statements,
        dict(sorted((declared or {}).items())),
        _each_once(attached),
    )


def _each_once(attached: Iterable[Attachment]) -> tuple[Attachment, ...]:
    return tuple(attachment for _, attachment in sorted({each.id: each for each in attached}.items()))


def _result(statement: SpecStatement, section: str, found: Findings) -> StatementResult:
    verdict = statement.curated.verdict
    tests = tuple(sorted(found.tests.values()))
    violations = tuple(Proof(name, tuple(sorted(by))) for name, by in sorted(found.violations.items()))
    passed = {test.nodeid for test in tests if test.outcome == "passed"}
    evidence = tuple(
        sorted(e for e in found.evidence if not passed.isdisjoint({e.where}) or e.tier != "model")
    )
    mmu = tuple(m.value for m in statement.curated.mmu)
    status = status_of(verdict, [(t.outcome, t.refutes) for t in tests], any(p.killed_by for p in violations))
    return StatementResult(
        statement.id,
        statement.line,
        section,
        mmu,
        verdict and verdict.value,
        status,
        tests,
        violations,
        evidence,
        tuple(sorted(found.deaths)),
        statement.digest,
        tuple(
            sorted(
                Attached(nodeid, each.id)
                for nodeid, attached in found.attachments.items()
                for each in attached
                if nodeid in passed
            )
        ),
    )


def merge(shards: Sequence[Results]) -> Results:
    """Several runs over one spec as one. Raises `Problem` if they are of different documents."""
    first = shards[0]
    for shard in shards[1:]:
        if shard.sha256 != first.sha256:
            raise Problem("results of different documents cannot be merged; run the tests again")
    merged = {s.id: s for s in first.statements}
    for shard in shards[1:]:
        for statement in shard.statements:
            merged[statement.id] = _merged(merged.get(statement.id, statement), statement)
    kernels = {kernel for shard in shards for kernel in shard.kernels}
    return replace(
        first,
        kernels=tuple(sorted(kernels, key=version_key)),
        statements=tuple(merged.values()),
        declared=dict(sorted(pair for shard in shards for pair in shard.declared.items())),
        attachments=_each_once(each for shard in shards for each in shard.attachments),
    )


def _merged(one: StatementResult, other: StatementResult) -> StatementResult:
    tests = {t.nodeid: t for t in (*one.tests, *other.tests)}
    killers: dict[str, set[str]] = {}
    for proof in (*one.violations, *other.violations):
        killers.setdefault(proof.name, set()).update(proof.killed_by)
    violations = tuple(Proof(name, tuple(sorted(by))) for name, by in sorted(killers.items()))
    verdict = Verdict(one.verdict) if one.verdict else None
    outcomes = [(t.outcome, t.refutes) for t in tests.values()]
    return replace(
        one,
        tests=tuple(sorted(tests.values())),
        violations=violations,
        evidence=tuple(sorted({*one.evidence, *other.evidence})),
        deaths=tuple(sorted({*one.deaths, *other.deaths})),
        pictures=tuple(sorted({*one.pictures, *other.pictures})),
        status=status_of(verdict, outcomes, any(killers.values())),
    )


def save(results: Results, path: Path) -> None:
    """Write results, whole or not at all."""
    folder.write(path, json.dumps(as_json(results), indent=1) + "\n")


def as_json(results: Results) -> dict[str, Any]:
    """The published schema."""
    return {
        "schema": SCHEMA,
        "document": {"release": results.release, "sha256": results.sha256},
        "kernels": list(results.kernels),
        "totals": results.totals,
        "statements": [asdict(statement) for statement in results.statements],
        "declared": dict(results.declared),
        "attachments": [each.as_json() for each in results.attachments],
    }


def load(paths: Iterable[Path]) -> Results:
    """Read one results file, or several that are shards of one run."""
    return merge([_load(path) for path in paths])


def _load(path: Path) -> Results:
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise Problem(f"larger than {SIZE_LIMIT // 1_000_000} MB; these are no results", path)
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise Problem(f"schema {data['schema']!r} is not {SCHEMA}; run the tests again", path)
        return Results(
            str(data["document"]["release"]),
            str(data["document"]["sha256"]),
            tuple(map(str, data["kernels"])),
            tuple(_statement(entry) for entry in data["statements"]),
            {str(name): str(where) for name, where in data.get("declared", {}).items()},
            _each_once(attachments.from_json(entry) for entry in data.get("attachments", [])),
        )
    except OSError as error:
        raise Problem(f"cannot be read: {error.strerror}; run `pytest conformance/` first", path) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Problem(
            f"no results file ({type(error).__name__}: {error}); run the tests again", path
        ) from None


def _statement(entry: dict[str, Any]) -> StatementResult:
    verdict = Verdict(entry["verdict"]).value if entry["verdict"] is not None else None
    return StatementResult(
        str(entry["id"]),
        int(entry["line"]),
        str(entry["section"]),
        tuple(map(str, entry["mmu"])),
        verdict,
        Status(entry["status"]),
        tuple(Test(str(t["nodeid"]), str(t["outcome"]), bool(t["refutes"])) for t in entry["tests"]),
        tuple(Proof(str(v["name"]), tuple(map(str, v["killed_by"]))) for v in entry["violations"]),
        tuple(Evidence(str(e["tier"]), str(e["kernel"]), str(e["where"])) for e in entry["evidence"]),
        tuple(
            Death(str(d["violation"]), str(d["test"]), str(d["where"]), str(d["assertion"]))
            for d in entry.get("deaths", [])
        ),
        str(entry.get("digest", "")),
        tuple(Attached(str(s["nodeid"]), str(s["attachment"])) for s in entry.get("pictures", [])),
    )
