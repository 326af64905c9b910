"""The memory of the process: what the host maps, and what it announces before it maps it otherwise."""

from collections.abc import Iterator

import pytest

from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.kvm.host import Host
from mmu_model.kvm.process import HostMapping, Process
from mmu_model.kvm.types import PG_LEVEL_2M, PG_LEVEL_4K, Hva

PAGES = 2048
LARGE = 512


class Listener:
    """Notes what is announced, in pages from the start of the memory."""

    def __init__(self, base: Hva) -> None:
        self.base = base
        self.replaced: list[tuple[int, HostMapping]] = []
        self.begun: list[tuple[int, int]] = []
        self.ended: list[tuple[int, int]] = []
        self.used: set[int] = set()

    def change_pte(self, address: Hva, mapping: HostMapping) -> None:
        assert len(self.begun) == len(self.ended) + 1
        self.replaced.append((address - self.base >> PAGE_SHIFT, mapping))

    def clear_flush_young(self, start: Hva, end: Hva) -> bool:
        young = self.test_young(start, end)
        self.used -= set(range(*self._pages(start, end)))
        return young

    def test_young(self, start: Hva, end: Hva) -> bool:
        return bool(self.used & set(range(*self._pages(start, end))))

    def invalidate_range_start(self, start: Hva, end: Hva) -> None:
        self.begun.append(self._pages(start, end))

    def invalidate_range_end(self, start: Hva, end: Hva) -> None:
        self.ended.append(self._pages(start, end))

    def _pages(self, start: Hva, end: Hva) -> tuple[int, int]:
        return start - self.base >> PAGE_SHIFT, end - self.base >> PAGE_SHIFT


@pytest.fixture
def process() -> Process:
    return Process(Host())


@pytest.fixture
def base(process: Process) -> Hva:
    return process.mmap(PAGES)


@pytest.fixture
def listener(process: Process, base: Hva) -> Iterator[Listener]:
    found = Listener(base)
    process.notifiers.append(found)
    yield found
    assert found.begun == found.ended


def page(base: Hva, number: int) -> Hva:
    return Hva(base + (number << PAGE_SHIFT))


def test_all_who_use_memory_are_asked(process: Process, base: Hva, listener: Listener) -> None:
    """Each is to forget, whatever the others say."""
    other = Listener(base)
    process.notifiers.append(other)
    for each in (listener, other):
        each.used = {3, 5}

    assert process.was_used(page(base, 3), 1, forget=False)
    assert process.was_used(page(base, 3), 1)
    assert not process.was_used(page(base, 3), 1)
    assert listener.used == other.used == {5}


def test_madvise_makes_pages_large_where_they_fit(process: Process, base: Hva) -> None:
    before = process.mapping(base)
    process.madvise_hugepage(page(base, 100), 1000, PG_LEVEL_2M)

    levels = [mapping.level for n in range(PAGES) if (mapping := process.mapping(page(base, n)))]

    assert levels == [PG_LEVEL_2M if 512 <= n < 1024 else PG_LEVEL_4K for n in range(PAGES)]
    assert process.mapping(base) == before


def test_dropped_pages_have_no_frame_until_they_are_used(
    process: Process, base: Hva, listener: Listener
) -> None:
    old = process.mapping(page(base, 3))
    process.madvise_dontneed(page(base, 2), 4)

    assert listener.begun == [(2, 6)]
    assert process.mapping(page(base, 3)) is None
    assert process.mapping(page(base, 1)) is not None

    new = process.fault_in(page(base, 3), write=True)
    assert new is not None and new.writable and old is not None and new.pfn != old.pfn
    assert process.mapping(page(base, 4)) is None


def test_reads_see_one_page_of_zeroes_until_somebody_writes(
    process: Process, base: Hva, listener: Listener
) -> None:
    process.madvise_dontneed(base, 8)
    first, second = (process.fault_in(page(base, n), write=False) for n in (0, 1))

    assert first is not None and first == second and not first.writable

    listener.begun.clear()
    listener.ended.clear()
    written = process.fault_in(base, write=True)
    assert written is not None and written.writable and written.pfn != first.pfn
    assert listener.begun == [(0, 1)]
    assert process.mapping(page(base, 1)) == second


