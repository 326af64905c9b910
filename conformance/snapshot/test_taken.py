"""A snapshot has what the structures of the VM have, whichever way one comes to them."""

import gc

import pytest

from conformance.looking import links, structs
from conformance.scenes import GIB, MIB, NESTED_TABLES, PAGE, Scene, editing_guest, guest, nested_guest
from mmu_model.hardware import Registers
from mmu_model.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from mmu_model.kvm.spte import is_shadow_present_pte
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind, ShadowPage, SpteFormat

DEVICE = 3 * GIB


def used(kernel: str, mmu: MmuKind, tdp_format: TdpFormat = TdpFormat.NPT) -> Scene:
    """A guest with paging that has edited a table, read from a device, and been through another address space."""
    scene = editing_guest(kernel, {0x5000: 0x6000, 0x8000: DEVICE}, mmu=mmu, tdp_format=tdp_format)
    scene.cpu.write(0x5000, 5)
    scene.edit(0x5000, 0x7067)
    scene.cpu.read(0x8000)
    return scene


@pytest.mark.parametrize("tdp_format", [TdpFormat.NPT, TdpFormat.EPT])
def test_every_page_is_there_with_all_that_is_known_of_it(mmu: MmuKind, tdp_format: TdpFormat) -> None:
    scene = used("6.12", mmu, tdp_format)
    vm, snapshot = scene.vm, scene.vm.snapshot("now")
    pages = {int(page.id): page for page in snapshot.pages}
    ept = tdp_format is TdpFormat.EPT and mmu is not MmuKind.SHADOW
    assert (snapshot.name, len(pages)) == ("now", len(snapshot.pages))
    assert set(pages) == {int(sp.address) for sp in structs(vm)}
    tdp = mmu is MmuKind.TDP  # whose roots are not counted
    assert (snapshot.tdp_mmu_pages, snapshot.n_used_mmu_pages) == (
        (len(pages) - 1, 0) if tdp else (0, len(pages))
    )
    for sp in structs(vm):
        page = pages[int(sp.address)]
        assert [int(page.role_word), int(page.gfn), int(page.spt)] == [int(sp.role), sp.gfn, sp.hpa >> 12]
        assert (page.unsync, page.unsync_children) == (sp.unsync, sp.unsync_children)
        assert (page.tdp_mmu_page, page.has_shadowed_translation) == (
            mmu is MmuKind.TDP,
            sp.shadowed_translation is not None,
        )
        assert page.spte_format is (SpteFormat.EPT if ept else None)
        words = vm.host.words(sp.spt)
        shadowed: list[int] | list[None] = sp.shadowed_translation or [None] * 512
        assert [(entry.index, entry.raw, entry.shadowed_translation) for entry in page.entries] == [
            (n, word, shadowed[n] if is_shadow_present_pte(word) else None)
            for n, word in enumerate(words)
            if word != vm.kvm.kernel.shadow_nonpresent_value
        ]
    assert snapshot.empty_spte == 1 << 63


def test_members_of_a_union_are_shown_as_the_mmu_that_the_page_is_of_means_them(kernel: str) -> None:
    """A page of the TDP MMU has one parent and references of its own kind; one of the shadow MMU the others."""
    for mmu in MmuKind:
        for page in used(kernel, mmu).vm.snapshot().pages:
            theirs = (page.mmu_valid_gen, page.root_count, page.parent_ptes)
            ours = (page.tdp_mmu_root_count, page.tdp_mmu_scheduled_root_to_zap)
            if mmu is MmuKind.TDP:
                assert theirs == (None, None, None)
                assert ours == (2 if page.role.level == 4 else 0, False)  # the vCPU's, and the MMU's own
                assert (page.ptep is None) == (page.role.level == 4)
            else:
                assert ours == (None, None) and page.ptep is None
                assert (page.mmu_valid_gen, page.root_count) == (0, int(page.role.level == 4))


def test_who_points_at_a_page(kernel: str, mmu: MmuKind) -> None:
    """Struct and index of every spte that leads to it."""
    scene = used(kernel, mmu)
    by_id = {int(page.id): page for page in scene.vm.snapshot().pages}
    for link in links(scene.vm):
        child = by_id[int(link.child.address)]
        places = child.parent_ptes if child.ptep is None else (child.ptep,)
        there = int(link.parent.address), (link.sptep - link.parent.spt) // 8
        assert there in [(int(at.page), at.index) for at in places or ()]


