"""Where KVM's own walk of a guest's tables begins: entries of PAE paging that are in registers, wide addresses."""

import pytest

from conformance.scenes import (
    GIB,
    INNER_TABLES,
    MIB,
    NESTED_FORMATS,
    PAGE,
    STUCK,
    guest,
    inner_paging_guest,
    nested_guest,
    page_tables,
    paging_registers,
)
from mmu_model.hardware import Kind, Mode, PageFault, access
from mmu_model.kernels import KERNELS
from mmu_model.kvm.emulate import Instruction
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind

pytestmark = pytest.mark.parametrize("kernel", KERNELS)
nested_formats = pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
direct_mmus = pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda mmu: mmu.value)


@pytest.mark.parametrize(
    ("kind", "user", "error_code"),
    [
        (Kind.READ, False, 0),
        (Kind.READ, True, 4),
        (Kind.WRITE, False, 2),
        (Kind.WRITE, True, 6),
        (Kind.FETCH, False, 0x10),
        (Kind.FETCH, True, 0x14),
    ],
)
def test_what_no_pdpte_translates_is_not_present(
    kernel: str, mmu: MmuKind, kind: Kind, user: bool, error_code: int
) -> None:
    """Three of the four PDPTEs of the guest are absent; what its pages would permit does not matter."""
    scene = guest(kernel, mmu, "PAE", mapped={0x5000: 0x6000})
    for address in (GIB, 3 * GIB + 0x5000):
        with pytest.raises(PageFault) as caught:
            scene.cpu.run(Instruction(access(kind, user=user), address, 8, 1 if kind is Kind.WRITE else 0))
        assert (caught.value.error_code, caught.value.cr2) == (error_code, address)
    assert scene.reads(0x5000) == 0


@pytest.mark.parametrize("user", [False, True])
def test_tables_that_are_nowhere_have_no_entries(kernel: str, user: bool) -> None:
    """An entry of the guest leads to a table in no memory: with shadow paging that is as good as absent."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    assert scene.tables is not None
    scene.vm.memory.write(scene.tables.entry_address(0x5000, 2), 3 * GIB | 7)

    with pytest.raises(PageFault) as caught:
        scene.cpu.read(0x5000, cpl=3 if user else 0)

    assert (caught.value.error_code, caught.value.cr2) == (4 if user else 0, 0x5000)


def test_a_large_page_of_32_bit_paging_may_be_above_4_gib(kernel: str, mmu: MmuKind) -> None:
    """Bits 39:32 of its address are in bits 20:13 of the entry (SDM vol. 3, table 5-4: PSE-36)."""
    scene = guest(
        kernel,
        mmu,
        "32-bit",
        memory={5 * GIB: 4 * MIB},
        mapped={0x40_0000: GIB},
        mapped_level=2,
        maxphyaddr=40,
    )
    assert scene.tables is not None
    scene.vm.memory.write(scene.tables.entry_address(0x40_0000, 2), GIB | 1 << 13 | 0x87, 4)
    scene.vm.memory.write(5 * GIB + 0x5008, 77)

    assert scene.reads(0x40_5008) == 77


@nested_formats
@direct_mmus
def test_nested_guest_physical_addresses_need_not_be_canonical(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat
) -> None:
    """Four levels translate 48 bits, all of which a guest-physical address may have."""
    wide = 1 << 47 | 0x7000
    scene = inner_paging_guest(
        kernel, mmu, linear={0x5000: wide}, nested={wide: 0x6000}, maxphyaddr=52, tdp_format=tdp_format
    )
    scene.vm.memory.write(0x6000, 77)

    assert scene.reads(0x5000) == 77


@nested_formats
def test_wider_ones_lead_nowhere(kernel: str, tdp_format: TdpFormat) -> None:
    """KVM looks at the bits that select entries only, and mends what is at another address: in vain."""
    linear = {0x5000: 1 << 48 | 0x7000, 0x8000: 0x7000}
    scene = inner_paging_guest(
        kernel, MmuKind.TDP, linear=linear, nested={0x7000: 0x6000}, maxphyaddr=52, tdp_format=tdp_format
    )
    scene.vm.memory.write(0x6000, 77)

    assert scene.reads(0x5000) == STUCK
    assert scene.reads(0x8000) == 77


def test_nor_do_those_beyond_the_pdptes(kernel: str) -> None:
    """The nested tables of a hypervisor with PAE paging translate 32 bits."""
    own = {INNER_TABLES + n * PAGE: INNER_TABLES + n * PAGE for n in range(8)}
    scene = nested_guest(kernel, MmuKind.TDP, mapped={0x5000: 0x6000, **own}, paging="PAE")
    inner = page_tables(scene.vm, Mode.PAE, INNER_TABLES, [])
    inner.map(0x1000, 4 * GIB + 0x5000)
    inner.map(0x2000, 0x5000)
    scene.cpu.leave_nested()
    assert scene.tables is not None
    scene.cpu.enter_nested(scene.tables.root, paging_registers(Mode.PAE, inner.root))
    scene.vm.memory.write(0x6000, 77)

    assert scene.reads(0x1000) == STUCK
    assert scene.reads(0x2000) == 77
