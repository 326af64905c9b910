"""Memory of the process that is mapped in different ways side by side: files, devices, what is left of large pages."""

import pytest

from mmu_model.hardware.types import PAGE_SHIFT, Pfn
from mmu_model.kvm.host import Host
from mmu_model.kvm.process import Process
from mmu_model.kvm.types import PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K, Hva

LARGE, HUGE = 512, 512 * 512


@pytest.fixture
def process() -> Process:
    return Process(Host())


def at(base: Hva, page: int) -> Hva:
    """The address of a page."""
    return Hva(base + (page << PAGE_SHIFT))


def frame(process: Process, hva: Hva) -> int:
    """The frame that is mapped there; -1 if there is none."""
    mapping = process.mapping(hva)
    return -1 if mapping is None else mapping.pfn


def level(process: Process, hva: Hva) -> int:
    """The level of the page that is mapped there."""
    mapping = process.mapping(hva)
    assert mapping is not None
    assert process.mapping_level(hva) == mapping.level
    return mapping.level


@pytest.mark.parametrize("write", [False, True])
def test_a_page_of_a_file_is_that_page_of_it_again(process: Process, write: bool) -> None:
    """However it went, and whatever its neighbours are now: the contents are in the file, and others see them."""
    contents = Pfn(1 << 21)
    base = process.mmap_file(contents, 16)
    other = process.mmap_file(contents, 16)
    process.madvise_dontneed(at(base, 3), 6)
    process.madvise_dontneed(at(base, 5), 1)
    assert [frame(process, at(base, page)) for page in (2, 3, 8, 9)] == [contents + 2, -1, -1, contents + 9]

    for page in (5, 3, 8):
        mapping = process.fault_in(at(base, page), write=write)
        assert mapping is not None and mapping.writable
        assert mapping.pfn == contents + page == frame(process, at(other, page))
    assert frame(process, at(base, 4)) == -1
    process.madvise_dontneed(at(base, 3), 1)
    process.fault_in(at(base, 3), write=write)
    assert frame(process, at(base, 3)) == contents + 3


def test_a_changed_page_takes_its_large_pages_apart(process: Process) -> None:
    """Those that hold it, of both sizes, and no other."""
    base = process.mmap(2 * HUGE, PG_LEVEL_1G)
    assert [level(process, at(base, page)) for page in (0, HUGE - 1, HUGE)] == [PG_LEVEL_1G] * 3

    process.mprotect(at(base, 3 * LARGE + 5), 1, writable=False)

    pages = {0: 2, 3 * LARGE - 1: 2, 3 * LARGE: 1, 3 * LARGE + 5: 1, 4 * LARGE - 1: 1, 4 * LARGE: 2, HUGE: 3}
    assert {page: level(process, at(base, page)) for page in pages} == pages
    first = frame(process, base)
    assert all(frame(process, at(base, page)) == first + page for page in pages)


def test_what_was_mapped_apart_is_changed_together(process: Process) -> None:
    """Each part stays what it is but for the change: here frames and protections of three kinds."""
    base = process.mmap(9)
    before = [frame(process, at(base, page)) for page in range(9)]
    moved = {page: process.migrate(at(base, page)) for page in (2, 3, 7)}
    process.mprotect(at(base, 4), 1, writable=False)

    process.madvise_hugepage(base, 9, PG_LEVEL_2M)

    expected = [moved.get(page, before[page]) for page in range(9)]
    assert [frame(process, at(base, page)) for page in range(9)] == expected
    writable = [(mapping := process.mapping(at(base, page))) and mapping.writable for page in range(9)]
    assert writable == [page != 4 for page in range(9)]


def test_nothing_is_changed_if_part_of_it_is_not_there(process: Process) -> None:
    """The error has the first address at which nothing is mapped."""
    base = process.mmap(4)

    with pytest.raises(LookupError, match=f"nothing mapped at {at(base, 4):#x}"):
        process.madvise_hugepage(at(base, 2), 3, PG_LEVEL_2M)
    with pytest.raises(LookupError, match=f"nothing mapped at {base - 4096:#x}"):
        process.mprotect(Hva(base - 4096), 2, writable=False)

    mapping = process.mapping(at(base, 0))
    assert mapping is not None and mapping.writable
    assert {level(process, at(base, page)) for page in range(4)} == {PG_LEVEL_4K}
    assert process.mapping(at(base, 4)) is None
    assert process.mapping(Hva(base - 1)) is None
