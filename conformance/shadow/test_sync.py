"""Synchronizing shadow pages: what becomes of each spte, when TLBs are flushed, and when the page has to go."""

import pytest

from conformance.looking import structs
from conformance.scenes import GIB, MIB, PAGE, USED, Editor, editing_guest
from mmu_model.hardware import Gfn, Registers
from mmu_model.kvm.memslot import KVM_MEM_READONLY
from mmu_model.kvm.mmio import get_mmio_spte_gfn
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.roots import serve_requests
from mmu_model.kvm.spte import is_shadow_present_pte, is_writable_pte
from mmu_model.kvm.task import finish

HERE, OTHER = 0x6000, 0x7000
OLD, NEW = 111, 222
READ_ONLY = USED & ~2
DEVICE = 1 << 40
W = 1 << 1


def page_at(scene: Editor, address: int, level: int = 1) -> KvmMmuPage:
    """The page of that level that shadows the guest's table for an address."""
    assert scene.tables is not None
    gfn = scene.tables.entry_address(address, level) >> 12
    (sp,) = (sp for sp in structs(scene.vm) if sp.gfn == gfn and sp.role.level == level)
    return sp


def used(kernel: str, flags: int = USED, page: int = HERE) -> Editor:
    """A guest that has read 0x5000, with OLD at HERE and NEW at OTHER."""
    scene = editing_guest(kernel, {0x5000: page}, flags=flags)
    scene.vm.memory.write(HERE, OLD)
    scene.vm.memory.write(OTHER, NEW)
    scene.reads(0x5000)
    return scene


def flush_by_guest(scene: Editor) -> None:
    """MOV to CR3 with the value that it has, and what KVM does before the guest goes on."""
    scene.cpu.mov_cr3(scene.cpu.vcpu.registers.cr3)
    finish(serve_requests(scene.cpu.vcpu))


def spte(scene: Editor) -> int:
    """The one for 0x5000."""
    return scene.vm.host.read(page_at(scene, 0x5000).sptep(5))


@pytest.mark.parametrize(
    ("before", "after", "flushes", "present", "writable"),
    [
        (HERE | USED, 0, 1, False, False),
        (HERE | USED, HERE | USED & ~1, 1, False, False),
        (HERE | USED, OTHER | USED, 1, False, False),
        (HERE | USED, HERE | READ_ONLY, 1, True, False),
        (HERE | READ_ONLY, HERE | USED, 1, True, True),
        (HERE | USED, HERE | USED | 1 << 9, 0, True, True),
        (HERE | USED, HERE | 0x47, 1, False, False),
    ],
    ids=["absent", "with P clear", "another frame", "less", "more", "the same", "not accessed"],
)
def test_an_spte_says_what_its_gpte_does_or_goes(
    kernel: str, before: int, after: int, flushes: int, present: bool, writable: bool
) -> None:
    """TLBs forget it if it said more before; and the table itself, which the guest could write to. What is made anew
    counts as not accessed, in which it says less: on 6.1 that is every spte (6.1: sync_page)."""
    scene = used(kernel, before & (PAGE - 1))
    scene.edit(0x5000, after)
    earlier = scene.vm.kvm.stat["remote_tlb_flush"]

    flush_by_guest(scene)

    now = spte(scene)
    assert (is_shadow_present_pte(now), is_writable_pte(now)) == (present, writable)
    assert scene.vm.kvm.stat["remote_tlb_flush"] - earlier == 1 + (flushes or kernel == "6.1")
    assert not page_at(scene, 0x5000).unsync
    assert scene.vm.kvm.stat["mmu_unsync"] == 0


def test_tables_are_protected_together_before_any_is_read(kernel: str) -> None:
    """One flush for all of them; and one more for what they made sptes of (6.12 makes none anew)."""
    addresses = (0x5000, 2 * MIB, 4 * MIB, 1 << 30)
    scene = editing_guest(kernel, dict.fromkeys(addresses, HERE))
    for address in addresses:
        scene.reads(address)
        scene.edit(address + PAGE, HERE | USED)
    earlier = scene.vm.kvm.stat["remote_tlb_flush"], scene.vm.kvm.stat["mmu_unsync"]

    flush_by_guest(scene)

    now = scene.vm.kvm.stat["remote_tlb_flush"], scene.vm.kvm.stat["mmu_unsync"]
    assert (now[0] - earlier[0], earlier[1], now[1]) == (1 if kernel == "6.12" else 2, 4, 0)
    for address in addresses:
        assert not is_writable_pte(window_spte(scene, address))


