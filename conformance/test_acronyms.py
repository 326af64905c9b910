"""Section "Acronyms": each address and entry is what its name says, on the way of an access."""

import pytest

from conformance.looking import CountedWords, backing, links, processor, reached
from conformance.scenes import (
    GIB,
    MIB,
    NESTED_FORMATS,
    PAGE,
    Scene,
    guest,
    inner_paging_guest,
    paging_registers,
)
from mmu_model.hardware import (
    CR4_PAE,
    EFER_LMA,
    PAGE_SHIFT,
    ExtendedPaging,
    Kind,
    LinearPaging,
    Mode,
    NestedPaging,
    PhysicalMemory,
    SecondDimension,
    access,
    walk_nested,
)
from mmu_model.hardware.ept import EPTP_WALK_LENGTH_4, EPTP_WRITE_BACK
from mmu_model.hardware.tables import PageTables, frames_from
from mmu_model.kvm.rmap import pte_list
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind
from mmu_model.snapshot.spte import FRAME

VALUE = 0x1122_3344_5566_7788
READ = access(Kind.READ)


@pytest.mark.spec("acronyms/ngva/meaning")
@pytest.mark.spec("acronyms/ngpa/meaning")
@pytest.mark.spec("acronyms/gpa/meaning")
@pytest.mark.spec("acronyms/gfn/meaning")
@pytest.mark.spec("acronyms/hva/meaning")
@pytest.mark.spec("acronyms/hpa/meaning")
@pytest.mark.spec("acronyms/pfn/meaning")
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
@pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
def test_an_access_of_a_nested_guest_passes_through_all_of_them(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat
) -> None:
    """From ngva to ngpa by the inner guest's tables, to gpa by the nested ones, to hva by the memslot, to hpa
    by the process; frame numbers are addresses without their low 12 bits."""
    ngva, ngpa, gpa = 0x1_0678, 0x2_0678, 0x3_0678
    elsewhere = {ngva & -PAGE: 0x5_0000}
    scene = inner_paging_guest(
        kernel,
        mmu,
        linear={ngva & -PAGE: ngpa & -PAGE},
        nested={ngpa & -PAGE: gpa & -PAGE, **elsewhere},
        tdp_format=tdp_format,
    )
    (slot,) = scene.vm.kvm.memslots[0]
    hva = slot.userspace_addr + gpa
    hpa = scene.vm.process.hpa(hva)
    assert hpa is not None and len({ngva, ngpa, gpa, hva, hpa}) == 5
    scene.vm.host.memory.write(hpa, VALUE)

    assert scene.reads(ngva) == VALUE

    assert processor(scene.cpu).translate(ngva, READ) == hpa
    (leaf,) = (leaf for leaf in reached(scene.vm.snapshot()) if leaf.offset == ngpa >> 12)
    assert leaf.spte.pfn == hpa >> 12
    (shadowed,) = (e.shadowed_translation for e in leaf.holder.entries if e.raw == leaf.spte.raw)
    assert shadowed is not None and shadowed >> 12 == gpa >> 12


@pytest.mark.spec("acronyms/gva/meaning")
@pytest.mark.parametrize("paging", ["32-bit", "PAE", "4-level", "5-level"])
def test_a_program_uses_gvas(kernel: str, mmu: MmuKind, paging: str) -> None:
    """The address that a program of a guest uses is looked up in the guest's tables first."""
    gva, gpa = 0x40_0678, 0x7678
    scene = guest(kernel, mmu, paging, mapped={gva & -PAGE: gpa & -PAGE})
    scene.vm.memory.write(gpa, VALUE)

    assert scene.reads(gva) == VALUE
    assert processor(scene.cpu).translate(gva, READ) == scene.vm.memory.hpa(gpa)


