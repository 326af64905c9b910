"""Guests over Intel's EPT: they see what guests over NPT see, by sptes in another format."""

import pytest

from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR4_LA57,
    CR4_PAE,
    CR4_PSE,
    EFER_LMA,
    ExtendedPaging,
    GeneralProtection,
    Mode,
    PageFault,
    Registers,
)
from mmu_model.hardware.tables import PageTables, frames_from
from mmu_model.kernels import KERNELS
from mmu_model.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.fault import (
    PFERR_FETCH_MASK,
    PFERR_GUEST_FINAL_MASK,
    PFERR_GUEST_PAGE_MASK,
    PFERR_PRESENT_MASK,
    PFERR_USER_MASK,
    PFERR_WRITE_MASK,
)
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.kvm.mmio import get_mmio_spte_generation, get_mmio_spte_gfn
from mmu_model.kvm.types import PG_LEVEL_2M
from mmu_model.kvm.vm import TdpFormat
from mmu_model.kvm.vmx import construct_eptp, ept_violation_error_code
from mmu_model.machine import Cpu, VirtualMachine
from mmu_model.snapshot import MmuKind

MIB = 1 << 20
DEVICE = 1 << 30
EPTS = [TdpFormat.EPT, TdpFormat.EPT_WITHOUT_AD]
CR4 = {
    Mode.THIRTY_TWO_BIT: CR4_PSE,
    Mode.PAE: CR4_PAE,
    Mode.FOUR_LEVEL: CR4_PAE,
    Mode.FIVE_LEVEL: CR4_PAE | CR4_LA57,
}

SUPPRESS_VE, MMU_PRESENT, AD_DISABLED = 1 << 63, 1 << 11, 1 << 52
MMU_WRITABLE, HOST_WRITABLE = 1 << 58, 1 << 57
DIRTY, ACCESSED, LARGE, WRITE_BACK_IGNORE_PAT = 1 << 9, 1 << 8, 1 << 7, 0x70
FRAME = (1 << 52) - (1 << 12)

pytestmark = pytest.mark.parametrize("kernel", KERNELS)
both_mmus = pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])


def machine(kernel: str, mmu: MmuKind, tdp_format: TdpFormat, *, level: int = 1) -> VirtualMachine:
    """A VM with 16 MiB."""
    vm = VirtualMachine(kernel, mmu, tdp_format=tdp_format)
    vm.add_memory(0, 16 * MIB, level=level)
    return vm


def leaf(vm: VirtualMachine, level: int, index: int) -> int:
    """The spte at that index of the only page of a level that maps memory from 0 on."""
    (page,) = (page for page in vm.snapshot().pages if page.role.level == level and page.gfn == 0)
    return page.sptes()[index].raw


def program(vm: VirtualMachine, mode: Mode) -> list[object]:
    """Reads, writes, fetches, faults and device accesses of a guest, and what came of each."""
    tables = PageTables(vm.memory, mode, frames_from(8 * MIB))
    for address, page, flags in (0x5000, 2 * MIB, 7), (0x6000, 0x5000, 5), (0x7000, DEVICE, 7):
        tables.map(address, page, flags=flags)
    cpu = vm.add_cpu(
        Registers(
            cr0=CR0_PE | CR0_PG,
            cr3=tables.root,
            cr4=CR4[mode],
            efer=EFER_LMA if mode.is_long else 0,
            maxphyaddr=46,
        )
    )
    vm.memory.write(0x5000, 55)
    seen: list[object] = [cpu.read(0x6000), cpu.fetch(0x6000)]
    cpu.write(0x5000, 33)
    cpu.write(0x7000, 77)
    seen += [vm.memory.read(2 * MIB), cpu.read(0x7000), cpu.read(0x7000), dict(vm.devices)]
    seen += [fault(cpu, 0x6000), fault(cpu, 0x9000)]
    cpu.mov_cr3(tables.root)
    seen.append(cpu.read(0x5000))
    size = 4 if mode is Mode.THIRTY_TWO_BIT else 8
    seen += [vm.memory.read(tables.entry_address(0x5000, level), size) & 0x7F for level in (1, 2)]
    return seen


def fault(cpu: Cpu, address: int) -> tuple[int, int]:
    """The fault of a write by a user."""
    with pytest.raises(PageFault) as caught:
        cpu.write(address, 1, cpl=3)
    return caught.value.error_code, caught.value.cr2


@both_mmus
@pytest.mark.parametrize("tdp_format", EPTS)
@pytest.mark.parametrize("mode", CR4)
def test_a_program_cannot_tell_ept_from_npt(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat, mode: Mode
) -> None:
    """Accessed and dirty flags of the guest's own tables included."""
    over_ept = program(machine(kernel, mmu, tdp_format), mode)

    assert over_ept == program(machine(kernel, mmu, TdpFormat.NPT), mode)
    assert over_ept[:4] == [55, 55, 33, 77]


