"""Section "Virtual and real hardware supported"."""

import pytest

from conformance.computers import Computer
from conformance.features import FURTHER, NAMED, PROTECTION_KEYS, Feature
from conformance.looking import processor
from conformance.scenes import (
    MIB,
    NESTED_FORMATS,
    PAGING,
    Scene,
    guest,
    nested_guest,
    nested_root,
    paging_registers,
)
from mmu_model.hardware import (
    CR4_PGE,
    ExtendedPaging,
    LogicalProcessor,
    Mode,
    NestedPaging,
    PageFault,
    PhysicalMemory,
    Registers,
    SecondDimension,
)
from mmu_model.hardware.tables import PRESENT_WRITABLE_USER, PageTables, frames_from
from mmu_model.kvm.errors import KvmBug, KvmError
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind
from mmu_tool.cases import answer
from tests.oracle.case import Case
from tests.oracle.compare import compare, expected

HARDWARE = "virtual-and-real-hardware-supported/hardware/first-generation-and-two-dimensional"
FEATURES = "virtual-and-real-hardware-supported/hardware/emulated-modes-and-features"
NESTED = "virtual-and-real-hardware-supported/hardware/npt-for-guests"

GLOBAL = 1 << 8
EVERYWHERE = [None, *MmuKind]
"""On the processor itself, and under each MMU of KVM."""


SECOND_DIMENSION: dict[TdpFormat, type[SecondDimension]] = {
    TdpFormat.NPT: NestedPaging,
    TdpFormat.EPT: ExtendedPaging,
    TdpFormat.EPT_WITHOUT_AD: ExtendedPaging,
}
PAGED = [paging for paging in PAGING if paging != "off"]


@pytest.mark.spec(HARDWARE)
@pytest.mark.parametrize("paging", PAGED)
def test_guests_run_on_a_processor_without_a_second_dimension(kernel: str, paging: str) -> None:
    """One paging mode, one CR3: the guest's memory is where its tables say, though CR3 is KVM's."""
    scene = guest(kernel, MmuKind.SHADOW, paging, mapped={0x5000: 3 * MIB, 0x6000: 0x5000})

    assert runs_a_program(scene)
    running = processor(scene.cpu)
    assert running.second_dimension is None
    assert running.registers.cr3 == scene.cpu.vcpu.mmu.root.hpa


@pytest.mark.spec(HARDWARE)
@pytest.mark.parametrize("paging", PAGED)
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
@pytest.mark.parametrize("tdp_format", SECOND_DIMENSION)
def test_guests_run_over_npt_and_over_ept(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat, paging: str
) -> None:
    """The guest has a CR3 of its own, and the second dimension begins at KVM's root."""
    mapped = {0x5000: 3 * MIB, 0x6000: 0x5000}
    scene = guest(kernel, mmu, paging, mapped=mapped, tdp_format=tdp_format)

    assert runs_a_program(scene)
    running = processor(scene.cpu)
    assert isinstance(running.second_dimension, SECOND_DIMENSION[tdp_format])
    assert running.second_dimension.roots == (scene.cpu.vcpu.mmu.root.hpa,)
    assert running.registers == scene.cpu.vcpu.registers


@pytest.mark.spec(HARDWARE)
@pytest.mark.parametrize("guest_mode", [PAGING[paging] for paging in PAGED])
@pytest.mark.parametrize("host_mode", [PAGING[paging] for paging in PAGED])
def test_an_entry_switches_paging_mode_and_cr3_in_one_step(host_mode: Mode, guest_mode: Mode) -> None:
    """A processor without a second dimension: neither tables in the other's mode, nor the other's tables."""
    memory = PhysicalMemory(40)
    registers = []
    for mode, where, page in (host_mode, 0x10_0000, 0x5000), (guest_mode, 0x20_0000, 0x6000):
        tables = PageTables(memory, mode, frames_from(where))
        tables.map(0x4000_0000, page)
        memory.write(page, page)
        registers.append(paging_registers(mode, tables.root, 40))
    running = LogicalProcessor(memory, registers[0])
    seen = [running.read(0x4000_0000)]

    running.enter_guest(registers[1], None)
    seen.append(running.read(0x4000_0000))
    running.exit_guest()

    assert [*seen, running.read(0x4000_0000)] == [0x5000, 0x6000, 0x5000]


