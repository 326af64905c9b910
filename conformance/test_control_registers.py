"""Section "Reaction to events": what a guest's writes to its control registers do to unsync pages and roots."""

import pytest

from conformance.looking import roots, structs
from conformance.pictures import Camera
from conformance.remapping import HERE, NEW, OLD, OTHER, page_at, remappable
from conformance.scenes import MIB, PAGING, USED, Editor, Scene, guest, page_tables
from mmu_model.hardware import CR0_PG, CR0_WP, CR4_PAE, CR4_PCIDE, CR4_SMEP, EFER_NXE, Mode
from mmu_model.hardware.control import CR3_NO_FLUSH
from mmu_model.snapshot import MmuKind


def second_tables(scene: Editor) -> int:
    """The root of other tables, which have HERE at 0x5000 by the same last table as the first."""
    assert scene.tables is not None
    second = page_tables(scene.vm, Mode.FOUR_LEVEL, 40 * MIB, [])
    where = second.entry_address(0x5000, 2)
    scene.vm.memory.write(where, scene.vm.memory.read(scene.tables.entry_address(0x5000, 2)))
    return second.root


@pytest.mark.spec("reaction-to-events/mov-cr3-roots/looked-up")
def test_mov_to_cr3_finds_the_roots_that_there_are(kernel: str, picture: Camera) -> None:
    """To other tables and back, and once more: after the first time there is nothing to make."""
    scene = remappable(kernel, 0x5000)
    first, second = scene.cpu.vcpu.registers.cr3, second_tables(scene)
    seen = []
    for root in (first, second, first, second):
        scene.cpu.mov_cr3(root)
        assert scene.reads(0x5000) == OLD
        (loaded,) = roots(scene.vm.snapshot())
        seen.append((loaded.gfn << 12, loaded.id, len(structs(scene.vm))))

    assert [gfn for gfn, _, _ in seen] == [first, second, first, second]
    assert seen[2][1] == seen[0][1]
    assert seen[1][1:] == seen[3][1:]
    picture("Roots that MOV to CR3 goes between", scene.vm)


@pytest.mark.spec("reaction-to-events/mov-cr3-roots/looked-up")
def test_mov_to_cr3_finds_a_root_that_the_vcpu_has_forgotten(kernel: str) -> None:
    """It remembers three besides the one that is loaded. After five others the pages of the first are still there,
    and are taken again."""
    scene = remappable(kernel, 0x5000)
    first = scene.cpu.vcpu.registers.cr3
    (before_it,) = roots(scene.vm.snapshot())
    for number in range(5):
        other = page_tables(scene.vm, Mode.FOUR_LEVEL, (40 + number) * MIB, [])
        other.map(0x5000, HERE)
        scene.cpu.mov_cr3(other.root)
        assert scene.reads(0x5000) == OLD
    remembered = {root.pgd for root in scene.cpu.vcpu.mmu.prev_roots}
    pages = len(structs(scene.vm))

    scene.cpu.mov_cr3(first)
    assert scene.reads(0x5000) == OLD

    (loaded,) = roots(scene.vm.snapshot())
    assert first not in remembered
    assert (loaded.id, len(structs(scene.vm))) == (before_it.id, pages)


@pytest.mark.spec("reaction-to-events/mov-cr3-sync/newly-reachable")
def test_mov_to_cr3_synchronizes_what_is_reached_now(kernel: str) -> None:
    """A table of both address spaces was changed under the first; under the second the change is seen."""
    scene = remappable(kernel, 0x5000)
    second = second_tables(scene)
    scene.cpu.mov_cr3(second)
    assert scene.reads(0x5000) == OLD
    scene.cpu.mov_cr3(scene.frames[0])
    scene.edit(0x5000, OTHER | USED)

    scene.cpu.mov_cr3(second)

    assert scene.reads(0x5000) == NEW


def with_two_pcids(kernel: str) -> tuple[Editor, int, int]:
    """A guest that has used a table in two address spaces, the second with a PCID of its own, and has changed it in the
    first; what CR3 is for each."""
    scene = remappable(kernel, 0x5000)
    first, second = scene.cpu.vcpu.registers.cr3, second_tables(scene) | 1
    scene.cpu.mov_cr4(scene.cpu.vcpu.registers.cr4 | CR4_PCIDE)
    for root in (second, first):
        scene.cpu.mov_cr3(root)
        assert scene.reads(0x5000) == OLD
    scene.edit(0x5000, OTHER | USED)
    assert page_at(scene, 0x5000).unsync
    return scene, first, second


@pytest.mark.spec("reaction-to-events/mov-cr3-sync/newly-reachable")
def test_not_if_the_guest_keeps_its_tlb(kernel: str) -> None:
    """Edge: bit 63 of what goes to CR3 says that nothing is to be flushed, so a root that the vCPU remembers is taken as
    it is. Without the bit what it reaches is in step."""
    scene, _, second = with_two_pcids(kernel)

    scene.cpu.mov_cr3(second | CR3_NO_FLUSH)
    assert scene.reads(0x5000) == OLD
    kept = page_at(scene, 0x5000).unsync
    scene.cpu.mov_cr3(second)

    assert scene.reads(0x5000) == NEW
    assert (kept, page_at(scene, 0x5000).unsync) == (True, False)