def test_a_large_page_comes_back_large_unless_part_of_it_was_read(process: Process, base: Hva) -> None:
    process.madvise_hugepage(base, PAGES, PG_LEVEL_2M)
    process.madvise_dontneed(base, 2 * LARGE)
    process.fault_in(page(base, LARGE + 7), write=False)

    whole = process.fault_in(page(base, 9), write=True)
    small = process.fault_in(page(base, LARGE + 9), write=True)

    assert whole is not None and whole.level == PG_LEVEL_2M
    assert small is not None and small.level == PG_LEVEL_4K


def test_protection_that_splits_a_large_page_is_announced_for_all_of_it(
    process: Process, base: Hva, listener: Listener
) -> None:
    process.mprotect(page(base, LARGE), 2, writable=False)

    assert listener.begun == [(LARGE, 2 * LARGE), (LARGE, LARGE + 2)]
    read_only = process.fault_in(page(base, LARGE), write=True)
    assert read_only is not None and not read_only.writable


def test_whole_large_pages_are_announced_once(process: Process, base: Hva, listener: Listener) -> None:
    process.mprotect(page(base, LARGE), LARGE, writable=False)

    assert listener.begun == [(LARGE, 2 * LARGE)]


def test_a_page_that_migrates_keeps_its_contents(process: Process, base: Hva) -> None:
    host = process._host
    old = process.hpa(page(base, 5))
    assert old is not None
    host.memory.write(old + 16, 0x1234)

    process.migrate(page(base, 5))

    new = process.hpa(page(base, 5))
    assert new is not None and new != old
    assert host.memory.read(new + 16) == 0x1234


def test_what_is_not_mapped_cannot_be_changed(process: Process, base: Hva) -> None:
    with pytest.raises(LookupError, match="nothing mapped"):
        process.mprotect(page(base, PAGES - 1), 2, writable=False)

    last = process.mapping(page(base, PAGES - 1))
    assert last is not None and last.writable
    assert process.fault_in(page(base, PAGES), write=True) is None


@pytest.mark.parametrize("writable", [False, True])
def test_who_replaces_a_page_says_by_which(
    process: Process, base: Hva, listener: Listener, writable: bool
) -> None:
    old = process.hpa(page(base, 3))
    assert old is not None
    process._host.memory.write(old, 77)

    pfn = process.replace_page(page(base, 3), writable=writable)

    new = process.hpa(page(base, 3))
    assert new == pfn << PAGE_SHIFT and new != old
    assert process._host.memory.read(new) == 77
    assert listener.begun == [(3, 4)]
    assert listener.replaced == [(3, process.mapping(page(base, 3)))]
    assert listener.replaced[0][1].writable is writable


def test_a_large_page_of_which_a_part_is_changed_is_none_any_more(process: Process, base: Hva) -> None:
    process.madvise_hugepage(base, PAGES, PG_LEVEL_2M)
    process.migrate(page(base, 9))

    levels = [mapping.level for n in (8, 9, LARGE) if (mapping := process.mapping(page(base, n)))]

    assert levels == [PG_LEVEL_4K, PG_LEVEL_4K, PG_LEVEL_2M]


def test_what_was_swapped_out_comes_back_with_its_contents(
    process: Process, base: Hva, listener: Listener
) -> None:
    memory, hpa = process._host.memory, process.hpa(page(base, 5))
    assert hpa is not None
    memory.write(hpa + 8, 77)
    process.swap_out(page(base, 5))

    assert listener.begun == [(5, 6)]
    assert memory.read(hpa + 8) == 0
    assert process.mapping(page(base, 5)) is None
    back = process.fault_in(page(base, 5), write=False)
    assert back is not None and back.writable and memory.read((back.pfn << PAGE_SHIFT) + 8) == 77


def test_merged_pages_are_parted_by_a_write(process: Process, base: Hva, listener: Listener) -> None:
    memory = process._host.memory
    pages = [page(base, n) for n in (3, 4, 5)]
    for number, hva in zip((7, 7, 8), pages, strict=True):
        memory.write(process.hpa(hva) or 0, number)

    process.merge(pages[0], pages[1])

    assert process.mapping(pages[0]) == process.mapping(pages[1])
    assert listener.begun == [(3, 4), (4, 5)]
    written = process.fault_in(pages[1], write=True)
    left = process.mapping(pages[0])
    assert written is not None and left is not None and written.writable and not left.writable
    assert memory.read(written.pfn << PAGE_SHIFT) == memory.read(left.pfn << PAGE_SHIFT) == 7
    with pytest.raises(ValueError, match="differ"):
        process.merge(pages[0], pages[2])