@pytest.mark.spec(HARDWARE)
def test_a_guest_can_change_its_paging_mode_without_a_second_dimension(kernel: str) -> None:
    """Edge: the next entry has the mode and the root for it; paging off, three levels, four, and back."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 3 * MIB})
    paged, off = scene.cpu.vcpu.registers, Registers(maxphyaddr=46)
    scene.vm.memory.write(3 * MIB, 33)
    scene.vm.memory.write(0x5000, 55)
    seen = []

    for registers in (paged, off, paged):
        scene.cpu.set_registers(registers)
        seen.append((scene.reads(0x5000), processor(scene.cpu).registers.mode))

    assert seen == [(33, Mode.FOUR_LEVEL), (55, Mode.PAE), (33, Mode.FOUR_LEVEL)]


def runs_a_program(scene: Scene) -> bool:
    """Whether two pages at 0x5000 and 0x6000, mapped to 3 MiB and 0x5000, are read and written as such."""
    memory = scene.vm.memory
    memory.write(3 * MIB, 33)
    memory.write(0x5000, 55)
    try:
        read = [scene.cpu.read(0x5000), scene.cpu.read(0x6000)]
        scene.cpu.write(0x5008, 44)
    except (PageFault, KvmBug):
        return False
    return read == [33, 55] and memory.read(3 * MIB + 8) == 44


def outcomes(features: tuple[Feature, ...]) -> dict[str, int | str]:
    """What is to come of each feature."""
    return {feature.name: feature.outcome for feature in features}


@pytest.mark.spec(FEATURES)
@pytest.mark.parametrize("mmu", EVERYWHERE, ids=lambda mmu: mmu.value if mmu else "processor")
def test_a_program_finds_the_features_that_are_named(kernel: str, mmu: MmuKind | None) -> None:
    """2, 3 and 4 levels, PAE, PSE, PSE-36, CR0.WP, pages of 1 GiB: under KVM as on the processor itself."""
    found = {feature.name: feature.try_on(Computer(kernel, mmu)) for feature in NAMED}

    assert found == outcomes(NAMED)


@pytest.mark.spec(FEATURES)
def test_a_global_page_survives_a_load_of_cr3() -> None:
    """The processor forgets other translations with MOV CR3; that of a global page with CR4.PGE only."""
    processor, entries = two_pages(GLOBAL, 0)
    assert [processor.read(address) for address in entries] == [5, 6]
    for entry in entries.values():
        processor.memory.write(entry, 0x7007)

    processor.mov_cr3(processor.registers.cr3)
    assert [processor.read(address) for address in entries] == [5, 7]

    processor.mov_cr4(processor.registers.cr4 & ~CR4_PGE)
    assert [processor.read(address) for address in entries] == [7, 7]


@pytest.mark.spec(FEATURES)
def test_without_cr4_pge_no_page_is_global() -> None:
    """The bit in the entry alone does nothing."""
    processor, entries = two_pages(GLOBAL, GLOBAL, cr4=0)
    assert [processor.read(address) for address in entries] == [5, 6]
    for entry in entries.values():
        processor.memory.write(entry, 0x7007)

    processor.mov_cr3(processor.registers.cr3)

    assert [processor.read(address) for address in entries] == [7, 7]


@pytest.mark.spec(FEATURES, tier="oracle")
def test_the_emulator_finds_the_same_features() -> None:
    """An emulator that nobody here wrote gives the same answers, accessed and dirty flags included."""
    cases = {feature.name: as_case(feature) for feature in NAMED}

    seen = {name: expected(case) for name, case in cases.items()}

    assert {name: f"#PF {a.error_code:#x}" if a.pa is None else a.pa for name, a in seen.items()} == outcomes(
        NAMED
    )
    differing = [compare(case, seen[name], answer) for name, case in cases.items()]
    assert [str(found) for found in differing if found] == []


@pytest.mark.spec(FEATURES, refutes=True)
@pytest.mark.parametrize("mmu", EVERYWHERE, ids=lambda mmu: mmu.value if mmu else "processor")
def test_a_program_finds_more_than_the_traditional_mmu(kernel: str, mmu: MmuKind | None) -> None:
    """Five levels, NX, SMEP and SMAP are there as well; with nested paging, protection keys."""
    features = FURTHER if mmu is MmuKind.SHADOW else (*FURTHER, PROTECTION_KEYS)

    found = {feature.name: feature.try_on(Computer(kernel, mmu)) for feature in features}

    assert found == outcomes(features)


@pytest.mark.spec(NESTED)
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
@pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
def test_a_guest_hypervisor_has_nested_page_tables(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """What its guest uses goes by the tables that it made, and not to the same address of its own memory."""
    scene = nested_guest(kernel, mmu, mapped={0x5000: 3 * MIB, 0x6000: 0x5000}, tdp_format=tdp_format)
    scene.vm.memory.write(3 * MIB, 33)
    scene.vm.memory.write(0x5000, 55)

    assert [scene.reads(0x5000), scene.reads(0x6000)] == [33, 55]


@pytest.mark.spec(NESTED)
def test_without_nested_paging_there_is_none_to_offer(kernel: str) -> None:
    """A host that does not use NPT has none for its guests either; so with EPT."""
    npt, ept = (
        guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x5000}, tdp_format=tdp_format)
        for tdp_format in NESTED_FORMATS
    )

    with pytest.raises(KvmError, match="without nested paging"):
        npt.cpu.enter_nested(0x5000, Registers())
    with pytest.raises(KvmError, match="without EPT"):
        ept.cpu.enter_nested(nested_root(0x5000, "4-level", TdpFormat.EPT), Registers())


def two_pages(*flags: int, cr4: int = CR4_PGE) -> tuple[LogicalProcessor, dict[int, int]]:
    """A processor with two pages at 0x5000 and 0x6000, which hold 5 and 6; a third one at 0x7000 holds 7.

    The entries of the two by address.
    """
    memory = PhysicalMemory(40)
    tables = PageTables(memory, Mode.FOUR_LEVEL, frames_from(0x10_0000))
    entries = {
        page: tables.map(page, page, flags=PRESENT_WRITABLE_USER | more)
        for page, more in zip((0x5000, 0x6000), flags, strict=True)
    }
    for page in (0x5000, 0x6000, 0x7000):
        memory.write(page, page >> 12)
    registers = paging_registers(Mode.FOUR_LEVEL, tables.root, 40)
    processor = LogicalProcessor(memory, registers)
    processor.mov_cr4(registers.cr4 | cr4)
    return processor, entries


def as_case(feature: Feature) -> Case:
    """A feature as the oracle wants it."""
    registers = feature.registers
    return Case(
        id=feature.name,
        maxphyaddr=registers.maxphyaddr,
        cr0=registers.cr0,
        cr3=registers.cr3,
        cr4=registers.cr4,
        efer=registers.efer,
        pkru=registers.pkru,
        ac=registers.ac,
        cpl=3 if feature.user else 0,
        access=feature.kind.value,
        va=feature.address,
        memory={where: (word, feature.word_size) for where, word in feature.words.items()},
    )