@both_mmus
def test_the_bits_of_sptes(kernel: str, mmu: MmuKind) -> None:
    """R, W, X, write-back; 6.12 suppresses virtualization exceptions. The rest of KVM's bits are high up."""
    vm = machine(kernel, mmu, TdpFormat.EPT)
    vm.add_cpu().write(0x5000, 5)
    suppress = SUPPRESS_VE if kernel == "6.12" else 0

    table, page = leaf(vm, 2, 0), leaf(vm, 1, 5)

    assert table & ~FRAME == suppress | MMU_PRESENT | ACCESSED | 7
    bits = (
        suppress | MMU_WRITABLE | HOST_WRITABLE | MMU_PRESENT | DIRTY | ACCESSED | WRITE_BACK_IGNORE_PAT | 7
    )
    assert page & ~FRAME == bits


@both_mmus
def test_the_bits_of_sptes_without_accessed_and_dirty_flags(kernel: str, mmu: MmuKind) -> None:
    """KVM says so in the spte; and it maps nothing in advance, for it could not tell that from use."""
    vm = machine(kernel, mmu, TdpFormat.EPT_WITHOUT_AD)
    vm.add_cpu().write(0x5000, 5)
    suppress = SUPPRESS_VE if kernel == "6.12" else 0

    table, page = leaf(vm, 2, 0), leaf(vm, 1, 5)

    assert table & ~FRAME == suppress | AD_DISABLED | MMU_PRESENT | 7
    bits = suppress | MMU_WRITABLE | HOST_WRITABLE | AD_DISABLED | MMU_PRESENT | WRITE_BACK_IGNORE_PAT | 7
    assert page & ~FRAME == bits
    assert [list(page.sptes()) for page in vm.snapshot().pages if page.role.level == 1] == [[5]]


@both_mmus
def test_without_accessed_flags_an_access_is_noticed_by_its_fault(kernel: str, mmu: MmuKind) -> None:
    """An spte that was aged keeps R and X elsewhere, and permits nothing until somebody comes."""
    vm = machine(kernel, mmu, TdpFormat.EPT_WITHOUT_AD)
    cpu, masks, host = vm.add_cpu(), vm.kvm.masks, vm.host
    cpu.write(0x5000, 5)
    word = leaf(vm, 1, 5)
    aged = masks.mark_for_access_track(word)
    assert (masks.is_accessed(word), masks.is_accessed(aged)) == (True, False)
    assert aged == word & ~7 | 5 << 54
    (page,) = (page for page in vm.snapshot().pages if page.role.level == 1)
    host.memory.write((page.spt << 12) + 5 * 8, aged)
    vm.kvm.flush_remote_tlbs()
    taken = cpu.vcpu.stat["pf_taken"]

    assert cpu.read(0x5000) == 5
    assert cpu.vcpu.stat["pf_taken"] == taken + 1
    assert masks.is_accessed(leaf(vm, 1, 5))


@both_mmus
def test_read_only_memory_is_not_host_writable(kernel: str, mmu: MmuKind) -> None:
    """Neither W nor the bits that let a fault give it back."""
    vm = VirtualMachine(kernel, mmu, tdp_format=TdpFormat.EPT)
    vm.add_memory(0, MIB, writable=False)
    vm.add_cpu().read(0x5000)

    assert leaf(vm, 1, 5) & (MMU_WRITABLE | HOST_WRITABLE | 7) == 5


@both_mmus
def test_large_pages(kernel: str, mmu: MmuKind) -> None:
    """2 MiB at once."""
    vm = machine(kernel, mmu, TdpFormat.EPT, level=PG_LEVEL_2M)
    cpu = vm.add_cpu()
    cpu.write(4 * MIB, 5)

    assert leaf(vm, 2, 2) & (LARGE | 7) == LARGE | 7
    assert cpu.read(4 * MIB) == 5


