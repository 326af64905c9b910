"""The process that uses KVM: its memory is the guest's, and the host maps it as it likes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol

from mmu_model.hardware.types import PAGE_SHIFT, Hpa, Pfn
from mmu_model.kvm.areas import Area, Areas
from mmu_model.kvm.host import Host
from mmu_model.kvm.types import PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K, Hva, pa, pages_per_hpage

_FIRST_HVA: Final = 0x7F00_0000_0000


class MmuNotifier(Protocol):
    """Who keeps mappings of his own by those of the host, and has to be told when they change."""

    def invalidate_range_start(self, start: Hva, end: Hva) -> None:
        """The mapping of `start` to before `end` is about to change."""

    def invalidate_range_end(self, start: Hva, end: Hva) -> None:
        """It has changed."""

    def change_pte(self, address: Hva, mapping: HostMapping) -> None:
        """The page at an address is being replaced by another one; between the two announcements."""

    def clear_flush_young(self, start: Hva, end: Hva) -> bool:
        """Whether it was used since this was last asked."""

    def test_young(self, start: Hva, end: Hva) -> bool:
        """The same, without any effect on the next answer."""


@dataclass(slots=True)
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


def _swapped_out(area: Area) -> Area:
    """A page without a frame, that will be nobody else's when it comes back."""
    writable = area.writable or area.copy_on_write
    return replace(area, pfn=None, level=PG_LEVEL_4K, writable=writable, copy_on_write=False)