def test_where_something_unsync_is_below(kernel: str) -> None:
    """By index of the sptes that lead to it, on each level above; and nowhere else."""
    scene = used(kernel, MmuKind.SHADOW)
    pages = scene.vm.snapshot().pages
    (unsync,) = [page for page in pages if page.unsync]
    above: list[ShadowPage] = [unsync]
    while above[-1].parent_ptes:
        (place,) = above[-1].parent_ptes
        parent = next(page for page in pages if page.id == place.page)
        assert (parent.unsync_child_bitmap, parent.unsync_children) == ((place.index,), 1)
        above.append(parent)
    assert [page.role.level for page in above] == [1, 2, 3, 4]
    assert not any(page.unsync_child_bitmap for page in pages if page not in above)


def test_which_list_a_page_was_found_on(kernel: str) -> None:
    """The shadow MMU's are all on one, the newest first; below roots of the TDP MMU pages are found by sptes; a
    root that is invalid is only a vCPU's any more."""
    scene = used(kernel, MmuKind.SHADOW)
    snapshot = scene.vm.snapshot()
    assert {page.listed for page in snapshot.pages} == {"active"}
    newest_first = [int(sp.address) for sp in reversed(list(scene.vm.kvm.active_mmu_pages))]
    assert [int(page) for page in snapshot.active_mmu_pages] == newest_first
    assert [int(page.id) for page in snapshot.pages] == newest_first

    scene.vm.remove_memory(scene.vm.add_memory(GIB, MIB))
    assert [(page.listed, page.role.invalid) for page in scene.vm.snapshot().pages] == [("vcpu", 1)]

    below = used(kernel, MmuKind.TDP).vm.snapshot()
    found = {page.role.level == 4: page.listed for page in below.pages}
    assert found == {True: "roots", False: "table"}
    assert [int(page) for page in below.tdp_mmu_roots] == [
        int(page.id) for page in below.pages if page.listed == "roots"
    ]


def test_what_is_kept_for_a_slot(kernel: str, mmu: MmuKind) -> None:
    """Its place, its flags, what was written, and against what large pages there is a reason."""
    scene = guest(kernel, mmu)
    log = scene.vm.add_memory(GIB + PAGE, 4 * MIB, flags=KVM_MEM_LOG_DIRTY_PAGES)
    scene.vm.add_memory(2 * GIB, PAGE, flags=KVM_MEM_READONLY, as_id=1)
    for n in (9, 3, 4):
        scene.cpu.write(GIB + n * PAGE, n)
    memslots = scene.vm.snapshot().memslots

    assert [(slot.as_id, slot.id, slot.base_gfn, slot.npages, slot.flags) for slot in memslots] == [
        (0, 0, 0, 64 * MIB >> 12, 0),
        (0, 1, (GIB >> 12) + 1, 4 * MIB >> 12, KVM_MEM_LOG_DIRTY_PAGES),
        (1, 0, 2 * GIB >> 12, 1, KVM_MEM_READONLY),
    ]
    assert [slot.dirty for slot in memslots] == [None, tuple((GIB >> 12) + n for n in (3, 4, 9)), None]
    assert memslots[1].backing == log.userspace_addr >> 12
    # ragged at both ends, and out of step with the process
    assert [at[:2] for at in memslots[1].disallow_lpage] == [(2, 0), (2, 1), (2, 2), (3, 0)]
    kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, log)
    assert scene.vm.snapshot().memslots[1].dirty == ()


