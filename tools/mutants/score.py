"""What the judged mutants come to."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from mutants.mutations import Mutant, mutated
from mutants.project import Project
from mutants.watch import KILLED, SURVIVED

_Z: Final = 1.96
"""Standard deviations to either side of a mean that hold 95 %."""

Judged = tuple[Mutant, dict[str, Any]]


@dataclass(frozen=True)
class Score:
    """A share of mutants killed.

    Parameters
    ----------
    killed, total :
        Numbers of mutants.

    """

    killed: int
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share among all mutants is, with 95 % confidence (Wilson's interval)."""
        if not self.total:
            return 0.0, 1.0
        share, n = self.killed / self.total, self.total
        middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
        return middle - half, middle + half

    def __str__(self) -> str:
        if not self.total:
            return "none"
        low, high = self.interval
        share = self.killed / self.total
        return f"{share:.1%} ({self.killed} of {self.total}; 95 % interval {low:.1%} to {high:.1%})"


def score(judged: list[Judged]) -> Score:
    """The score of some mutants."""
    return Score(sum(result["outcome"] == KILLED for _, result in judged), len(judged))


def summary(project: Project, judged: list[Judged]) -> Iterator[str]:
    """Lines: the survivors, tables of them, the scores."""
    survivors = sorted((pair for pair in judged if pair[1]["outcome"] == SURVIVED), key=lambda pair: pair[0])
    for mutant, result in survivors:
        yield f"{mutant.path}:{mutant.start[0]}: {mutant.operator}: {result['how']}"
        yield from (f"    {line}" for line in diff(project, mutant))
    yield ""
    yield from _table("by kind", judged, lambda mutant: mutant.kind)
    yield from _table("by module", judged, lambda mutant: mutant.path)
    for outcome in (KILLED, SURVIVED):
        how = Counter(result["how"] for _, result in judged if result["outcome"] == outcome)
        yield f"{outcome}: {', '.join(f'{count} {name}' for name, count in how.most_common()) or 'none'}"
    yield f"all: {score(judged)}"


def diff(project: Project, mutant: Mutant) -> Iterator[str]:
    """The lines that a mutation takes away and puts in."""
    before, after = project.read(mutant.path).splitlines(), mutated(project, mutant).splitlines()
    changes = difflib.unified_diff(before, after, n=0, lineterm="")
    return (line for line in changes if line[:1] in "+-" and line[:3] not in ("+++", "---"))


def _table(title: str, judged: list[Judged], key: Any) -> Iterator[str]:
    """Survivors and mutants of each, those with the most survivors first; what has none is in one line."""
    total = Counter(key(mutant) for mutant, _ in judged)
    left = Counter(key(mutant) for mutant, result in judged if result["outcome"] == SURVIVED)
    yield f"{title:54} {'survived':>9} {'mutants':>8}"
    for name, count in left.most_common():
        yield f"  {name:52} {count:9} {total[name]:8}"
    clean = [name for name in total if name not in left]
    yield f"  {f'{len(clean)} others':52} {0:9} {sum(total[name] for name in clean):8}"
    yield ""