def _shared(area: Area, pfn: Pfn) -> Area:
    """A page that others have as well."""
    return replace(area, pfn=pfn, level=PG_LEVEL_4K, writable=False, copy_on_write=True)


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
        self._areas = Areas()
        self._zeroes: set[int] = set()
        self._swapped: dict[int, list[int]] = {}
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
        pfn = Pfn(self._host.alloc_user_frames(npages + offset, pages_per_hpage(PG_LEVEL_1G)) + offset)
        level = PG_LEVEL_4K if offset else level
        return self._map(Area(self._free_page(offset), npages, pfn, level, writable))

    def mmap_file(self, contents: Pfn, npages: int) -> Hva:
        """Map a file, shared with all others who do, whose contents are in frames from `contents` on."""
        return self._map(
            Area(self._free_page(), npages, contents, PG_LEVEL_4K, writable=True, origin=contents)
        )

    def mmap_device(self, npages: int) -> Hva:
        """Map the memory of a device."""
        pfn = self._host.alloc_device_frames(npages)
        return self._map(Area(self._free_page(), npages, pfn, PG_LEVEL_4K, writable=True))

    def mmap_driver(self, npages: int) -> Hva:
        """Map pages of memory that a driver has allocated as one piece, and counts no references to."""
        pfn = self._host.alloc_uncounted_frames(npages)
        return self._map(Area(self._free_page(), npages, pfn, PG_LEVEL_4K, writable=True))

    def _free_page(self, offset: int = 0) -> int:
        alignment = pages_per_hpage(PG_LEVEL_1G)
        return -(-self._next // (alignment << PAGE_SHIFT)) * alignment + offset

    def _map(self, area: Area) -> Hva:
        self._areas.add(area)
        self._next = (area.start + area.npages) << PAGE_SHIFT
        return Hva(area.start << PAGE_SHIFT)

    def mapping(self, hva: int) -> HostMapping | None:
        """The host's mapping of the page at `hva` as it is; None if there is none."""
        page = hva >> PAGE_SHIFT
        return self._mapping(page, self._areas.at(page))

    def _mapping(self, page: int, area: Area | None) -> HostMapping | None:
        if area is not None and area.pfn is not None:
            return HostMapping(
                Pfn(area.pfn + page - area.start), self._areas.level_at(area, page), area.writable
            )
        return self._zero_page() if page in self._zeroes else None

    def mapping_level(self, hva: int) -> int:
        """The size of the page that the host maps what is at `hva` with, as a level; 1 if it maps nothing."""
        page = hva >> PAGE_SHIFT
        area = self._areas.at(page)
        return PG_LEVEL_4K if area is None or area.pfn is None else self._areas.level_at(area, page)

    def fault_in(self, hva: int, *, write: bool) -> HostMapping | None:
        """The host's mapping after an access to the page; None if the process may not have one.

        A page that has no frame gets one with the first write; until then reads see the page of zeroes. One that
        was swapped out comes back, and one of a file is the file's. What is shared is copied for a write.
        """
        page = hva >> PAGE_SHIFT
        area = self._areas.at(page)
        if area is not None and (area.pfn is None or (area.copy_on_write and write)):
            self._provide(area, page, write=write)
            area = self._areas.at(page)
        return self._mapping(page, area)

    def _provide(self, area: Area, page: int, *, write: bool) -> None:
        if area.copy_on_write and write:
            self.replace_page(Hva(page << PAGE_SHIFT), writable=True)
        elif page in self._swapped:
            self._swap_in(page)
        elif area.origin is not None:
            self._areas.add(replace(area.part(page, 1), pfn=area.part(page, 1).origin))
        elif write and area.writable:
            self._give_frames(area, page)
        else:
            self._zeroes.add(page)

    def own_hpa(self, hva: int) -> Hpa | None:
        """Where a byte of the process is in a frame of its own; None if it has none yet."""
        area = self._areas.at(hva >> PAGE_SHIFT)
        if area is None or area.pfn is None or area.copy_on_write:
            return None
        return Hpa(hva + (area.pfn - area.start << PAGE_SHIFT))

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
        self._areas.change(hva >> PAGE_SHIFT, npages, lambda part: replace(part, level=level))

    def madvise_dontneed(self, hva: Hva, npages: int) -> None:
        """The process does without the contents of these pages: the host takes their frames back."""
        with self._changing(hva >> PAGE_SHIFT, npages):
            self._areas.change(hva >> PAGE_SHIFT, npages, lambda part: replace(part, pfn=None))
        dropped = set(range(hva >> PAGE_SHIFT, (hva >> PAGE_SHIFT) + npages))
        self._zeroes -= dropped
        for page in dropped & self._swapped.keys():
            del self._swapped[page]

    def mprotect(self, hva: Hva, npages: int, *, writable: bool) -> None:
        """Let the process write to these pages, or not.

        Where the host takes memory that was alike apart within 2 MiB, it splits a large page there, and
        announces that for the whole of it even if there is none (huge_memory.c: vma_adjust_trans_huge).
        """
        page = hva >> PAGE_SHIFT
        for boundary in (page, page + npages):
            self._announce_split(boundary)
        with self._changing(page, npages):
            self._areas.change(hva >> PAGE_SHIFT, npages, lambda part: replace(part, writable=writable))

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
        self._areas.change(hva >> PAGE_SHIFT, 1, lambda part: replace(part, pfn=new, level=PG_LEVEL_4K))
        return new

    def replace_page(self, hva: Hva, *, writable: bool) -> Pfn:
        """The host puts an equal page in the place of one, and says which: copy-on-write, or KSM, which merges
        equal pages and lets nobody write to them (set_pte_at_notify). The new frame; errors as :meth:`migrate`.
        """
        with self._changing(hva >> PAGE_SHIFT, 1):
            pfn = self.migrate(hva)
            self._areas.change(
                hva >> PAGE_SHIFT, 1, lambda part: replace(part, writable=writable, copy_on_write=False)
            )
            for notifier in self.notifiers:
                notifier.change_pte(hva, HostMapping(pfn, PG_LEVEL_4K, writable))
        return pfn

    def swap_out(self, hva: Hva) -> None:
        """The host takes the frame of a page, and keeps the contents; errors as :meth:`migrate`."""
        mapping = self.mapping(hva)
        if mapping is None:
            raise LookupError(f"the process has nothing mapped at {hva:#x}")
        with self._changing(hva >> PAGE_SHIFT, 1):
            self._swapped[hva >> PAGE_SHIFT] = self._host.memory.frame(mapping.pfn).tolist()
            if not self._is_shared(hva):
                self._host.memory.release(mapping.pfn)
            self._areas.change(hva >> PAGE_SHIFT, 1, _swapped_out)

    def _is_shared(self, hva: Hva) -> bool:
        """Whether the frame of a page may be that of others as well, and so is not free when the page goes."""
        area = self._areas.at(hva >> PAGE_SHIFT)
        return area is not None and area.copy_on_write

    def merge(self, first: Hva, second: Hva) -> None:
        """Two pages of equal contents become one, which is copied for who writes to it (KSM).

        Raises
        ------
        LookupError
            There is no page at one of them.
        ValueError
            Their contents differ.

        """
        one, other = self.mapping(first), self.mapping(second)
        if one is None or other is None:
            raise LookupError(f"the process has nothing mapped at {first if one is None else second:#x}")
        if self._host.memory.frame(one.pfn).tolist() != self._host.memory.frame(other.pfn).tolist():
            raise ValueError(f"the pages at {first:#x} and {second:#x} differ")
        already_shared = self._is_shared(second)
        for hva in first, second:
            with self._changing(hva >> PAGE_SHIFT, 1):
                shared = HostMapping(one.pfn, PG_LEVEL_4K, writable=False)
                self._areas.change(hva >> PAGE_SHIFT, 1, lambda part: _shared(part, one.pfn))
                for notifier in self.notifiers:
                    notifier.change_pte(hva, shared)
        if not already_shared:
            self._host.memory.release(other.pfn)

    def was_used(self, hva: Hva, npages: int, *, forget: bool = True) -> bool:
        """What the host asks before it takes memory away: whether others used it since it was last asked.

        Unless it is to `forget`, the next answer is the same.
        """
        end, used = Hva(hva + (npages << PAGE_SHIFT)), False
        for notifier in self.notifiers:
            ask = notifier.clear_flush_young if forget else notifier.test_young
            used |= ask(hva, end)
        return used

    def _swap_in(self, page: int) -> None:
        """A new frame with the contents that were kept; nobody maps anything there, so nobody is told."""
        pfn = self._host.alloc_user_frames(1, 1)
        for index, word in enumerate(self._swapped.pop(page)):
            if word:
                self._host.memory.write((pfn << PAGE_SHIFT) + index * 8, word)
        self._areas.change(page, 1, lambda part: replace(part, pfn=pfn))

    def _give_frames(self, area: Area, page: int) -> None:
        """A large page if the host wants one there and has shown none of it to readers."""
        size = pages_per_hpage(self._areas.level_at(area, page))
        first = page & -size
        if self._zeroes.intersection(range(first, first + size)):
            first, size = page, 1
        with self._changing(first, size):
            self._zeroes.discard(page)
            pfn = self._host.alloc_user_frames(size, size)
            self._areas.add(replace(area, start=first, npages=size, pfn=pfn))

    def _announce_split(self, boundary: int) -> None:
        size = pages_per_hpage(PG_LEVEL_2M)
        first = boundary & -size
        area = self._areas.at(boundary)
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
