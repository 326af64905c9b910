"""Section "Shadow pages": the fields of the role that follow from the guest's mode."""

import pytest

from conformance.looking import FLAGS, backing, children, flags_after_use, roots, structs
from conformance.pictures import Camera
from conformance.scenes import MIB, Scene, guest, nested_guest
from mmu_model.hardware import CR0_WP, CR4_LA57, Registers
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind, PageId, ShadowPage, Snapshot

XD = 1 << 63
WRITE, USER = 1 << 1, 1 << 2
ACC_EXEC, ACC_WRITE, ACC_USER = 1, 2, 4


def roles(scene: Scene, field: str) -> set[int]:
    """All values of a field of the role that there are."""
    return {getattr(page.role, field) for page in scene.vm.snapshot().pages}


@pytest.mark.spec("role.access/inherited-uwx")
@pytest.mark.parametrize("level", [2, 3, 4])
@pytest.mark.parametrize(("bit", "lost"), [(WRITE, ACC_WRITE), (USER, ACC_USER)])
def test_a_page_inherits_what_the_levels_above_grant(
    kernel: str, level: int, bit: int, lost: int, picture: Camera
) -> None:
    """An entry of the guest without W, or without U: the pages below it lack that bit, those above do not."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    assert scene.tables is not None
    where = scene.tables.entry_address(0x5000, level)
    scene.vm.memory.write(where, scene.vm.memory.read(where) & ~bit)
    scene.reads(0x5000)

    access = {page.role.level: page.role.access for page in scene.vm.snapshot().pages}

    assert access == {n: 7 & ~lost if n < level else 7 for n in (1, 2, 3, 4)}
    picture(f"What an entry of level {level} denies is inherited", scene.vm)


@pytest.mark.spec("role.access/inherited-uwx")
def test_a_part_of_a_large_guest_page_has_the_access_of_its_entry(kernel: str) -> None:
    """Edge: the page that maps a large page of the guest in parts counts the entry of that page, too."""
    scene = guest(
        kernel, MmuKind.SHADOW, "4-level", mapped={2 * MIB: 2 * MIB}, mapped_level=2, mapped_flags=0x61
    )
    scene.reads(2 * MIB)

    access = {page.role.level: page.role.access for page in scene.vm.snapshot().pages}

    assert access == {1: ACC_EXEC, 2: 7, 3: 7, 4: 7}


@pytest.mark.spec("role.access/inherited-uwx")
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_under_nested_paging_nothing_is_inherited(kernel: str, mmu: MmuKind) -> None:
    """Edge: what the guest's tables grant is no business of pages for guest-physical memory."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000}, mapped_flags=0x1)
    scene.reads(0x5000)

    assert roles(scene, "access") == {7}


@pytest.mark.spec("role.access/execute-positive")
def test_the_execute_bit_is_set_where_execution_is_granted(kernel: str) -> None:
    """XD in an entry of the guest clears it in the pages below; it is set in those above."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    assert scene.tables is not None
    where = scene.tables.entry_address(0x5000, 3)
    scene.vm.memory.write(where, scene.vm.memory.read(where) | XD)
    scene.reads(0x5000)

    executable = {page.role.level: page.role.access & ACC_EXEC for page in scene.vm.snapshot().pages}

    assert executable == {1: 0, 2: 0, 3: 1, 4: 1}


@pytest.mark.spec("role.efer_nx/efer.nx")
@pytest.mark.parametrize("nx", [True, False])
def test_a_page_for_nested_tables_has_the_hypervisors_nx(kernel: str, nx: bool) -> None:
    """EFER.NXE of the hypervisor whose nested tables are shadowed."""
    scene = nested_guest(kernel, MmuKind.TDP, mapped={0x5000: 0x6000}, nx=nx)
    scene.reads(0x5000)

    shadows = [page.role.efer_nx for page in scene.vm.snapshot().pages if page.role.guest_mode]

    assert set(shadows) == {int(nx)}


@pytest.mark.spec("role.efer_nx/efer.nx")
def test_all_other_pages_have_it_set_whatever_the_guest_has(kernel: str, mmu: MmuKind) -> None:
    """Edge: the processor runs a guest without nested paging with EFER.NXE, and so the host's own."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000}, nx=False)
    scene.reads(0x5000)

    assert roles(scene, "efer_nx") == {1}


@pytest.mark.spec("role.cr0_wp/cr0.wp")
@pytest.mark.parametrize("paging", ["32-bit", "PAE", "4-level"])
def test_pages_of_a_shadowed_guest_have_its_cr0_wp(kernel: str, paging: str) -> None:
    """And new ones are made when it changes."""
    scene = guest(kernel, MmuKind.SHADOW, paging, mapped={0x5000: 0x6000}, cr0_wp=False)
    scene.reads(0x5000)
    assert roles(scene, "cr0_wp") == {0}

    scene.cpu.mov_cr0(scene.cpu.vcpu.registers.cr0 | CR0_WP)
    scene.reads(0x5000)

    assert {page.role.cr0_wp for page in roots(scene.vm.snapshot())} == {1}
    assert roles(scene, "cr0_wp") == {0, 1}


