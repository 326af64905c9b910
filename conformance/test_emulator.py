"""What KVM built does what is said of it on another processor, too: an emulator that nobody here wrote walks it."""

import pytest

from conformance.emulator import emulated, lands_on
from conformance.scenes import MIB, TABLES, USED, Scene, editing_guest, guest, inner_paging_guest
from mmu_model.hardware import CR4_SMEP, Kind
from mmu_model.kvm.memory_region import add_memory_region, set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.snapshot import MmuKind

HERE, THERE, UNUSED = 0x5000, 0x6000, 0x3000_0000
DEVICE = 0xF000_0000
PRESENT, WRITE, USER, RSVD, FETCH = 0x1, 0x2, 0x4, 0x8, 0x10
"""Bits of an error code."""
PAGED = ["32-bit", "PAE", "4-level", "5-level"]
READ_ONLY = 0x25
"""Flags of a guest's entry: present, user, accessed."""


def hpa(scene: Scene, gpa: int) -> int:
    """Where a byte of the guest's memory is in the host's."""
    found = scene.vm.memory.hpa(gpa)
    assert found is not None
    return int(found)


def fault(code: int) -> str:
    """The page fault with that error code, as :func:`lands_on` says it."""
    return f"page-fault {code:#x}"


@pytest.mark.spec("translation/guest-paging-off/gpa-to-hpa", tier="oracle")
@pytest.mark.spec("shadow-pages/nonpaging/gpa-to-hpa", tier="oracle")
@pytest.mark.spec("acronyms/gpa/meaning", tier="oracle")
def test_without_paging_an_address_leads_to_the_hosts_frame(kernel: str) -> None:
    """KVM's PAE tables have the frame behind the address, and nothing where the guest has not been."""
    scene = guest(kernel, MmuKind.SHADOW)
    scene.reads(HERE)

    assert lands_on(scene, HERE + 8) == hpa(scene, HERE + 8)
    assert lands_on(scene, UNUSED) == fault(0)


@pytest.mark.spec("translation/guest-paging-on/gva-to-gpa-to-hpa", tier="oracle")
@pytest.mark.spec("shadow-pages/paging/gva-to-gpa-to-hpa", tier="oracle")
@pytest.mark.spec("translation/primary-job/programs-the-processor", tier="oracle")
@pytest.mark.spec("acronyms/spte/meaning", tier="oracle")
@pytest.mark.spec("introduction/security/no-host-memory-but-its-own", tier="oracle")
@pytest.mark.parametrize("paging", PAGED)
def test_a_shadow_leads_where_the_guests_tables_do(kernel: str, paging: str) -> None:
    """In every paging mode, for readers and writers, in kernel and user mode; and nowhere else."""
    scene = guest(kernel, MmuKind.SHADOW, paging, mapped={HERE: THERE}, mapped_flags=USED)
    scene.reads(HERE)

    for kind in Kind:
        for cpl in (0, 3):
            assert lands_on(scene, HERE + 8, kind, cpl) == hpa(scene, THERE + 8)
    assert lands_on(scene, UNUSED) == fault(0)


@pytest.mark.spec("translation/guest-paging-on/gva-to-gpa-to-hpa", tier="oracle")
@pytest.mark.spec("shadow-pages/paging-tdp/gpa-to-hpa", tier="oracle")
@pytest.mark.spec("acronyms/tdp/meaning", tier="oracle")
@pytest.mark.spec(
    "virtual-and-real-hardware-supported/hardware/first-generation-and-two-dimensional", tier="oracle"
)
@pytest.mark.parametrize("paging", ["32-bit", "PAE", "4-level"])
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda mmu: mmu.value)
def test_nested_paging_leads_from_the_guests_tables_to_the_host(
    kernel: str, mmu: MmuKind, paging: str
) -> None:
    """The guest's tables are its own; KVM's translate what they say, and the addresses they are at."""
    scene = guest(kernel, mmu, paging, mapped={HERE: THERE}, mapped_flags=USED)
    scene.reads(HERE)

    assert lands_on(scene, HERE + 8) == hpa(scene, THERE + 8)
    assert lands_on(scene, UNUSED) == fault(0)


