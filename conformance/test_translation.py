"""Section "Translation"."""

import pytest

from conformance.looking import backing, reached, roots, translations
from conformance.scenes import (
    MIB,
    NESTED_FORMATS,
    NESTED_TABLES,
    PAGE,
    STUCK,
    TABLES,
    Scene,
    guest,
    inner_paging_guest,
    nested_guest,
    page_tables,
    paging_registers,
)
from mmu_model.hardware import Mode, Registers
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind, Snapshot

ALL_PAGING = ["off", "32-bit", "PAE", "4-level", "5-level"]
WITH_PAGING = ALL_PAGING[1:]

LINEAR = 0x40_0000
"""Where the guest has its memory, if it has paging; without paging that is other memory."""
MAPPED = {LINEAR: 0x7000, LINEAR + PAGE: 0x5000, LINEAR + 2 * PAGE: 9 * MIB}


def numbered(scene: Scene, *pages: int) -> None:
    """Write into each page of the guest, at 8, which page it is."""
    for page in pages:
        scene.vm.memory.write(page + 8, page)


@pytest.mark.spec("translation/primary-job/programs-the-processor")
@pytest.mark.parametrize("paging", ALL_PAGING)
def test_the_processor_translates_by_what_kvm_wrote(kernel: str, mmu: MmuKind, paging: str) -> None:
    """The first access makes KVM write tables. By those the processor goes from then on, without KVM."""
    scene = guest(kernel, mmu, paging, mapped={LINEAR: LINEAR})
    numbered(scene, LINEAR)
    assert scene.reads(LINEAR + 8) == LINEAR
    exits = scene.cpu.vcpu.stat.total()
    assert exits > 0

    seen = [scene.reads(LINEAR + 8), scene.cpu.fetch(LINEAR + 8), scene.reads(LINEAR + 16)]

    assert seen == [LINEAR, LINEAR, 0]
    assert scene.cpu.vcpu.stat.total() == exits


@pytest.mark.spec("translation/guest-paging-off/gpa-to-hpa")
def test_without_paging_addresses_are_guest_physical(kernel: str, mmu: MmuKind) -> None:
    """What the guest uses is the address in its memory; where the host has that is the one translation."""
    scene = guest(kernel, mmu)
    pages = [0x5000, LINEAR, 9 * MIB]
    numbered(scene, *pages)

    assert [scene.reads(page + 8) for page in pages] == pages
    assert all(backing(scene.vm, page >> 12) != page >> 12 for page in pages)


@pytest.mark.spec("translation/guest-paging-off/gpa-to-hpa")
@pytest.mark.parametrize("paging", WITH_PAGING)
def test_turning_paging_off_makes_them_so(kernel: str, mmu: MmuKind, paging: str) -> None:
    """The tables that the guest had do not count any more."""
    scene = guest(kernel, mmu, paging, mapped=MAPPED)
    numbered(scene, LINEAR, 0x7000)
    assert scene.reads(LINEAR + 8) == 0x7000

    scene.cpu.set_registers(Registers(maxphyaddr=46))

    assert scene.reads(LINEAR + 8) == LINEAR


@pytest.mark.spec("translation/guest-paging-on/gva-to-gpa-to-hpa")
@pytest.mark.parametrize("paging", WITH_PAGING)
def test_with_paging_the_guests_tables_come_first(kernel: str, mmu: MmuKind, paging: str) -> None:
    """From linear to guest-physical addresses by the guest's tables, from there to where the host has them."""
    scene = guest(kernel, mmu, paging, mapped=MAPPED)
    numbered(scene, *MAPPED, *MAPPED.values())

    assert {address: scene.reads(address + 8) for address in MAPPED} == MAPPED
    assert all(backing(scene.vm, page >> 12) != page >> 12 for page in MAPPED.values())


