"""The process that uses KVM: its memory is the guest's, and the host maps it as it likes."""

from dataclasses import dataclass
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
    """Memory that was mapped in one go."""

    start: int
    npages: int
    pfn: Pfn
    level: int
    writable: bool

    def mapping(self, page: int) -> HostMapping:
        """`page` counts from the start of the area."""
        return HostMapping(Pfn(self.pfn + page), self._level(page), self.writable)

    def _level(self, page: int) -> int:
        """The largest page that has this one in it and lies within the area."""
        for level in range(self.level, PG_LEVEL_4K, -1):
            size = pages_per_hpage(level)
            if (page & -size) + size <= self.npages:
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
        self._moved: dict[int, Pfn] = {}
        """By page the frame that it was moved to."""

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
        if page in self._moved:
            return HostMapping(self._moved[page], PG_LEVEL_4K, self._area(page).writable)
        for area in self._areas:
            if area.start <= page < area.start + area.npages:
                return area.mapping(page - area.start)
        return None

    def migrate(self, hva: Hva) -> Pfn:
        """The host moves a page to another frame, with its contents; the new frame.

        Whoever maps the old one has to be told before (:mod:`mmu_model.kvm.notifier`).

        Raises
        ------
        LookupError
            There is no page at `hva`.

        """
        page = hva >> PAGE_SHIFT
        old = self.mapping(hva)
        if old is None:
            raise LookupError(f"the process has nothing mapped at {hva:#x}")
        new = self._moved[page] = self._host.alloc_user_frames(1, 1)
        for index, word in enumerate(self._host.memory.frame(old.pfn).tolist()):
            if word:
                self._host.memory.write((new << PAGE_SHIFT) + index * 8, word)
        return new

    def _area(self, page: int) -> _Area:
        return next(area for area in self._areas if area.start <= page < area.start + area.npages)

    def hpa(self, hva: int) -> Hpa | None:
        """Where a byte of the process is in physical memory; None if it is nowhere."""
        found = self.mapping(hva)
        return None if found is None else Hpa(found.pfn << PAGE_SHIFT | hva & 0xFFF)