@pytest.mark.spec("reaction-to-events/mov-cr3-sync/newly-reachable")
def test_but_if_the_vcpu_has_forgotten_the_root(kernel: str) -> None:
    """Edge: the same bit, after four other address spaces. The root is the same page as before, but the vCPU gets it
    anew: what it reaches is synchronized all the same."""
    scene, _, second = with_two_pcids(kernel)
    for number in range(4):
        other = page_tables(scene.vm, Mode.FOUR_LEVEL, (44 + number) * MIB, [])
        scene.cpu.mov_cr3(other.root | 2 + number)
        assert scene.reads(0x5000) == "page fault at 0x5000, error code 0x0"
    assert page_at(scene, 0x5000).unsync

    scene.cpu.mov_cr3(second | CR3_NO_FLUSH)

    assert scene.reads(0x5000) == NEW
    assert not page_at(scene, 0x5000).unsync


@pytest.mark.spec("reaction-to-events/mov-cr0-cr4-efer-context/set-up")
def test_a_new_mode_gets_another_context(kernel: str) -> None:
    """Paging off: direct roots for guest-physical addresses. SMEP without CR0.WP: another role."""
    scene = guest(kernel, MmuKind.SHADOW, "PAE", mapped={0x5000: 0x6000}, cr0_wp=False)
    scene.reads(0x5000)
    before_it = scene.cpu.vcpu.mmu.root_role
    registers = scene.cpu.vcpu.registers

    scene.cpu.mov_cr4(registers.cr4 | CR4_SMEP)
    scene.reads(0x5000)
    assert scene.cpu.vcpu.mmu.root_role == before_it.replace(smep_andnot_wp=1)

    scene.vm.memory.write(0x5000, 5)
    scene.cpu.mov_cr0(registers.cr0 & ~CR0_PG)
    assert scene.reads(0x5000) == 5
    assert scene.cpu.vcpu.mmu.root_role.direct == 1


@pytest.mark.spec("reaction-to-events/mov-cr0-cr4-efer-context/set-up")
def test_efer_changes_how_the_guests_tables_are_walked(kernel: str) -> None:
    """Entries with bit 63. Without EFER.NXE it is reserved, and the guest gets the fault for that; with it what they map
    may be read."""
    mapped = {0x5000: 0x6000, 0x4_0000: 0x6000}
    scene = guest(kernel, MmuKind.SHADOW, "PAE", mapped=mapped, mapped_flags=USED | 1 << 63)
    scene.vm.memory.write(0x6000, 5)
    efer = scene.cpu.vcpu.registers.efer
    seen = [(scene.reads(0x5000), scene.cpu.vcpu.mmu.cpu_role.base.efer_nx)]
    for value in (efer & ~EFER_NXE, efer):
        scene.cpu.wrmsr_efer(value)
        seen.append((scene.reads(0x4_0000), scene.cpu.vcpu.mmu.cpu_role.base.efer_nx))

    assert seen == [(5, 1), ("page fault at 0x40000, error code 0x9", 0), (5, 1)]


@pytest.mark.spec("reaction-to-events/mov-cr0-cr4-efer-context/set-up")
@pytest.mark.parametrize("paging", ["32-bit", "PAE"])
def test_cr4_changes_which_tables_the_guest_has(kernel: str, paging: str) -> None:
    """With paging off the guest changes CR4.PAE; then it has tables of the other format, and their shadow."""
    formats = {"32-bit": (1, 2), "PAE": (0, 2)}
    scene = guest(kernel, MmuKind.SHADOW, paging, mapped={0x5000: 0x6000})
    scene.vm.memory.write(0x6000, 5)
    scene.reads(0x5000)
    other = next(name for name in formats if name != paging)
    cr0, mode = scene.cpu.vcpu.registers.cr0, PAGING[other]
    tables = page_tables(scene.vm, mode, 40 * MIB, [])
    tables.map(0x5000, 0x6000)
    assert shape(scene) == {formats[paging]}

    scene.cpu.mov_cr0(cr0 & ~CR0_PG)
    scene.cpu.mov_cr4(scene.cpu.vcpu.registers.cr4 ^ CR4_PAE)
    scene.cpu.mov_cr3(tables.root)
    scene.cpu.mov_cr0(cr0)

    assert scene.reads(0x5000) == 5
    assert shape(scene) == {formats[other]}


def shape(scene: Scene) -> set[tuple[int, int]]:
    """role.has_4_byte_gpte and role.level of the roots that are loaded."""
    return {(page.role.has_4_byte_gpte, page.role.level) for page in roots(scene.vm.snapshot())}


@pytest.mark.spec("reaction-to-events/mov-cr0-cr4-efer-roots/looked-up")
def test_a_mode_that_comes_back_finds_its_roots(kernel: str, picture: Camera) -> None:
    """CR0.WP off and on again: the same pages as before."""
    scene = remappable(kernel, 0x5000)
    cr0 = scene.cpu.vcpu.registers.cr0
    (first,) = roots(scene.vm.snapshot())
    scene.cpu.mov_cr0(cr0 & ~CR0_WP)
    scene.reads(0x5000)
    (other,) = roots(scene.vm.snapshot())

    scene.cpu.mov_cr0(cr0)
    scene.reads(0x5000)

    (again,) = roots(scene.vm.snapshot())
    assert other.id != first.id
    assert again.id == first.id
    picture("CR0.WP changed and changed back", scene.vm)


@pytest.mark.spec("reaction-to-events/mov-cr0-cr4-efer-sync/newly-reachable")
def test_a_mode_that_comes_back_sees_what_changed_meanwhile(kernel: str) -> None:
    """The table was changed with CR0.WP off; with it on the pages for that are in step again."""
    scene = remappable(kernel, 0x5000)
    cr0 = scene.cpu.vcpu.registers.cr0
    scene.cpu.mov_cr0(cr0 & ~CR0_WP)
    assert scene.reads(0x5000) == OLD
    scene.edit(0x5000, OTHER | USED)

    scene.cpu.mov_cr0(cr0)

    assert scene.reads(0x5000) == NEW