@pytest.mark.spec("acronyms/gpte/meaning")
@pytest.mark.spec("acronyms/spte/meaning")
@pytest.mark.parametrize("paging", ["32-bit", "PAE", "4-level", "5-level"])
def test_gptes_refer_to_gfns_and_sptes_to_pfns(kernel: str, paging: str) -> None:
    """The guest's entry has the number of the guest's frame; KVM's entry, which is what the processor goes
    by, that of the host's frame behind it."""
    gva, gfn = 0x40_0000, 0x7
    scene = shadowed(kernel, paging, gva, gfn)

    (leaf,) = reached(scene.vm.snapshot())

    assert leaf.offset == gva >> 12
    assert leaf.spte.pfn == backing(scene.vm, gfn) != gfn
    assert processor(scene.cpu).translate(gva, READ) == leaf.spte.pfn << 12
    gpte = scene.vm.memory.read(entry_address(scene, gva), 4 if paging == "32-bit" else 8)
    assert (gpte & FRAME) >> 12 == gfn


@pytest.mark.spec("acronyms/spte/meaning")
def test_sptes_refer_to_pfns_in_every_mmu(kernel: str, mmu: MmuKind) -> None:
    """Wherever the processor ends up, it was sent there by an entry of KVM with that frame."""
    scene = guest(kernel, mmu)
    pages = [0x5000, 3 * MIB, 9 * MIB]
    for page in pages:
        scene.vm.memory.write(page, page)

    assert [scene.reads(page) for page in pages] == pages

    pfns = {leaf.offset << 12: leaf.spte.pfn for leaf in reached(scene.vm.snapshot())}

    assert {page: pfns[page] for page in pages} == {page: backing(scene.vm, page >> 12) for page in pages}
    assert [processor(scene.cpu).translate(page, READ) >> 12 for page in pages] == [
        pfns[page] for page in pages
    ]


@pytest.mark.spec("acronyms/pte/meaning")
def test_a_pte_is_an_entry_of_any_level(kernel: str) -> None:
    """What `parent_ptes` has are entries of paging structures of each level, not of page tables alone."""
    scene = shadowed(kernel, "5-level", 0x40_0000, 0x7)

    found = links(scene.vm)

    assert {link.parent.role.level for link in found} == {5, 4, 3, 2}
    kept = {link.parent.role.level: pte_list(scene.vm.host, link.child.parent_ptes) for link in found}
    assert kept == {link.parent.role.level: [link.sptep] for link in found}


@pytest.mark.spec("acronyms/tdp/meaning")
@pytest.mark.parametrize("vendor", ["NPT", "EPT"])
def test_tdp_is_what_npt_and_ept_have_in_common(vendor: str) -> None:
    """A walk in a second set of tables for each guest-physical address: the guest's four tables and its page.

    24 references to memory for four levels over four. Where the guest's tables seem to be, without the second
    translation, there are others, which lead to another page.
    """
    memory = PhysicalMemory(46)
    second = PageTables(memory, Mode.FOUR_LEVEL, frames_from(0x20_0000))
    for page in (0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000):
        second.map(page, GIB + page)
    for offset, page in (0, 0x6027), (GIB, 0x5027):
        for table, entry in (0x1008, 0x2027), (0x2008, 0x3027), (0x3010, 0x4027), (0x4018, page):
            memory.write(offset + table, entry)
    words = CountedWords(memory)
    registers = paging_registers(Mode.FOUR_LEVEL, 0x1000)

    found = walk_nested(
        words,
        LinearPaging(registers),
        two_dimensions(vendor, second.root),
        READ,
        1 << 39 | 1 << 30 | 0x40_3678,
    )

    assert (found.guest.address, found.host.address) == (0x5678, GIB + 0x5678)
    assert words.reads == 24


def two_dimensions(vendor: str, root: int) -> SecondDimension:
    """Nested paging of either vendor, with 4 levels."""
    if vendor == "NPT":
        return NestedPaging(root, cr4=CR4_PAE, efer=EFER_LMA, maxphyaddr=46)
    return ExtendedPaging(root | EPTP_WRITE_BACK | EPTP_WALK_LENGTH_4, maxphyaddr=46)


def shadowed(kernel: str, paging: str, gva: int, gfn: int) -> Scene:
    """A guest under shadow paging that has used the one address that it maps."""
    scene = guest(kernel, MmuKind.SHADOW, paging, mapped={gva: gfn << PAGE_SHIFT})
    scene.reads(gva)
    return scene


def entry_address(scene: Scene, gva: int) -> int:
    """Where the guest's entry for an address is in its memory."""
    assert scene.tables is not None
    return scene.tables.entry_address(gva, 1)