def test_marks_that_lead_nowhere_are_cleared_all_the_way_up(kernel: str) -> None:
    """The guest takes the unsync table out of its directory; at its next flush nothing is unsync below the root."""
    scene = editing_guest(kernel, {0x5000: HERE, 2 * MIB: HERE})
    scene.reads(0x5000)
    scene.reads(2 * MIB)
    scene.edit(2 * MIB + PAGE, HERE | USED)
    above = [page_at(scene, 0x5000, level) for level in (2, 3, 4)]
    before = [sp.unsync_children for sp in above]
    scene.edit(2 * MIB, 0, level=2)

    flush_by_guest(scene)

    assert before == [1, 1, 1]
    assert [(sp.unsync_children, sp.unsync_child_bitmap) for sp in above] == [(0, 0)] * 3


def test_of_two_unsync_tables_both_marks_go(kernel: str) -> None:
    """Each with its table, and the marks above with the last; another directory keeps nothing either."""
    scene = editing_guest(kernel, dict.fromkeys((0x5000, 2 * MIB, 1 << 30), HERE))
    for address in (0x5000, 2 * MIB, 1 << 30):
        scene.reads(address)
        scene.edit(address + PAGE, HERE | USED)
    pages = {level: page_at(scene, 0x5000, level) for level in (2, 3, 4)}
    before = {level: sp.unsync_children for level, sp in pages.items()}

    flush_by_guest(scene)

    assert before == {2: 2, 3: 2, 4: 1}
    assert {level: (sp.unsync_children, sp.unsync_child_bitmap) for level, sp in pages.items()} == {
        2: (0, 0),
        3: (0, 0),
        4: (0, 0),
    }
    assert not any(sp.unsync for sp in structs(scene.vm))


def test_what_is_below_a_table_that_is_linked_again_is_synchronized(kernel: str) -> None:
    """While nothing led to it, the guest's flush did not reach it."""
    scene = used(kernel)
    assert scene.tables is not None
    scene.edit(0x5000, OTHER | USED)
    scene.edit(0, scene.vm.memory.read(scene.tables.entry_address(0, 3)), level=3)
    flush_by_guest(scene)
    table = page_at(scene, 0x5000)
    unsync = [table.unsync]

    assert scene.reads(0x5000) == NEW

    unsync.append(table.unsync)
    assert unsync == [True, False]
    assert not table.role.invalid


def test_roots_of_an_earlier_mode_do_not_matter(kernel: str) -> None:
    """The guest ran without paging once, from four roots; now it has one."""
    scene = used(kernel)
    registers = scene.cpu.vcpu.registers
    scene.cpu.set_registers(Registers(maxphyaddr=46))
    scene.reads(HERE)
    scene.cpu.set_registers(registers)
    scene.reads(0x5000)
    scene.edit(0x5000, OTHER | USED)

    flush_by_guest(scene)

    assert not page_at(scene, 0x5000).unsync
    assert scene.reads(0x5000) == NEW


def window_spte(scene: Editor, address: int) -> int:
    """The spte by which the guest reaches its table for an address."""
    where = scene.gpte(address)
    return scene.vm.host.read(page_at(scene, where).sptep(where >> 12 & 511))


@pytest.mark.parametrize("gpa", [DEVICE, DEVICE + PAGE])
def test_an_mmio_spte_is_renewed_or_goes(kernel: str, gpa: int) -> None:
    """It keeps what is permitted now, and the generation; if the frame is another, it is none any more."""
    scene = used(kernel, page=DEVICE)
    before = spte(scene)
    scene.vm.add_memory(GIB, MIB)
    scene.edit(0x5000, gpa | READ_ONLY)

    flush_by_guest(scene)

    after, masks = spte(scene), scene.vm.kvm.masks
    assert masks.is_mmio(before) and before & W
    if gpa != DEVICE:
        assert after == scene.vm.kvm.kernel.shadow_nonpresent_value
        return
    assert (masks.is_mmio(after), get_mmio_spte_gfn(after), after & W) == (True, DEVICE >> 12, 0)
    assert after & ~W != before & ~W, "the generation is an old one"


def test_what_the_host_denies_stays_denied(kernel: str) -> None:
    """The guest permits itself to write to memory that is read-only."""
    scene = editing_guest(kernel, {0x5000: GIB}, flags=READ_ONLY)
    scene.vm.add_memory(GIB, MIB, flags=KVM_MEM_READONLY)
    scene.reads(0x5000)
    scene.edit(0x5000, GIB | USED)

    flush_by_guest(scene)

    masks = scene.vm.kvm.masks
    assert is_shadow_present_pte(spte(scene))
    assert not spte(scene) & (W | masks.mmu_writable | masks.host_writable)