@pytest.mark.spec("translation/nested/ngva-to-ngpa-to-gpa-to-hpa", tier="oracle")
@pytest.mark.spec("shadow-pages/nested-tdp/ngpa-to-gpa-to-hpa", tier="oracle")
@pytest.mark.spec("acronyms/ngpa/meaning", tier="oracle")
@pytest.mark.spec("virtual-and-real-hardware-supported/hardware/npt-for-guests", tier="oracle")
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda mmu: mmu.value)
def test_a_guest_of_a_guest_comes_through_three_translations(kernel: str, mmu: MmuKind) -> None:
    """The emulator makes two walks, the inner guest's and KVM's; in the latter are two translations."""
    scene = inner_paging_guest(kernel, mmu, linear={HERE: THERE}, nested={THERE: 0x7000})
    scene.reads(HERE)

    assert lands_on(scene, HERE + 8) == hpa(scene, 0x7008)


@pytest.mark.spec("role.quadrant/4-byte-gptes-8-byte-sptes", tier="oracle")
@pytest.mark.spec("role.quadrant/second-level-quarters", tier="oracle")
@pytest.mark.spec("role.quadrant/maps-1gb", tier="oracle")
def test_quadrants_cover_all_of_a_32_bit_guest(kernel: str) -> None:
    """An address in each half of a table, and in each quarter of the directory."""
    used = {
        quarter << 30 | half << 21 | HERE: 8 * MIB + (quarter * 2 + half << 12)
        for quarter in range(4)
        for half in (0, 1)
    }
    scene = guest(kernel, MmuKind.SHADOW, "32-bit", mapped=used, mapped_flags=USED)
    for address in used:
        scene.reads(address)

    assert {address: lands_on(scene, address) for address in used} == {
        a: hpa(scene, gpa) for a, gpa in used.items()
    }


@pytest.mark.spec("spt/accessed-by-kvm-and-hardware", tier="oracle")
def test_another_processor_sets_flags_in_the_same_words(kernel: str) -> None:
    """What it changes when it writes are words of `spt`, at the indices that the address has at each level."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={HERE: THERE}, mapped_flags=USED)
    scene.cpu.write(HERE, 1)
    host, flags = scene.vm.host, 0x60
    words = {
        int(at): host.memory.read(at)
        for pfn in host.page_private
        for at in range(pfn << 12, (pfn << 12) + 4096, 8)
    }
    for at, word in words.items():
        if word & 1:
            host.memory.write(at, word & ~flags)

    changed = emulated(scene, HERE, Kind.WRITE).changed

    assert sorted(at >> 3 & 511 for at in changed) == [0, 0, 0, HERE >> 12]
    assert set(changed) <= set(words)
    assert {words[at] | flags for at in changed} >= {value | flags for value in changed.values()}


@pytest.mark.spec("shadow-pages/leaf/lowest-level-of-the-stack", tier="oracle")
@pytest.mark.spec("large-pages/combinations/4k-2m-4m-1g", tier="oracle")
@pytest.mark.parametrize("mmu", [MmuKind.SHADOW, MmuKind.TDP], ids=lambda mmu: mmu.value)
def test_a_large_leaf_covers_all_of_its_page(kernel: str, mmu: MmuKind) -> None:
    """The guest has used one address; the whole large page around it is there."""
    scene = guest(
        kernel, mmu, "4-level", mapped={2 * MIB: 4 * MIB}, mapped_level=2, mapped_flags=USED, host_level=2
    )
    scene.reads(2 * MIB)

    for offset in (0, MIB + 0x5008, 2 * MIB - 8):
        assert lands_on(scene, 2 * MIB + offset) == hpa(scene, 4 * MIB + offset)


@pytest.mark.spec("reaction-to-events/cause-guest-fault/guest-denies", tier="oracle")
def test_what_the_guests_tables_deny_anywhere_the_shadow_denies(kernel: str) -> None:
    """Each right taken away in an upper entry of the guest's is missing on another processor, with that error code."""
    denied = {
        2: (Kind.WRITE, 3, PRESENT | WRITE | USER),
        4: (Kind.READ, 3, PRESENT | USER),
        1 << 63: (Kind.FETCH, 0, PRESENT | FETCH),
    }
    for bit, (kind, cpl, code) in denied.items():
        scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={HERE: THERE}, mapped_flags=USED)
        assert scene.tables is not None
        entry = scene.tables.entry_address(HERE, 3)
        scene.vm.memory.write(entry, scene.vm.memory.read(entry) ^ bit)
        scene.reads(HERE)

        assert lands_on(scene, HERE) == hpa(scene, THERE)
        assert lands_on(scene, HERE, kind, cpl) == fault(code)


