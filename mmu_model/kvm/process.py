"""The process that uses KVM: its memory is the guest's, and the host maps it as it likes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

from mmu_model.hardware.types import PAGE_SHIFT, Hpa, Pfn
from mmu_model.kvm.host import Host
from mmu_model.kvm.types import PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K, Hva, pa, pages_per_hpage

_FIRST_HVA: Final = 0x7F00_0000_0000


class MmuNotifier(Protocol):
    """Who keeps mappings of his own by those of the host, and has to be told when they change."""

    def invalidate_range_start(self, start: Hva, end: Hva) -> None:
        """The mapping of `start` to before `end` is about to change."""

    def invalidate_range_end(self, start: Hva, end: Hva) -> None:
        """It has changed."""

    def clear_flush_young(self, start: Hva, end: Hva) -> bool:
        """Whether it was used since this was last asked."""

    def test_young(self, start: Hva, end: Hva) -> bool:
        """The same, without any effect on the next answer."""


class HostMapping(NamedTuple):
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
    """Memory that is alike; addresses are counted in pages. Without `pfn` it has no frames yet."""

    start: int
    npages: int
    pfn: Pfn | None
    level: int
    writable: bool

    def part(self, page: int, npages: int) -> _Area:
        """Some pages of it."""
        pfn = None if self.pfn is None else Pfn(self.pfn + page - self.start)
        return replace(self, start=page, npages=npages, pfn=pfn)

    def overlaps(self, page: int, npages: int) -> bool:
        """Whether some of these pages are in it."""
        return self.start < page + npages and page < self.start + self.npages


class Process:
    """The address space of the process.

    Parameters
    ----------
    host :
        Where its frames come from.

    Attributes
    ----------
    notifiers :
        Who is told when mappings change.

    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._areas: list[_Area] = []
        self._zeroes: set[int] = set()
        self._next = _FIRST_HVA
        self.notifiers: list[MmuNotifier] = []

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
        """The host's mapping of the page at `hva` as it is; None if there is none."""
        page = hva >> PAGE_SHIFT
        area = self._area(page)
        if area is not None and area.pfn is not None:
            return HostMapping(Pfn(area.pfn + page - area.start), self._level_at(page), area.writable)
        return self._zero_page() if page in self._zeroes else None

    def fault_in(self, hva: int, *, write: bool) -> HostMapping | None:
        """The host's mapping after an access to the page; None if the process may not have one.

        A page that has no frame gets one with the first write; until then reads see the page of zeroes.
        """
        page = hva >> PAGE_SHIFT
        area = self._area(page)
        if area is not None and area.pfn is None:
            if write and area.writable:
                self._give_frames(area, page)
            else:
                self._zeroes.add(page)
        return self.mapping(hva)

    def frame_address(self, hva: int) -> Hpa | None:
        """Where the frame of its own begins that the process has at `hva`; None if it has none yet."""
        page = hva >> PAGE_SHIFT
        area = self._area(page)
        return None if area is None or area.pfn is None else Hpa(area.pfn + page - area.start << PAGE_SHIFT)

    def hpa(self, hva: int) -> Hpa | None:
        """Where a byte of the process is in physical memory; None if it is nowhere."""
        found = self.mapping(hva)
        return None if found is None else Hpa(found.pfn << PAGE_SHIFT | hva & 0xFFF)

    def madvise_hugepage(self, hva: Hva, npages: int, level: int) -> None:
        """The host maps part of what it mapped before with pages of `level` where they fit.

        Raises
        ------
        LookupError
            Nothing is mapped there; so for the other calls.

        """
        self._change(hva, npages, lambda part: replace(part, level=level))

    def madvise_dontneed(self, hva: Hva, npages: int) -> None:
        """The process does without the contents of these pages: the host takes their frames back."""
        with self._changing(hva >> PAGE_SHIFT, npages):
            self._change(hva, npages, lambda part: replace(part, pfn=None))
        self._zeroes -= set(range(hva >> PAGE_SHIFT, (hva >> PAGE_SHIFT) + npages))

    def mprotect(self, hva: Hva, npages: int, *, writable: bool) -> None:
        """Let the process write to these pages, or not.

        Where the host takes memory that was alike apart within 2 MiB, it splits a large page there, and
        announces that for the whole of it even if there is none (huge_memory.c: vma_adjust_trans_huge).
        """
        page = hva >> PAGE_SHIFT
        for boundary in (page, page + npages):
            self._announce_split(boundary)
        with self._changing(page, npages):
            self._change(hva, npages, lambda part: replace(part, writable=writable))

    def migrate(self, hva: Hva) -> Pfn:
        """The host moves a page to another frame, with its contents; the new frame.

        Whoever maps the old one has to be told before (:mod:`mmu_model.kvm.notifier`).

        Raises
        ------
        LookupError
            There is no page at `hva`.

        """
        old = self.mapping(hva)
        if old is None:
            raise LookupError(f"the process has nothing mapped at {hva:#x}")
        new = self._host.alloc_user_frames(1, 1)
        for index, word in enumerate(self._host.memory.frame(old.pfn).tolist()):
            if word:
                self._host.memory.write((new << PAGE_SHIFT) + index * 8, word)
        self._change(hva, 1, lambda part: replace(part, pfn=new, level=PG_LEVEL_4K))
        return new

    def was_used(self, hva: Hva, npages: int, *, forget: bool = True) -> bool:
        """What the host asks before it takes memory away: whether others used it since it was last asked.

        Unless it is to `forget`, the next answer is the same.
        """
        end, used = Hva(hva + (npages << PAGE_SHIFT)), False
        for notifier in self.notifiers:
            ask = notifier.clear_flush_young if forget else notifier.test_young
            used |= ask(hva, end)
        return used

    def _area(self, page: int) -> _Area | None:
        """What was mapped or changed last is what counts."""
        for area in reversed(self._areas):
            if area.overlaps(page, 1):
                return area
        return None

    def _level_at(self, page: int) -> int:
        """The largest page that has this one in it: none of it was changed apart from the rest."""
        others = []
        for area in reversed(self._areas):
            if area.overlaps(page, 1):
                break
            others.append(area)
        for level in range(area.level, PG_LEVEL_4K, -1):
            size = pages_per_hpage(level)
            first = page & -size
            whole = area.start <= first and first + size <= area.start + area.npages
            if whole and not any(other.overlaps(first, size) for other in others):
                return level
        return PG_LEVEL_4K

    def _change(self, hva: Hva, npages: int, change: Callable[[_Area], _Area]) -> None:
        """Change pages that were mapped together, or have been changed together before."""
        page, end = hva >> PAGE_SHIFT, (hva >> PAGE_SHIFT) + npages
        changed = []
        while page < end:
            area = self._area(page)
            if area is None:
                raise LookupError(f"the process has nothing mapped at {page << PAGE_SHIFT:#x}")
            until = page + 1
            while until < end and self._area(until) is area:
                until += 1
            changed.append(change(area.part(page, until - page)))
            page = until
        self._areas += changed

    def _give_frames(self, area: _Area, page: int) -> None:
        """A large page if the host wants one there and has shown none of it to readers."""
        size = pages_per_hpage(self._level_at(page))
        first = page & -size
        if self._zeroes.intersection(range(first, first + size)):
            first, size = page, 1
        with self._changing(first, size):
            self._zeroes.discard(page)
            pfn = self._host.alloc_user_frames(size, size)
            self._areas.append(replace(area, start=first, npages=size, pfn=pfn))

    def _announce_split(self, boundary: int) -> None:
        size = pages_per_hpage(PG_LEVEL_2M)
        first = boundary & -size
        area = self._area(boundary)
        if area is None or boundary == first:
            return
        if area.start <= first and first + size <= area.start + area.npages:
            with self._changing(first, size):
                pass

    def _zero_page(self) -> HostMapping:
        return HostMapping(Pfn(pa(self._host.zero_page) >> PAGE_SHIFT), PG_LEVEL_4K, writable=False)

    @contextmanager
    def _changing(self, page: int, npages: int) -> Iterator[None]:
        start, end = Hva(page << PAGE_SHIFT), Hva(page + npages << PAGE_SHIFT)
        for notifier in self.notifiers:
            notifier.invalidate_range_start(start, end)
        yield
        for notifier in self.notifiers:
            notifier.invalidate_range_end(start, end)
