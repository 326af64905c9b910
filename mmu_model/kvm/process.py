"""The process that uses KVM: its memory is the guest's, and the host maps it as it likes."""

from dataclasses import dataclass, replace
from typing import Final

from mmu_model.hardware.types import PAGE_SHIFT, Hpa, Pfn
from mmu_model.kvm.host import Host
from mmu_model.kvm.types import PG_LEVEL_1G, PG_LEVEL_4K, Hva, pages_per_hpage

_FIRST_HVA: Final = 0x7F00_0000_0000


@dataclass(frozen=True, slots=True)
class HostMapping:
    """What the host's page tables say of one page of the process.

    Attributes
    ----------
    pfn :
        The frame.
    level :
        1 if it is mapped as 4 KiB, 2 or 3 if as part of a page of 2 MiB or 1 GiB.
    writable :
        Whether the process may write to it.

    """

    pfn: Pfn
    level: int
    writable: bool


@dataclass(frozen=True, slots=True)
class _Area:
    """Memory that was mapped in one go; addresses are counted in pages, and so are frames."""

    start: int
    npages: int
    pfn: Pfn
    level: int
    writable: bool

    def frame(self, page: int) -> Pfn:
        """The frame of a page of the area."""
        return Pfn(self.pfn + page - self.start)

    def mapping(self, page: int) -> HostMapping:
        """What the host's page tables say of a page of the area."""
        return HostMapping(self.frame(page), self._level(page), self.writable)

    def _level(self, page: int) -> int:
        """The largest page that has this one in it and lies within the area."""
        for level in range(self.level, PG_LEVEL_4K, -1):
            size = pages_per_hpage(level)
            first = page & -size
            if self.start <= first and first + size <= self.start + self.npages:
                return level
        return PG_LEVEL_4K


class Process:
    """The address space of the process.

    Parameters
    ----------
    host :
        Where its frames come from.

    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._areas: list[_Area] = []
        self._next = _FIRST_HVA

    def mmap(self, npages: int, level: int = PG_LEVEL_4K, *, writable: bool = True, offset: int = 0) -> Hva:
        """Memory of its own for the process; where it begins.

        Parameters
        ----------
        npages :
            How many pages of 4 KiB.
        level :
            The host maps it with pages of that level where they fit.
        writable :
            Whether the process may write to it.
        offset :
            How many pages the beginning lies past a boundary of a large page: 1 so that memory is out of
            step with the guest's large pages.

        """
        alignment = pages_per_hpage(PG_LEVEL_1G)
        start = -(-self._next // (alignment << PAGE_SHIFT)) * alignment
        pfn = self._host.alloc_user_frames(npages + offset, alignment)
        level = PG_LEVEL_4K if offset else level
        self._areas.append(_Area(start + offset, npages, Pfn(pfn + offset), level, writable))
        self._next = (start + offset + npages) << PAGE_SHIFT
        return Hva((start + offset) << PAGE_SHIFT)

    def mapping(self, hva: int) -> HostMapping | None:
        """The host's mapping of the page at `hva`; None if there is none."""
        page = hva >> PAGE_SHIFT
        area = self._area(page)
        return None if area is None else area.mapping(page)

    def madvise_hugepage(self, hva: Hva, npages: int, level: int) -> None:
        """The host maps part of what it mapped before with pages of `level` where they fit.

        Raises
        ------
        LookupError
            Nothing is mapped there.

        """
        page = hva >> PAGE_SHIFT
        area = self._area(page)
        if area is None:
            raise LookupError(f"the process has nothing mapped at {hva:#x}")
        self._areas.append(replace(area, start=page, npages=npages, pfn=area.frame(page), level=level))

    def _area(self, page: int) -> _Area | None:
        """What was mapped or changed last is what counts."""
        for area in reversed(self._areas):
            if area.start <= page < area.start + area.npages:
                return area
        return None

    def hpa(self, hva: int) -> Hpa | None:
        """Where a byte of the process is in physical memory; None if it is nowhere."""
        found = self.mapping(hva)
        return None if found is None else Hpa(found.pfn << PAGE_SHIFT | hva & 0xFFF)