@both_mmus
@pytest.mark.parametrize("tdp_format", EPTS)
def test_mmio_is_a_misconfiguration(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """W and X without R, the generation and the gfn, whatever the physical-address width."""
    vm = VirtualMachine(kernel, mmu, maxphyaddr=52, tdp_format=tdp_format)
    slot = vm.add_memory(0, MIB)
    cpu = vm.add_cpu()
    cpu.write(DEVICE, 9)
    (word,) = (
        spte.raw
        for page in vm.snapshot().pages
        for spte in page.sptes().values()
        if not spte.raw & MMU_PRESENT
    )

    assert word & (SUPPRESS_VE | 7) == 6
    assert get_mmio_spte_gfn(word) == DEVICE >> 12
    assert get_mmio_spte_generation(word) == vm.kvm.memslots[0].generation
    assert vm.kvm.masks.is_mmio(word)
    assert vm.kvm.masks.is_mmio(word | SUPPRESS_VE) == (kernel == "6.1")
    taken = cpu.vcpu.stat["pf_taken"]
    assert cpu.read(DEVICE) == 9
    assert cpu.vcpu.stat["pf_taken"] == taken
    vm.remove_memory(slot)
    vm.add_memory(DEVICE, MIB)
    assert cpu.read(DEVICE) == 0


@both_mmus
def test_dirty_logging_takes_away_w(kernel: str, mmu: MmuKind) -> None:
    """A page that was logged lacks W and may get it back; the violation of the next write logs it again."""
    vm = VirtualMachine(kernel, mmu, tdp_format=TdpFormat.EPT)
    slot = vm.add_memory(0, MIB, flags=KVM_MEM_LOG_DIRTY_PAGES)
    cpu = vm.add_cpu()
    cpu.write(0x5000, 1)
    assert kvm_vm_ioctl_get_dirty_log(vm.kvm, slot) == {5}
    assert leaf(vm, 1, 5) & (MMU_WRITABLE | HOST_WRITABLE | 7) == MMU_WRITABLE | HOST_WRITABLE | 5
    assert kvm_vm_ioctl_get_dirty_log(vm.kvm, slot) == set()

    cpu.write(0x5000, 2)

    assert kvm_vm_ioctl_get_dirty_log(vm.kvm, slot) == {5}


@pytest.mark.parametrize(
    ("max_level", "maxphyaddr", "length"), [(4, 52, 3), (5, 48, 3), (5, 49, 4)], ids=["4", "4 of 5", "5"]
)
def test_levels_are_as_many_as_the_guest_needs(
    kernel: str, max_level: int, maxphyaddr: int, length: int
) -> None:
    """Unlike NPT, where they are the host's."""
    vm = VirtualMachine(kernel, maxphyaddr=maxphyaddr, max_tdp_level=max_level, tdp_format=TdpFormat.EPT)
    vm.add_memory(0, MIB)
    cpu = vm.add_cpu()
    cpu.write(0x5000, 5)

    eptp = construct_eptp(cpu.vcpu)

    assert eptp & 0xFFF == 6 | length << 3 | 1 << 6
    assert ExtendedPaging(eptp).top_shift == 12 + 9 * (length + 1)
    assert cpu.read(0x5000) == 5


@pytest.mark.parametrize(
    ("qualification", "error_code"),
    [
        (0x181, PFERR_USER_MASK | PFERR_GUEST_FINAL_MASK),
        (0x182, PFERR_WRITE_MASK | PFERR_GUEST_FINAL_MASK),
        (0x184, PFERR_FETCH_MASK | PFERR_GUEST_FINAL_MASK),
        (0x1AA, PFERR_WRITE_MASK | PFERR_PRESENT_MASK | PFERR_GUEST_FINAL_MASK),
        (0x0A3, PFERR_USER_MASK | PFERR_WRITE_MASK | PFERR_PRESENT_MASK | PFERR_GUEST_PAGE_MASK),
    ],
)
def test_error_codes_of_violations(kernel: str, qualification: int, error_code: int) -> None:
    """Read, write, fetch; a page that permits something; a walk of the guest's tables."""
    assert ept_violation_error_code(qualification) == error_code


@both_mmus
def test_pdptes_are_loaded_with_cr3_and_not_at_every_entry(kernel: str, mmu: MmuKind) -> None:
    """A guest that changes one in memory sees nothing of it before MOV CR3, which checks them."""
    vm = machine(kernel, mmu, TdpFormat.EPT)
    tables = PageTables(vm.memory, Mode.PAE, frames_from(8 * MIB))
    tables.map(0x5000, 0x6000)
    cpu = vm.add_cpu(Registers(cr0=CR0_PE | CR0_PG, cr3=tables.root, cr4=CR4_PAE, maxphyaddr=46))
    cpu.write(0x5000, 5)
    entry = tables.entry_address(0x5000, 3)
    vm.memory.write(entry, 0)
    vm.remove_memory(vm.add_memory(32 * MIB, MIB))
    assert cpu.read(0x5000) == 5
    root = cpu.vcpu.mmu.root.hpa

    cpu.mov_cr3(tables.root)
    assert cpu.vcpu.mmu.root.hpa == root
    with pytest.raises(PageFault):
        cpu.read(0x5000)
    vm.memory.write(entry, 1 << 5 | 1)
    with pytest.raises(GeneralProtection):
        cpu.mov_cr3(tables.root)


@pytest.mark.parametrize("tdp_format", EPTS)
def test_shadow_paging_is_the_same_on_every_processor(kernel: str, tdp_format: TdpFormat) -> None:
    """Where EPT is not used its format is not either."""
    vms = [machine(kernel, MmuKind.SHADOW, kind) for kind in (tdp_format, TdpFormat.NPT)]
    for vm in vms:
        vm.add_cpu().write(0x5000, 5)

    assert vms[0].snapshot() == vms[1].snapshot()
