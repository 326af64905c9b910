"""Holds answers against the emulator's: one case, many cases, and the smallest case that still disagrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.oracle import departures, emulator
from tests.oracle.case import CR0_PE, EFER_LME, Answer, Case, answer_from_json
from tests.oracle.generator import generate

Walker = Callable[[dict[str, Any]], dict[str, Any]]
"""What is judged: a case's JSON object in, an answer's out."""

_FIELDS = ("result", "pa", "error_code", "cr2", "exit_info_1", "exit_info_2", "changed")


@dataclass(frozen=True)
class Disagreement:
    """A case on which walker and oracle differ, in what both show."""

    case: Case
    expected: Answer
    got: Answer

    @property
    def kind(self) -> str:
        """What disagreements of one cause have in common: mode, results and the fields that differ."""
        if self.expected.result != self.got.result:
            return f"{self.case.mode}: {self.expected.result} expected, {self.got.result} found"
        differing = (name for name in _FIELDS if getattr(self.expected, name) != getattr(self.got, name))
        return f"{self.case.mode}: {self.expected.result}, other {', '.join(differing)}"

    def __str__(self) -> str:
        expected, found = self.expected.to_json(), self.got.to_json()
        return f"{self.kind}\n{self.case.line()}\n  expected {expected}\n  found    {found}"


@dataclass
class Tally:
    """What a run of cases covered, and what came of it."""

    coverage: Counter[tuple[str, str, int | None]] = field(default_factory=Counter)
    """Cases by mode, result, and error code or the low half of EXITINFO1."""
    left_out: Counter[str] = field(default_factory=Counter)
    disagreements: list[Disagreement] = field(default_factory=list)

    @property
    def compared(self) -> int:
        """How many cases were run on both sides."""
        return self.coverage.total()

    def add(self, other: Tally) -> None:
        """Take in another run."""
        self.coverage += other.coverage
        self.left_out += other.left_out
        self.disagreements += other.disagreements

    def by_kind(self) -> dict[str, list[Disagreement]]:
        """The disagreements, grouped, most frequent first."""
        groups: dict[str, list[Disagreement]] = {}
        for disagreement in self.disagreements:
            groups.setdefault(disagreement.kind, []).append(disagreement)
        return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def expected(case: Case) -> Answer:
    """What the oracle says of a case: the emulator's answer by the letter of the manuals.

    Raises
    ------
    emulator.UnsupportedError
        The emulator has not what the case asks for.
    """
    return departures.by_the_manuals(case, emulator.run(departures.for_the_emulator(case)))


def compare(case: Case, oracle: Answer, walker: Walker) -> Disagreement | None:
    """Ask the walker and compare what both show; None when they agree."""
    got = departures.seen(case, answer_from_json(walker(case.to_json())))
    wanted = departures.seen(case, oracle)
    return None if got == wanted else Disagreement(case, wanted, got)


def run(seed: int, indexes: Iterable[int], walker: Walker) -> Tally:
    """Generate cases and compare each."""
    tally = Tally()
    for index in indexes:
        case = generate(seed, index)
        reason = departures.left_out(case)
        if reason is not None:
            tally.left_out[reason] += 1
            continue
        oracle = expected(case)
        code = oracle.error_code if oracle.exit_info_1 is None else oracle.exit_info_1 & 0xFFFF_FFFF
        tally.coverage[case.mode, oracle.result, code] += 1
        disagreement = compare(case, oracle, walker)
        if disagreement is not None:
            tally.disagreements.append(disagreement)
    return tally


def minimize(disagreement: Disagreement, walker: Walker) -> Disagreement:
    """Take words and bits from a case for as long as a disagreement of the same kind remains."""
    smaller = True
    while smaller:
        smaller = False
        for case in _smaller(disagreement.case):
            if departures.left_out(case) is not None:
                continue
            try:
                found = compare(case, expected(case), walker)
            except emulator.UnsupportedError:
                continue
            if found is not None and found.kind == disagreement.kind:
                disagreement, smaller = found, True
                break
    return disagreement


def _smaller(case: Case) -> Iterator[Case]:
    """The cases that are one step simpler."""
    for address in case.memory:
        yield replace(case, memory={a: word for a, word in case.memory.items() if a != address})
    if case.pkru:
        yield replace(case, pkru=0)
    if case.ac:
        yield replace(case, ac=False)
    controls = [
        *(replace(case, cr0=case.cr0 ^ bit) for bit in _bits(case.cr0 & ~CR0_PE)),
        *(replace(case, cr4=case.cr4 ^ bit) for bit in _bits(case.cr4)),
        *(replace(case, efer=case.efer ^ bit) for bit in _bits(case.efer & ~EFER_LME)),
    ]
    yield from (simpler for simpler in controls if simpler.mode == case.mode)
    for address, (value, size) in case.memory.items():
        for bit in _bits(value & ~1):
            yield replace(case, memory=case.memory | {address: (value ^ bit, size)})


def _bits(value: int) -> Iterator[int]:
    return (1 << n for n in range(value.bit_length()) if value >> n & 1)
