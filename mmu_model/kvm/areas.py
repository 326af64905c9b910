"""What the host knows of a process's memory: areas that are alike, each mapped in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile

from mmu_model.hardware.types import PAGE_SHIFT, Pfn
from mmu_model.kvm.types import PG_LEVEL_4K, pages_per_hpage


@dataclass(frozen=True, slots=True)
class Area:
    """Memory that is alike; addresses are counted in pages.

    Attributes
    ----------
    pfn :
        Its first frame; None if it has no frames at the moment.
    origin :
        Of a mapped file, the first frame that holds its contents: what is mapped if there are no frames.
    copy_on_write :
        Others have the frame, too: a write gets a copy of it.

    """

    start: int
    npages: int
    pfn: Pfn | None
    level: int
    writable: bool
    origin: Pfn | None = None
    copy_on_write: bool = False

    def part(self, page: int, npages: int) -> Area:
        """Some pages of it."""
        offset = page - self.start
        pfn = None if self.pfn is None else Pfn(self.pfn + offset)
        origin = None if self.origin is None else Pfn(self.origin + offset)
        return replace(self, start=page, npages=npages, pfn=pfn, origin=origin)

    def overlaps(self, page: int, npages: int) -> bool:
        """Whether some of these pages are in it."""
        return self.start < page + npages and page < self.start + self.npages


class Areas:
    """All areas of a process. They may overlap: what was mapped or changed last is what counts."""

    def __init__(self) -> None:
        self._areas: list[Area] = []

    def add(self, area: Area) -> None:
        """Map pages; whatever was there before, this counts now."""
        self._areas.append(area)

    def at(self, page: int) -> Area | None:
        """The area that a page is in; None if nothing is mapped there."""
        for area in reversed(self._areas):
            if area.start <= page < area.start + area.npages:
                return area
        return None

    def level_at(self, area: Area, page: int) -> int:
        """The largest page that has this one in it and lies within the area, no part of it changed since."""
        for level in range(area.level, PG_LEVEL_4K, -1):
            size = pages_per_hpage(level)
            first = page & -size
            within = area.start <= first and first + size <= area.start + area.npages
            if within and not self._is_changed(area, first, size):
                return level
        return PG_LEVEL_4K

    def _is_changed(self, area: Area, first: int, npages: int) -> bool:
        later = takewhile(lambda other: other is not area, reversed(self._areas))
        return any(other.overlaps(first, npages) for other in later)

    def change(self, page: int, npages: int, change: Callable[[Area], Area]) -> None:
        """Change pages that were mapped together, or have been changed together before.

        Raises
        ------
        LookupError
            Nothing is mapped at one of them; then nothing is changed.

        """
        end = page + npages
        changed = []
        while page < end:
            area = self.at(page)
            if area is None:
                raise LookupError(f"the process has nothing mapped at {page << PAGE_SHIFT:#x}")
            until = page + 1
            while until < end and self.at(until) is area:
                until += 1
            changed.append(change(area.part(page, until - page)))
            page = until
        self._areas += changed