@pytest.mark.spec("role.cr0_wp/cr0.wp")
def test_elsewhere_cr0_wp_does_not_count(kernel: str) -> None:
    """Edge: it is 1 under nested paging, 0 without guest paging and in the shadow of nested tables."""
    tdp = guest(kernel, MmuKind.TDP, "4-level", mapped={0x5000: 0x6000}, cr0_wp=False)
    direct = guest(kernel, MmuKind.DIRECT, "4-level", mapped={0x5000: 0x6000}, cr0_wp=False)
    off = guest(kernel, MmuKind.SHADOW, "off")
    nested = nested_guest(kernel, MmuKind.TDP, mapped={0x5000: 0x6000})
    for scene in (tdp, direct, off, nested):
        scene.reads(0x5000)

    assert roles(tdp, "cr0_wp") == roles(direct, "cr0_wp") == {1}
    assert roles(off, "cr0_wp") == {0}
    assert {p.role.cr0_wp for p in nested.vm.snapshot().pages if p.role.guest_mode} == {0}


def smm_guest(kernel: str, mmu: MmuKind) -> Scene:
    """A guest that has been in SMM, where other memory is at the same guest-physical address."""
    scene = guest(kernel, mmu)
    scene.vm.add_memory(0, MIB, as_id=1)
    scene.vm.memory.write(0x5000, 1)
    scene.reads(0x5000)
    scene.cpu.enter_smm()
    scene.cpu.write(0x5000, 2)
    return scene


def in_use(snapshot: Snapshot) -> dict[PageId, ShadowPage]:
    """The roots of the first vCPU and every page below them."""
    found, generation = {}, roots(snapshot)
    while generation:
        found.update({page.id: page for page in generation})
        generation = [child for page in generation for child in children(snapshot, page).values()]
    return found


@pytest.mark.spec("role.smm/valid-in-smm")
def test_pages_for_smm_have_smm_set(kernel: str, mmu: MmuKind, picture: Camera) -> None:
    """The roots that the processor uses in SMM and all that is below them; outside none of them is in use."""
    scene = smm_guest(kernel, mmu)
    snapshot = scene.vm.snapshot()
    inside = in_use(snapshot)
    assert {page.role.smm for page in inside.values()} == {1}
    assert {page.role.level for page in inside.values()} == set(range(1, roots(snapshot)[0].role.level + 1))

    scene.cpu.rsm()
    assert scene.reads(0x5000) == 1

    outside = in_use(scene.vm.snapshot())
    assert {page.role.smm for page in outside.values()} == {0}
    assert not set(inside) & set(outside)
    picture(f"In SMM, {mmu.value}", snapshot)


@pytest.mark.spec("role.smm/selects-memslots")
def test_the_field_tells_which_slots_a_page_was_built_from(kernel: str, mmu: MmuKind) -> None:
    """One guest frame, two memories: the pages with smm lead to that of SMM, and go back to its slot."""
    scene = smm_guest(kernel, mmu)
    usual, smm = (slots.find(5) for slots in scene.vm.kvm.memslots)
    assert usual is not None
    assert smm is not None
    behind_smm = scene.vm.process.mapping(smm.hva(5))
    assert behind_smm is not None

    found = {
        page.role.smm: page.sptes()[5].pfn
        for page in scene.vm.snapshot().pages
        if page.role.level == 1 and 5 in page.sptes()
    }

    assert found == {0: backing(scene.vm, 5), 1: behind_smm.pfn}
    kvm = scene.vm.kvm
    assert {sp.role.smm: kvm.slots_for_role(sp.role).find(5) for sp in structs(scene.vm)} == {
        0: usual,
        1: smm,
    }


@pytest.mark.spec("role.guest_mode/nested-guest")
def test_pages_made_for_a_nested_guest_say_so(kernel: str, picture: Camera) -> None:
    """Those that shadow nested tables have it; the hypervisor's own have not."""
    scene = nested_guest(kernel, MmuKind.TDP, mapped={0x5000: 0x6000})
    earlier = scene.vm.snapshot()
    before = {page.id: page.role.guest_mode for page in scene.vm.snapshot().pages}
    scene.reads(0x5000)
    after = {page.id: page.role.guest_mode for page in scene.vm.snapshot().pages}

    assert set(before.values()) == {0}
    assert {mode for page, mode in after.items() if page not in before} == {1}
    picture("A nested guest runs", scene.vm, earlier)