@pytest.mark.spec("translation/nested/ngva-to-ngpa-to-gpa-to-hpa")
@pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_a_nested_guest_has_three_translations(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """By its own tables, by those of its hypervisor, and by the host's: each leads somewhere else."""
    linear = {0x1_0000: 0x2_0000, 0x1_1000: 0x2_1000}
    nested = {0x2_0000: 0x3_0000, 0x2_1000: 0x4_0000, 0x1_0000: 0x5_0000, 0x1_1000: 0x5_1000}
    scene = inner_paging_guest(kernel, mmu, linear=linear, nested=nested, tdp_format=tdp_format)
    numbered(scene, *linear, *linear.values(), *nested.values())

    assert {address: scene.reads(address + 8) for address in linear} == {
        0x1_0000: 0x3_0000,
        0x1_1000: 0x4_0000,
    }
    assert backing(scene.vm, 0x30) not in (None, 0x30)


@pytest.mark.spec("translation/nested/ngva-to-ngpa-to-gpa-to-hpa")
def test_without_nested_paging_the_hypervisor_makes_two_steps_one(kernel: str) -> None:
    """Edge: where there is no nested paging to use, the guest hypervisor has to put the first two steps into
    the one table that its guest runs on. That leads from ngva to gpa, and is shadowed like any other."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={LINEAR: 0x3000})
    numbered(scene, 0x3000, *MAPPED.values())
    assert scene.reads(LINEAR + 8) == 0x3000
    combined = page_tables(scene.vm, Mode.FOUR_LEVEL, NESTED_TABLES, [])
    for ngva, gpa in MAPPED.items():
        combined.map(ngva, gpa)
    registers = paging_registers(Mode.FOUR_LEVEL, combined.root)
    with pytest.raises(KvmError):
        scene.cpu.enter_nested(TABLES, registers)

    scene.cpu.enter_nested(None, registers)

    assert {address: scene.reads(address + 8) for address in MAPPED} == MAPPED
    assert scene.cpu.vcpu.guest_mode and translations(scene.cpu) == 1


@pytest.mark.spec("translation/direct-or-shadow/encode-one-to-three")
@pytest.mark.parametrize(
    ("mmu", "paging", "needed", "made"),
    [
        (MmuKind.SHADOW, "off", 1, 1),
        (MmuKind.SHADOW, "4-level", 2, 1),
        (MmuKind.TDP, "off", 1, 1),
        (MmuKind.TDP, "4-level", 2, 2),
        (MmuKind.TDP, "nested", 3, 2),
        (MmuKind.DIRECT, "off", 1, 1),
        (MmuKind.DIRECT, "4-level", 2, 2),
        (MmuKind.DIRECT, "nested", 3, 2),
    ],
)
@pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
def test_the_processor_makes_no_more_translations_than_are_needed(
    kernel: str, mmu: MmuKind, paging: str, needed: int, made: int, tdp_format: TdpFormat
) -> None:
    """One to three are needed; a processor makes one, or two with nested paging. KVM's tables combine them.

    The page that the guest means is `needed` steps away, each of which leads to another address.
    """
    if paging == "nested":
        scene = inner_paging_guest(
            kernel,
            mmu,
            linear={LINEAR: LINEAR + PAGE},
            nested={LINEAR + PAGE: 0x7000},
            tdp_format=tdp_format,
        )
    else:
        scene = guest(kernel, mmu, paging, mapped=MAPPED, tdp_format=tdp_format)
    page = LINEAR if needed == 1 else 0x7000
    numbered(scene, page)

    assert scene.reads(LINEAR + 8) == page
    assert translations(scene.cpu) == made <= needed
    (spte,) = {
        leaf.spte for leaf in reached(scene.vm.snapshot()) if leaf.spte.pfn == backing(scene.vm, page >> 12)
    }
    assert spte.pfn != page >> 12


@pytest.mark.spec("translation/direct-or-shadow/direct-when-they-match")
@pytest.mark.parametrize(
    ("mmu", "paging", "direct"),
    [
        (MmuKind.SHADOW, "off", True),
        *((MmuKind.SHADOW, paging, False) for paging in WITH_PAGING),
        *((mmu, paging, True) for mmu in (MmuKind.TDP, MmuKind.DIRECT) for paging in WITH_PAGING),
        (MmuKind.TDP, "nested", False),
        (MmuKind.DIRECT, "nested", False),
    ],
)
@pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
def test_it_is_direct_if_the_processor_makes_all_translations(
    kernel: str, mmu: MmuKind, paging: str, direct: bool, tdp_format: TdpFormat
) -> None:
    """Then each of KVM's entries stands for the guest-physical address of its place, whatever the guest has
    in its tables; otherwise for what these say."""
    scene = (
        nested_guest(kernel, mmu, mapped=MAPPED, tdp_format=tdp_format)
        if paging == "nested"
        else guest(kernel, mmu, paging, mapped=MAPPED, tdp_format=tdp_format)
    )

    assert all(scene.reads(address) != STUCK for address in MAPPED)

    snapshot = scene.vm.snapshot()
    assert is_linear(scene, snapshot) is direct
    assert {page.role.direct for page in roots(snapshot)} == {int(direct)}


@pytest.mark.spec("translation/direct-or-shadow/direct-when-they-match")
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_it_is_direct_as_well_if_it_could_make_more(kernel: str, mmu: MmuKind) -> None:
    """Edge: one translation is needed and two could be made, so they do not match; it is direct all the same."""
    scene = guest(kernel, mmu)
    scene.reads(LINEAR)

    snapshot = scene.vm.snapshot()
    assert translations(scene.cpu) == 1
    assert is_linear(scene, snapshot)
    assert {page.role.direct for page in roots(snapshot)} == {1}


def is_linear(scene: Scene, snapshot: Snapshot) -> bool:
    """Whether every leaf leads to the memory at the guest-physical address that it is reached by."""
    found = [(leaf.spte.pfn, backing(scene.vm, leaf.offset)) for leaf in reached(snapshot)]
    assert found
    return all(pfn == expected for pfn, expected in found)