def test_a_table_in_step_does_not_become_writable_by_synchronizing_another(kernel: str) -> None:
    """The guest permits itself to write to a table by way of another table, and flushes; its first write is seen."""
    scene = editing_guest(kernel, {0x5000: HERE})
    assert scene.tables is not None
    table = scene.tables.entry_address(0x5000, 1) & -PAGE
    scene.map({0x9000 + 2 * MIB: table}, flags=READ_ONLY)
    scene.vm.memory.write(OTHER, NEW)
    scene.reads(0x5000)
    scene.reads(0x9000 + 2 * MIB)
    scene.edit(0x9000 + 2 * MIB, table | USED)

    flush_by_guest(scene)

    way = scene.vm.host.read(page_at(scene, 2 * MIB).sptep(9))
    assert (is_shadow_present_pte(way), is_writable_pte(way)) == (True, False)
    assert not page_at(scene, 0x5000).unsync
    scene.cpu.write(0x9000 + 2 * MIB + 5 * 8, OTHER | USED)
    assert page_at(scene, 0x5000).unsync
    scene.cpu.invlpg(0x5000)
    assert scene.reads(0x5000) == NEW


def swap_out(scene: Editor, gpa: int) -> None:
    """The host takes the frame that is behind an address."""
    (slot,) = scene.vm.kvm.memslots[0]
    scene.vm.process.swap_out(slot.hva(Gfn(gpa >> 12)))


def test_a_page_whose_table_was_swapped_out_goes(kernel: str) -> None:
    """Under mmu_lock nobody waits for the host to find it (kvm_vcpu_read_guest_atomic)."""
    scene = used(kernel)
    assert scene.tables is not None
    scene.edit(0x5000, OTHER | USED)
    page = page_at(scene, 0x5000)
    swap_out(scene, scene.tables.entry_address(0x5000, 1))

    flush_by_guest(scene)

    assert page.role.invalid
    assert page not in structs(scene.vm)
    assert scene.vm.kvm.stat["mmu_unsync"] == 0
    assert scene.reads(0x5000) == NEW


def test_invlpg_of_a_table_that_was_swapped_out_drops_the_spte(kernel: str) -> None:
    scene = used(kernel)
    assert scene.tables is not None
    scene.edit(0x5000, OTHER | USED)
    swap_out(scene, scene.tables.entry_address(0x5000, 1))
    earlier = scene.vm.kvm.stat["remote_tlb_flush"]

    scene.cpu.invlpg(0x5000)

    assert spte(scene) == scene.vm.kvm.kernel.shadow_nonpresent_value
    assert page_at(scene, 0x5000).unsync
    assert scene.vm.kvm.stat["remote_tlb_flush"] - earlier == 1
    assert scene.reads(0x5000) == NEW


def test_a_table_that_becomes_one_of_a_higher_level_is_seen_again(kernel: str) -> None:
    """As a last-level table it could be written unseen. Used as a directory as well it cannot."""
    scene = used(kernel)
    assert scene.tables is not None
    scene.edit(0x5000, HERE | USED)
    table = scene.tables.entry_address(0x5000, 1) & -PAGE
    unsync = page_at(scene, 0x5000)
    assert unsync.unsync
    scene.vm.memory.write(HERE, OTHER | USED)

    scene.edit(GIB, table | USED, level=3)
    assert scene.reads(GIB + 5 * 2 * MIB) == NEW

    assert unsync.role.invalid
    assert [sp.role.level for sp in structs(scene.vm) if sp.gfn == table >> 12] == [2]
    emulated = scene.cpu.vcpu.stat["pf_emulate"]
    scene.edit(0x9000, HERE | USED)
    assert scene.cpu.vcpu.stat["pf_emulate"] > emulated


def test_invlpg_is_for_one_address(kernel: str) -> None:
    """The other spte of the table is as it was, and the page unsync. Without a change nothing is flushed."""
    scene = editing_guest(kernel, {0x5000: HERE, 0x6000: HERE})
    scene.vm.memory.write(OTHER, NEW)
    scene.reads(0x5000)
    scene.reads(0x6000)
    scene.edit(0x5000, OTHER | USED)
    scene.edit(0x6000, OTHER | USED)
    earlier = scene.vm.kvm.stat["remote_tlb_flush"]

    scene.cpu.invlpg(0x5000)
    flushed = [scene.vm.kvm.stat["remote_tlb_flush"] - earlier]
    assert (scene.reads(0x5000), scene.reads(0x6000)) == (NEW, 0)
    scene.cpu.invlpg(0x9000)
    flushed.append(scene.vm.kvm.stat["remote_tlb_flush"] - earlier)

    assert flushed == [1, 1]
    assert page_at(scene, 0x5000).unsync