@pytest.mark.spec("role.guest_mode/nested-guest")
def test_pages_that_shadow_what_a_hypervisor_made_without_nested_paging_say_so(kernel: str) -> None:
    """Shadow paging: the same tables serve the hypervisor and its guest, and are shadowed once for each."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    scene.reads(0x5000)
    scene.cpu.enter_nested(None, scene.cpu.vcpu.registers)
    scene.reads(0x5000)

    found = sorted((page.role.level, page.role.guest_mode) for page in scene.vm.snapshot().pages)

    assert found == [(level, mode) for level in (1, 2, 3, 4) for mode in (0, 1)]


@pytest.mark.spec("role.passthrough/first-entry-points-to-table")
def test_the_first_entry_of_a_passthrough_page_leads_to_the_shadow_of_the_guests_table(
    kernel: str, picture: Camera
) -> None:
    """Nothing else is in it; the page below has the level and the gfn of the guest's top table."""
    scene = nested_guest(kernel, MmuKind.TDP, mapped={0x5000: 0x6000}, max_tdp_level=5, maxphyaddr=50)
    scene.reads(0x5000)
    snapshot = scene.vm.snapshot()

    page, *more = (page for page in snapshot.pages if page.role.passthrough)

    assert not more
    ((index, below),) = children(snapshot, page).items()
    assert (index, below.role.level, below.role.passthrough) == (0, 4, 0)
    assert below.gfn << 12 == scene.frames[0]
    assert len(scene.frames) == len([p for p in snapshot.pages if p.role.guest_mode]) - 1
    picture("A passthrough page above four levels", snapshot)


@pytest.mark.spec("role.passthrough/five-over-four-levels")
@pytest.mark.spec("role.passthrough/five-over-four-levels~334e", refutes=True)
@pytest.mark.parametrize(
    ("host_levels", "paging", "expected"), [(4, "4-level", 0), (5, "4-level", 1), (5, "5-level", 0)]
)
def test_passthrough_takes_five_levels_over_four(
    kernel: str, host_levels: int, paging: str, expected: int, picture: Camera
) -> None:
    """The host walks 5 levels and the hypervisor's nested tables have 4: only then."""
    scene = nested_guest(
        kernel,
        MmuKind.TDP,
        mapped={0x5000: 0x6000},
        paging=paging,
        max_tdp_level=host_levels,
        maxphyaddr=50,
    )
    assert scene.cpu.vcpu.l1_registers is not None
    assert bool(scene.cpu.vcpu.l1_registers.cr4 & CR4_LA57) == (paging == "5-level")
    scene.reads(0x5000)

    (root,) = roots(scene.vm.snapshot())

    assert (root.role.passthrough, root.role.level) == (expected, host_levels)
    picture(f"{host_levels} levels over {paging} nested tables", scene.vm)


@pytest.mark.spec("role.ad_disabled/cannot-use-ad-bits")
@pytest.mark.parametrize("tdp_format", FLAGS)
def test_pages_whose_entries_the_processor_does_not_mark_have_ad_disabled(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat
) -> None:
    """The processor sets accessed with a read and dirty with a write, exactly where the field is 0."""
    scene = guest(kernel, mmu, tdp_format=tdp_format)
    scene.cpu.write(0x5000, 5)
    flags = 3 << 5 if mmu is MmuKind.SHADOW else FLAGS[tdp_format]
    without = mmu is not MmuKind.SHADOW and tdp_format is TdpFormat.EPT_WITHOUT_AD

    seen = flags_after_use(scene.vm, scene.cpu, flags)

    accessed = flags & -flags
    assert seen == ({"read": 0, "write": 0} if without else {"read": accessed, "write": flags})
    assert roles(scene, "ad_disabled") == {int(without)}


@pytest.mark.spec("role.ad_disabled/cannot-use-ad-bits")
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_a_nested_guest_without_ept_of_its_own_is_not_counted(kernel: str, mmu: MmuKind) -> None:
    """Edge: EPT that could have the flags runs a nested guest without them, and the field still is 0."""
    scene = guest(kernel, mmu, tdp_format=TdpFormat.EPT)
    scene.cpu.enter_nested(None, Registers(maxphyaddr=46))
    scene.cpu.write(0x5000, 5)

    assert flags_after_use(scene.vm, scene.cpu, FLAGS[TdpFormat.EPT]) == {"read": 0, "write": 0}
    (root,) = roots(scene.vm.snapshot())
    assert (root.role.guest_mode, root.role.ad_disabled) == (1, 0)


@pytest.mark.spec("role.ad_disabled/ept-and-shadow-ept")
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_ept_from_before_haswell_has_ad_disabled(kernel: str, mmu: MmuKind) -> None:
    """A processor whose EPT has no flags: bits 8 and 9 of every spte stay 0, and KVM's own mark is there."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000}, tdp_format=TdpFormat.EPT_WITHOUT_AD)
    scene.cpu.write(0x5000, 5)
    scene.cpu.read(0x5000)

    entries = [spte for page in scene.vm.snapshot().pages for spte in page.sptes().values()]

    assert {(spte.raw & 3 << 8, spte.ad_type) for spte in entries} == {(0, 1)}
    assert roles(scene, "ad_disabled") == {1}