@pytest.mark.spec("emulating-cr0.wp/kernel-write/u0-w1", tier="oracle")
@pytest.mark.spec("emulating-cr0.wp/two-sptes/by-fault-type", tier="oracle")
def test_after_a_write_of_the_kernel_users_fault(kernel: str) -> None:
    """CR0.WP is 0 in the guest and 1 on the processor: the kernel reads and writes, users do neither."""
    scene = guest(
        kernel, MmuKind.SHADOW, "4-level", mapped={HERE: THERE}, mapped_flags=READ_ONLY | 0x40, cr0_wp=False
    )
    scene.cpu.write(HERE, 1)

    assert lands_on(scene, HERE, Kind.READ) == lands_on(scene, HERE, Kind.WRITE) == hpa(scene, THERE)
    assert lands_on(scene, HERE, Kind.READ, 3) == fault(PRESENT | USER)
    assert lands_on(scene, HERE, Kind.WRITE, 3) == fault(PRESENT | WRITE | USER)


@pytest.mark.spec("emulating-cr0.wp/read/u1-w0", tier="oracle")
@pytest.mark.spec("emulating-cr0.wp/two-sptes/by-fault-type", tier="oracle")
@pytest.mark.spec("emulating-cr0.wp/host-keeps-wp/host-wp-is-1", tier="oracle")
def test_after_a_read_the_kernels_write_faults(kernel: str) -> None:
    """All read, nobody writes; KVM hears of the kernel's write since the processor's CR0.WP is 1."""
    scene = guest(
        kernel, MmuKind.SHADOW, "4-level", mapped={HERE: THERE}, mapped_flags=READ_ONLY, cr0_wp=False
    )
    scene.reads(HERE)

    assert lands_on(scene, HERE, Kind.READ) == lands_on(scene, HERE, Kind.READ, 3) == hpa(scene, THERE)
    assert lands_on(scene, HERE, Kind.WRITE) == fault(PRESENT | WRITE)


@pytest.mark.spec("emulating-cr0.wp/smep/nx-set", tier="oracle")
def test_the_kernel_does_not_execute_what_it_has_written_as_a_users_page(kernel: str) -> None:
    """With CR4.SMEP and CR0.WP = 0: the entry that became the kernel's has NX, so that no fetch gets through."""
    scene = guest(
        kernel,
        MmuKind.SHADOW,
        "4-level",
        mapped={HERE: THERE},
        mapped_flags=READ_ONLY | 0x40,
        cr0_wp=False,
        cr4=CR4_SMEP,
    )
    scene.cpu.write(HERE, 1)

    assert lands_on(scene, HERE, Kind.WRITE) == hpa(scene, THERE)
    assert lands_on(scene, HERE, Kind.FETCH) == fault(PRESENT | FETCH)


@pytest.mark.spec("reaction-to-events/mmio-fault/rsv-bit-and-cached-info", tier="oracle")
@pytest.mark.spec("fast-invalidation-of-mmio-sptes/stale-information/cached-in-leaf-sptes", tier="oracle")
@pytest.mark.spec("reaction-to-events/shadow-walk-mmio/spte-caches-info", tier="oracle")
def test_an_mmio_spte_makes_another_processor_fault_for_a_reserved_bit(kernel: str) -> None:
    """Not before the first access, when nothing is there; after it with RSVD, under nested paging in the exit's code."""
    for mmu in (MmuKind.SHADOW, MmuKind.TDP):
        scene = guest(kernel, mmu, "4-level", mapped={HERE: DEVICE, 0x8000: 0x8000}, mapped_flags=USED)
        scene.reads(0x8000)
        before = emulated(scene, HERE)
        scene.reads(HERE)
        after = emulated(scene, HERE)

        codes = [a.error_code if mmu is MmuKind.SHADOW else a.exit_info_1 for a in (before, after)]
        assert [None if code is None else code & (PRESENT | RSVD) for code in codes] == [0, PRESENT | RSVD]


