"""What the host does to single pages of a process: swap, merge, replace; where memory begins; what is not there."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from conformance.scenes import GIB, MIB, PAGE
from mmu_model.hardware.types import PAGE_SHIFT, Pfn
from mmu_model.kvm.host import Host
from mmu_model.kvm.process import Process
from mmu_model.kvm.types import PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K, Hva

PAGES = 2048
FILE = Pfn(1 << 24)


class Machine:
    """A host, a process of it, and what that wrote into the first page and the next ones: 1, 2, 3, 3, 3."""

    def __init__(self) -> None:
        self.host = Host()
        self.process = Process(self.host)
        self.base = self.process.mmap(PAGES)
        for number, value in enumerate((1, 2, 3, 3, 3)):
            self.host.memory.write(self.process.hpa(self.page(number)) or 0, value)

    def page(self, number: int) -> Hva:
        return Hva(self.base + number * PAGE)

    def load(self, number: int, *, write: bool = False) -> int:
        """What the process finds in a page, after an access."""
        mapping = self.process.fault_in(self.page(number), write=write)
        assert mapping is not None
        return self.host.memory.read(mapping.pfn << PAGE_SHIFT)

    def store(self, number: int, value: int) -> None:
        """The process writes to a page."""
        self.load(number, write=True)
        self.host.memory.write(self.process.hpa(self.page(number)) or 0, value)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize(
    "act",
    [
        lambda process, hva: process.migrate(hva),
        lambda process, hva: process.replace_page(hva, writable=True),
        lambda process, hva: process.swap_out(hva),
        lambda process, hva: process.madvise_hugepage(hva, 1, PG_LEVEL_2M),
        lambda process, hva: process.madvise_dontneed(hva, 1),
        lambda process, hva: process.mprotect(hva, 1, writable=False),
    ],
)
def test_a_page_that_is_not_there_cannot_be_changed(
    machine: Machine, act: Callable[[Process, Hva], object]
) -> None:
    """The error names it."""
    with pytest.raises(LookupError, match=f"nothing mapped at {machine.page(PAGES):#x}"):
        act(machine.process, machine.page(PAGES))


@pytest.mark.parametrize(("first", "second"), [(2, PAGES), (PAGES, 2)])
def test_a_page_that_is_not_there_cannot_be_merged(machine: Machine, first: int, second: int) -> None:
    with pytest.raises(LookupError, match=f"nothing mapped at {machine.page(PAGES):#x}"):
        machine.process.merge(machine.page(first), machine.page(second))


def test_memory_begins_where_a_large_page_does(machine: Machine) -> None:
    """Each piece at a multiple of 1 GiB, in addresses and in frames, and no two overlap."""
    pieces = [machine.base, *(machine.process.mmap(1) for _ in range(2)), machine.process.mmap_file(FILE, 1)]
    frames = [machine.process.hpa(hva) or 0 for hva in pieces]

    assert [hva % GIB for hva in pieces] == [0, 0, 0, 0]
    assert [hpa % GIB for hpa in frames[:3]] == [0, 0, 0]
    assert [after - before for before, after in pairwise(pieces)] == [GIB, GIB, GIB]
    assert len(set(frames)) == len(frames)


def test_memory_out_of_step_has_small_pages(machine: Machine) -> None:
    """It begins so many pages later, in addresses and in frames, and the host maps none of it with large ones."""
    hva = machine.process.mmap(PAGES, PG_LEVEL_2M, offset=3)
    mapping = machine.process.mapping(Hva(hva + 2 * MIB))

    assert (hva % GIB, (machine.process.hpa(hva) or 0) % GIB) == (3 * PAGE, 3 * PAGE)
    assert mapping is not None and mapping.level == PG_LEVEL_4K
    assert machine.process.mapping(Hva(hva + (PAGES - 1) * PAGE)) is not None
    assert machine.process.mapping(Hva(hva + PAGES * PAGE)) is None


@pytest.mark.parametrize("level", [PG_LEVEL_4K, PG_LEVEL_2M, PG_LEVEL_1G])
def test_the_level_of_what_is_mapped(level: int) -> None:
    """And of what is not, or has no frame: the smallest."""
    process = Process(Host())
    hva = process.mmap(GIB // PAGE, level)
    before = process.mapping_level(Hva(hva + 5 * MIB)), process.mapping_level(Hva(hva + GIB))

    process.madvise_dontneed(Hva(hva + 5 * MIB), 1)

    assert before == (level, PG_LEVEL_4K)
    assert process.mapping_level(Hva(hva + 5 * MIB)) == PG_LEVEL_4K


def test_memory_that_cannot_be_written_to(machine: Machine) -> None:
    """Nor when it was given up, and comes back."""
    hva = machine.process.mmap(4, writable=False)
    before = machine.process.mapping(hva)
    machine.process.madvise_dontneed(hva, 4)
    after = machine.process.fault_in(hva, write=True)

    assert before is not None and not before.writable
    assert after is not None and not after.writable


def test_a_frame_is_ones_own_unless_it_is_shared(machine: Machine) -> None:
    process = machine.process
    here = Hva(machine.page(2) + 0x18)
    assert process.own_hpa(here) == process.hpa(here)

    process.merge(machine.page(2), machine.page(3))
    assert (process.own_hpa(here), process.own_hpa(machine.page(3))) == (None, None)
    machine.store(2, 9)
    assert process.own_hpa(here) == process.hpa(here)
    process.madvise_dontneed(machine.page(2), 1)
    assert process.own_hpa(here) is None
    assert process.own_hpa(machine.page(PAGES)) is None


def test_what_was_swapped_out_is_lost_with_the_page(machine: Machine) -> None:
    """The process does without it, before it came back: it is zero afterwards."""
    machine.process.swap_out(machine.page(1))
    machine.process.swap_out(machine.page(2))
    machine.process.madvise_dontneed(machine.page(1), 1)

    assert [machine.load(1), machine.load(2)] == [0, 3]
    assert [machine.load(1, write=True), machine.load(2, write=True)] == [0, 3]


def test_what_was_swapped_out_comes_back_once(machine: Machine) -> None:
    """Then it is a page like others, and what is written to it stays."""
    machine.process.swap_out(machine.page(1))
    machine.store(1, 7)
    machine.process.swap_out(machine.page(1))

    assert machine.load(1) == 7
    mapping = machine.process.mapping(machine.page(1))
    assert mapping is not None and mapping.writable


def test_a_read_only_page_is_read_only_after_swapping(machine: Machine) -> None:
    machine.process.mprotect(machine.page(1), 1, writable=False)
    machine.process.swap_out(machine.page(1))
    mapping = machine.process.fault_in(machine.page(1), write=False)
    assert mapping is not None and not mapping.writable


def test_zeroes_that_were_read_go_with_the_page(machine: Machine) -> None:
    """A page of which only zeroes were seen has no frame; given up, it is mapped no more."""
    process = machine.process
    process.madvise_dontneed(machine.page(0), 2)
    for number in (0, 1):
        machine.load(number)
    process.madvise_dontneed(machine.page(1), 1)

    assert process.mapping(machine.page(0)) is not None
    assert process.mapping(machine.page(1)) is None


def test_three_merged_pages_are_one_until_each_is_written(machine: Machine) -> None:
    """The frame stays as long as somebody has it: also when one of them is swapped out."""
    process = machine.process
    process.merge(machine.page(2), machine.page(3))
    process.merge(machine.page(4), machine.page(3))
    shared = {process.hpa(machine.page(number)) for number in (3, 4)}
    assert len(shared) == 1

    process.swap_out(machine.page(3))
    assert [machine.load(number) for number in (2, 3, 4)] == [3, 3, 3]
    machine.store(3, 8)
    machine.store(2, 9)

    assert [machine.load(number) for number in (2, 3, 4)] == [9, 8, 3]
    written = process.mapping(machine.page(3))
    assert written is not None and written.writable


def test_a_merged_page_gives_its_frame_back(machine: Machine) -> None:
    """The frame of the second is free, so nothing is in it any more; its large page is none."""
    old = machine.process.hpa(machine.page(3)) or 0
    machine.process.merge(machine.page(2), machine.page(3))

    assert machine.host.memory.read(old) == 0
    assert machine.process.hpa(machine.page(3)) == machine.process.hpa(machine.page(2))


def test_a_merged_page_is_shared_by_all_or_nobody(machine: Machine) -> None:
    """The frame of a page that others have, too, is not free when that page gets another."""
    process = machine.process
    process.merge(machine.page(2), machine.page(3))
    process.merge(machine.page(4), machine.page(2))

    assert machine.load(3) == 3


def test_a_file_comes_back_as_it_is(machine: Machine) -> None:
    """Each page of it where the file has that page."""
    hva = machine.process.mmap_file(FILE, 4)
    machine.process.madvise_dontneed(hva, 4)

    for number in (2, 0):
        mapping = machine.process.fault_in(Hva(hva + number * PAGE), write=False)
        assert mapping is not None and (mapping.pfn, mapping.writable) == (FILE + number, True)
    assert machine.process.mapping(Hva(hva + PAGE)) is None
