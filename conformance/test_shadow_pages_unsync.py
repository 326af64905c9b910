"""Section "Shadow pages": unsync, unsync_children, unsync_child_bitmap, write_flooding_count."""

from collections.abc import Callable

import pytest

from conformance.broken import BrokenModel
from conformance.looking import structs
from conformance.pictures import Camera
from conformance.scenes import GIB, MIB, PAGE, USED, Editor, editing_guest
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.task import finish

HERE, OTHER = 0x6000, 0x7000
OLD, NEW = 111, 222


def page_at(scene: Editor, address: int, level: int) -> KvmMmuPage:
    """The page of that level that shadows the guest's table for an address."""
    assert scene.tables is not None
    gfn = scene.tables.entry_address(address, level) >> 12
    (sp,) = (sp for sp in structs(scene.vm) if int(sp.gfn) == gfn and not sp.role.direct)
    return sp


def remapping_guest(kernel: str, paging: str = "4-level") -> Editor:
    """A guest that has read OLD at 0x5000, has NEW at hand, and has just pointed 0x5000 at NEW."""
    scene = editing_guest(kernel, {0x5000: HERE}, paging)
    scene.vm.memory.write(HERE, OLD)
    scene.vm.memory.write(OTHER, NEW)
    assert scene.reads(0x5000) == OLD
    scene.edit(0x5000, OTHER | USED)
    return scene


@pytest.mark.spec("unsync/may-not-match")
@pytest.mark.spec("reaction-to-events/unsync/tried")
@pytest.mark.spec("reaction-to-events/unsync-done/guest-continues")
@pytest.mark.parametrize("paging", ["PAE", "4-level", "5-level"])
def test_an_unsync_page_may_differ_from_the_guests_table(kernel: str, paging: str, picture: Camera) -> None:
    """The guest's entry says one frame, the spte another; and the page is marked."""
    scene = remapping_guest(kernel, paging)
    page = page_at(scene, 0x5000, 1)

    mapped = scene.vm.host.read(page.sptep(5)) & ((1 << 52) - PAGE)

    assert mapped == scene.vm.memory.hpa(HERE)
    assert mapped != scene.vm.memory.hpa(OTHER)
    assert page.unsync
    picture("The last table was written: its page is unsync", scene.vm)


@pytest.mark.spec("unsync/like-a-stale-tlb")
@pytest.mark.spec("synchronized-and-unsynchronized-pages/reachable-table/guest-must-invlpg")
def test_until_the_guest_flushes_it_sees_what_a_tlb_might_hold(kernel: str) -> None:
    """The old memory, as from a TLB that has not been told."""
    scene = remapping_guest(kernel)

    assert scene.reads(0x5000) == OLD


FLUSHES: dict[str, Callable[[Editor], None]] = {
    "invlpg": lambda scene: scene.cpu.invlpg(0x5000),
    "mov cr3": lambda scene: scene.cpu.mov_cr3(scene.cpu.vcpu.registers.cr3),
    "cr4.pge": lambda scene: scene.cpu.mov_cr4(scene.cpu.vcpu.registers.cr4 ^ 1 << 7),
}


@pytest.mark.spec("unsync/synchronized-on-flush")
@pytest.mark.spec("synchronized-and-unsynchronized-pages/guest-events/flush-and-invlpg")
@pytest.mark.spec("synchronized-and-unsynchronized-pages/reachable-table/synchronized-on-invlpg")
@pytest.mark.parametrize("flush", list(FLUSHES))
def test_a_flush_brings_the_page_in_step(kernel: str, flush: str, picture: Camera) -> None:
    """INVLPG, MOV to CR3, a change of CR4.PGE: then the guest sees what its table says."""
    scene = remapping_guest(kernel)

    before = scene.vm.snapshot()
    FLUSHES[flush](scene)

    assert scene.reads(0x5000) == NEW
    mapped = scene.vm.host.read(page_at(scene, 0x5000, 1).sptep(5)) & ((1 << 52) - PAGE)
    assert mapped == scene.vm.memory.hpa(OTHER)
    picture(f"{flush}: in step again", scene.vm, before)


@pytest.mark.spec("unsync/leaf-pages-only")
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_only_pages_of_the_last_level_become_unsync(kernel: str, level: int, picture: Camera) -> None:
    """The guest writes an entry of each level that nothing uses."""
    scene = editing_guest(kernel, {0x5000: HERE})
    scene.reads(0x5000)
    unused = {1: 0x9000, 2: 20 * MIB, 3: 20 * GIB, 4: 20 << 39}[level]

    scene.edit(unused, 0, level)

    assert {sp.role.level for sp in structs(scene.vm) if sp.unsync} == ({1} if level == 1 else set())
    picture(f"A table of level {level} was written", scene.vm)


def two_tables_guest(kernel: str) -> Editor:
    """A guest that has used two tables, and has just changed an entry of each: both are unsync."""
    scene = editing_guest(kernel, {0x5000: HERE, 2 * MIB: OTHER})
    for address in (0x5000, 2 * MIB):
        scene.reads(address)
        scene.edit(address + PAGE, HERE | USED)
    return scene


@pytest.mark.spec("unsync_children/counts-unsync-entries")
def test_pages_above_count_the_entries_that_lead_to_something_unsync(kernel: str, picture: Camera) -> None:
    """Two tables below one directory: two there, one in each page above."""
    scene = two_tables_guest(kernel)

    counted = {level: page_at(scene, 0x5000, level).unsync_children for level in (1, 2, 3, 4)}

    assert counted == {1: 0, 2: 2, 3: 1, 4: 1}
    picture("Two unsync tables, counted above", scene.vm)