@pytest.mark.spec("events/missing-or-protected/access", tier="oracle")
def test_another_processor_cannot_write_to_a_shadowed_table_either(kernel: str) -> None:
    """An upper table of the guest's, in its own window: readable, and a write faults as protected."""
    scene = editing_guest(kernel, {HERE: THERE})
    scene.reads(HERE)
    directory = scene.gpte(HERE, 2)
    scene.reads(directory)

    assert lands_on(scene, directory) == hpa(scene, TABLES + directory - scene.window)
    assert lands_on(scene, directory, Kind.WRITE) == fault(PRESENT | WRITE)


@pytest.mark.spec("reaction-to-events/cause-dirty-logging/write-protected", tier="oracle")
@pytest.mark.spec("reaction-to-events/cause-protected/protected-translation", tier="oracle")
def test_another_processor_cannot_write_past_the_dirty_log(kernel: str) -> None:
    """Before logging it writes; then it faults."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={HERE: THERE}, mapped_flags=USED)
    scene.cpu.write(HERE, 1)
    assert lands_on(scene, HERE, Kind.WRITE) == hpa(scene, THERE)
    (slot,) = scene.vm.kvm.memslots[0]

    set_memory_region_flags(scene.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)
    scene.reads(HERE)

    assert lands_on(scene, HERE) == hpa(scene, THERE)
    assert lands_on(scene, HERE, Kind.WRITE) == fault(PRESENT | WRITE)


@pytest.mark.spec("unsync/may-not-match", tier="oracle")
@pytest.mark.spec("unsync/like-a-stale-tlb", tier="oracle")
@pytest.mark.spec("unsync/synchronized-on-flush", tier="oracle")
@pytest.mark.spec("synchronized-and-unsynchronized-pages/reachable-table/guest-must-invlpg", tier="oracle")
def test_another_processor_sees_the_old_page_until_the_guest_flushes(kernel: str) -> None:
    """The guest points an entry elsewhere: what KVM built still leads to the old page, and after INVLPG to the new."""
    scene = editing_guest(kernel, {HERE: THERE})
    scene.reads(HERE)

    scene.edit(HERE, 0x7000 | USED)
    stale = lands_on(scene, HERE)
    scene.cpu.invlpg(HERE)
    scene.reads(HERE)

    assert (stale, lands_on(scene, HERE)) == (hpa(scene, THERE), hpa(scene, 0x7000))


@pytest.mark.spec("memory/guest-memory/gpa-to-hva-aliases", tier="oracle")
@pytest.mark.spec("memory/guest-memory/in-the-process", tier="oracle")
def test_two_addresses_of_a_guest_lead_to_one_place(kernel: str) -> None:
    """Two slots over the same memory of the process: the emulator comes to the same byte from both."""
    scene = guest(kernel, MmuKind.SHADOW)
    (slot,) = scene.vm.kvm.memslots[0]
    add_memory_region(scene.vm.kvm, 1, 1 << 30, MIB, slot.userspace_addr)
    scene.reads(HERE)
    scene.reads((1 << 30) + HERE)

    assert lands_on(scene, HERE) == lands_on(scene, (1 << 30) + HERE) == hpa(scene, HERE)


@pytest.mark.spec("memory/backing/paged-at-any-time", tier="oracle")
@pytest.mark.spec("events/translation-changes/by-gpa-to-hva-or-hva-to-hpa", tier="oracle")
def test_another_processor_finds_nothing_where_the_host_took_the_page(kernel: str) -> None:
    """The host pages memory out: no table of KVM leads there any more; the next access finds the new frame."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={HERE: THERE}, mapped_flags=USED)
    scene.reads(HERE)
    before = lands_on(scene, HERE)
    (slot,) = scene.vm.kvm.memslots[0]

    scene.vm.process.replace_page(slot.hva(THERE >> 12), writable=True)

    assert before != hpa(scene, THERE)
    assert lands_on(scene, HERE) == fault(0)
    scene.reads(HERE)
    assert lands_on(scene, HERE) == hpa(scene, THERE)
