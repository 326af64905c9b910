"""The kernels side by side: what each statement's verdict is for each, and what was seen on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmuspec.report.dossier import Dossier
from mmuspec.spec import Verdict


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel: how many statements have each verdict for it, and on how many each tier's evidence was seen."""

    release: str
    verdicts: Mapping[Verdict, int]
    tiers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One statement: its verdict and the tiers of evidence for each kernel, in the order of the kernels."""

    dossier: Dossier
    cells: tuple[tuple[Verdict | None, tuple[str, ...]], ...]

    @property
    def differs(self) -> bool:
        """Whether the kernels are not alike: another verdict, or seen live on some only."""
        verdicts = {verdict for verdict, _ in self.cells}
        live = {"live" in tiers for _, tiers in self.cells}
        return len(verdicts) > 1 or len(live) > 1


@dataclass(frozen=True, slots=True)
class SideBySide:
    """`kernels` in order; `rows` has every statement that has a verdict or evidence."""

    kernels: tuple[Kernel, ...]
    rows: tuple[Row, ...]

    def saw(self, tier: str) -> bool:
        """Whether evidence of `tier` is of any of the kernels: an emulator's, say, is of none."""
        return any(kernel.tiers.get(tier) for kernel in self.kernels)

    @property
    def differing(self) -> tuple[Row, ...]:
        """The rows in which the kernels are not alike."""
        return tuple(row for row in self.rows if row.differs)


def side_by_side(dossiers: Iterable[Dossier], releases: Sequence[str]) -> SideBySide:
    """Put together what the dossiers say of each of `releases`."""
    rows = tuple(
        Row(each, tuple((each.verdict_for(release), each.tiers_on(release)) for release in releases))
        for each in dossiers
        if each.verdict or each.evidence
    )
    return SideBySide(
        tuple(_kernel(release, [row.cells[place] for row in rows]) for place, release in enumerate(releases)),
        rows,
    )


def _kernel(release: str, cells: Sequence[tuple[Verdict | None, tuple[str, ...]]]) -> Kernel:
    verdicts = Counter(verdict for verdict, _ in cells if verdict)
    return Kernel(release, verdicts, Counter(tier for _, tiers in cells for tier in tiers))