@pytest.mark.parametrize("level", [1, 2])
def test_the_reverse_map_by_frame_and_level(kernel: str, level: int) -> None:
    """Where the first frame is that an entry is about, also in a slot that begins within a large page."""
    size = 512 ** (level - 1)
    scene = guest(kernel, MmuKind.DIRECT, host_level=level, memory={GIB: 8 * MIB})
    scene.cpu.read(GIB + 2 * MIB + 5 * PAGE)
    snapshot = scene.vm.snapshot()
    gfn = (GIB + 2 * MIB >> 12) + 5
    heads = {head.gfn: head for head in snapshot.memslots[1].rmap}
    (place,) = heads[gfn // size * size].sptes

    assert {head.level for head in heads.values()} == {level}
    assert place.index == gfn // size % 512
    assert snapshot.by_id()[place.page].role.level == level
    assert len(heads) == (8 if level == 1 else 1)  # the neighbours are mapped in advance


def test_what_is_write_protected_as_a_table(kernel: str) -> None:
    """By frame, how many pages shadow it; no longer there when nothing does."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    scene.reads(0x5000)
    tracked = {
        int(page.gfn) for page in scene.vm.snapshot().pages if page.role.level > 1 and not page.role.direct
    }
    (slot,) = scene.vm.snapshot().memslots
    assert slot.gfn_write_track == tuple((gfn, 1) for gfn in sorted(tracked))

    scene.cpu.set_registers(Registers(maxphyaddr=46))
    scene.vm.remove_memory(scene.vm.add_memory(GIB, MIB))
    (slot,) = scene.vm.snapshot().memslots
    assert (slot.gfn_write_track, slot.disallow_lpage) == ((), ((3, 0, 1),))  # 64 MiB are no GiB


def test_what_a_vcpu_is_doing(kernel: str, mmu: MmuKind) -> None:
    """Its registers, the last access to a device, SMM, and whether it runs a guest of its own."""
    scene = used(kernel, mmu)
    registers = scene.cpu.vcpu.registers
    (seen,) = scene.vm.snapshot().vcpus
    generation = scene.vm.kvm.memslots[0].generation
    assert (seen.cr0, seen.cr3, seen.cr4, seen.efer) == (
        registers.cr0,
        registers.cr3,
        registers.cr4,
        registers.efer,
    )
    assert (seen.mmio.gfn, seen.mmio.generation) == (DEVICE >> 12, generation)
    assert seen.mmio.gva == (0x8000 if mmu is MmuKind.SHADOW else 0)
    assert (seen.smm, seen.guest_mode, seen.mmu) == (False, False, "root_mmu")

    scene.cpu.enter_nested(None, registers)
    (seen,) = scene.vm.snapshot().vcpus
    assert (seen.guest_mode, seen.mmu) == (True, "root_mmu")
    scene.cpu.leave_nested()
    scene.cpu.enter_smm()
    assert scene.vm.snapshot().vcpus[0].smm


@pytest.mark.parametrize(
    ("paging", "levels", "kind", "pages"),
    [
        ("32-bit", 4, "special", 4),
        ("PAE", 4, "special", 1),
        ("PAE", 5, "special", 1),
        ("4-level", 4, "page", 0),
    ],
)
def test_roots_that_stand_for_nested_tables(
    kernel: str, paging: str, levels: int, kind: str, pages: int
) -> None:
    """A hypervisor with fewer levels than the host gets tables above, which are no shadow pages."""
    scene = nested_guest(kernel, MmuKind.TDP, mapped={0x5000: 0x6000}, paging=paging, max_tdp_level=levels)
    scene.reads(0x5000)
    (seen,) = scene.vm.snapshot().vcpus

    assert (seen.mmu, seen.guest_mmu.root.kind, seen.root_mmu.root.kind) == ("guest_mmu", kind, "page")
    assert (seen.guest_mmu.root.pgd or 0) & ~0xFFF == NESTED_TABLES
    assert sum(page is not None for page in seen.guest_mmu.pae_root) == pages
    assert len(seen.guest_mmu.pae_root) == (4 if kind == "special" else 0)


@pytest.mark.parametrize(("paging", "pages"), [("32-bit", 4), ("PAE", 1)])
def test_pae_roots(kernel: str, paging: str, pages: int) -> None:
    """Four entries, with a page where there is one."""
    scene = guest(kernel, MmuKind.SHADOW, paging, mapped={0x5000: 0x6000})
    before = scene.vm.snapshot().vcpus[0].root_mmu.root
    scene.reads(0x5000)
    mmu = scene.vm.snapshot().vcpus[0].root_mmu

    assert (before.kind, before.page, before.pgd) == ("none", None, None)
    assert (mmu.root.kind, mmu.root.page, len(mmu.pae_root)) == ("pae", None, 4)
    assert [page is not None for page in mmu.pae_root] == [n < pages for n in range(4)]
    scene.cpu.set_registers(Registers(maxphyaddr=46))
    assert scene.vm.snapshot().vcpus[0].root_mmu.pae_root == ()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_snapshot_leaves_the_search_for_garbage_as_it_was(enabled: bool) -> None:
    scene = guest("6.12", MmuKind.TDP)
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        scene.vm.snapshot()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