@pytest.mark.spec("unsync_children/counts-unsync-entries")
def test_the_count_is_not_kept_up_to_date(kernel: str) -> None:
    """Edge: the guest takes the table away from the directory. No entry leads to it, and it still counts."""
    scene = two_tables_guest(kernel)

    scene.edit(2 * MIB, 0, level=2)

    directory = page_at(scene, 0x5000, 2)
    assert scene.vm.host.read(directory.sptep(1)) == scene.vm.kvm.kernel.shadow_nonpresent_value
    assert directory.unsync_children == 2
    scene.cpu.invlpg(0x5000)
    scene.cpu.mov_cr3(scene.cpu.vcpu.registers.cr3)
    scene.reads(0x5000)
    assert directory.unsync_children == 0


@pytest.mark.spec("unsync_child_bitmap/marks-unsync-entries")
def test_the_bitmap_has_the_entries_that_lead_there(kernel: str, picture: Camera) -> None:
    """Directly in the directory, indirectly in the pages above."""
    scene = two_tables_guest(kernel)

    marked = {level: page_at(scene, 0x5000, level).unsync_child_bitmap for level in (1, 2, 3, 4)}

    assert marked == {1: 0, 2: 0b11, 3: 0b1, 4: 0b1}
    picture("The bitmaps lead to both unsync tables", scene.vm)


@pytest.mark.spec("unsync_child_bitmap/locates-unsync-pages")
@pytest.mark.spec("unsync_child_bitmap/locates-unsync-pages~689c")
def test_only_marked_entries_are_looked_at(kernel: str) -> None:
    """One of many tables is unsync. KVM finds it, and reads no entry of the pages above that is not marked."""
    scene = editing_guest(kernel, {n * 2 * MIB: HERE for n in range(12)})
    for number in range(12):
        scene.reads(number * 2 * MIB)
    scene.edit(6 * MIB + PAGE, OTHER | USED)
    upper = {int(page_at(scene, 0, level).spt): level for level in (2, 3, 4)}
    page = page_at(scene, 6 * MIB, 1)
    before = page.unsync
    looked_at: set[tuple[int, int]] = set()
    model = BrokenModel()

    def watch(original: Callable[..., int]) -> Callable[..., int]:
        def read(host: object, sptep: int) -> int:
            if sptep & ~0xFFF in upper:
                looked_at.add((upper[sptep & ~0xFFF], sptep >> 3 & 511))
            return original(host, sptep)

        return read

    scene.cpu.mov_cr3(scene.cpu.vcpu.registers.cr3)
    model.wrap("kvm.host.Host.read", watch)
    try:
        finish(scene.vm.kvm.shadow.kvm_mmu_sync_roots(scene.cpu.vcpu))
    finally:
        model.restore()

    assert (before, page.unsync) == (True, False)
    assert looked_at == {(4, 0), (3, 0), (2, 3)}


@pytest.mark.spec("write_flooding_count/emulations-of-protected-tables")
def test_every_write_to_a_protected_table_is_emulated(kernel: str) -> None:
    """Tables above the last level are protected: each write comes to KVM."""
    scene = editing_guest(kernel, {0x5000: HERE})
    scene.reads(0x5000)
    scene.edit(0x9000, 0)  # the window is in use from here on
    emulated = scene.cpu.vcpu.stat["pf_emulate"]

    for number in range(2):
        scene.edit((20 + number) * 2 * MIB, 0, level=2)

    assert scene.cpu.vcpu.stat["pf_emulate"] == emulated + 2


@pytest.mark.spec("write_flooding_count/leaf-pages-exempt")
def test_a_last_level_table_is_written_without_emulation(kernel: str) -> None:
    """However often: it is unsync. A table above is not, and goes with the third write."""
    scene = editing_guest(kernel, {0x5000: HERE})
    scene.reads(0x5000)
    last, upper = page_at(scene, 0x5000, 1), page_at(scene, 0x5000, 2)
    emulated = scene.cpu.vcpu.stat["pf_emulate"]

    for number in range(10):
        scene.edit((16 + number) * PAGE, HERE | USED)

    assert scene.cpu.vcpu.stat["pf_emulate"] == emulated
    assert (last.unsync, last.write_flooding_count, last.role.invalid) == (True, 0, 0)
    assert not upper.unsync
    for number in range(3):
        scene.edit((20 + number) * 2 * MIB, 0, level=2)
    assert upper.role.invalid == 1


@pytest.mark.spec("write_flooding_count/counts-emulations-then-unmaps")
def test_the_third_write_since_the_table_was_used_is_too_many(kernel: str, picture: Camera) -> None:
    """Two are counted. Use sets the count back: two more are counted. Without use the third drops the page."""
    scene = editing_guest(kernel, {0x5000: HERE, 30 * MIB: OTHER})
    scene.reads(0x5000)
    directory = page_at(scene, 0x5000, 2)
    counted = []
    for number in range(2):
        scene.edit((40 + number) * 2 * MIB, 0, level=2)
        counted.append(directory.write_flooding_count)

    scene.reads(30 * MIB)  # faults, and goes through the directory
    counted.append(directory.write_flooding_count)
    for number in range(2):
        scene.edit((50 + number) * 2 * MIB, 0, level=2)
        counted.append(directory.write_flooding_count)

    assert counted == [1, 2, 0, 1, 2]
    assert directory.role.invalid == 0
    before = scene.vm.snapshot()
    scene.edit(52 * 2 * MIB, 0, level=2)
    assert directory.role.invalid == 1
    assert scene.reads(0x5000) == 0
    picture("The third write: the table is dropped", scene.vm, before)
