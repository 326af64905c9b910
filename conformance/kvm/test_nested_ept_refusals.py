"""A hypervisor on Intel's processors: PDPTEs, and what is refused; then the VM is as it was before."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from conformance.kvm.nested_scenes import (
    fault,
    paging_inner_guest,
)
from conformance.nested_ept import (
    EPT_USED,
    R,
    nested_ept_guest,
)
from conformance.scenes import MIB, paging_registers
from mmu_model.hardware import (
    EptViolation,
    GeneralProtection,
    Mode,
    Registers,
)
from mmu_model.hardware.ept import EPTP_ACCESSED_DIRTY, EPTP_WALK_LENGTH_4, EPTP_WALK_LENGTH_5
from mmu_model.kernels import KERNELS
from mmu_model.kvm.errors import KvmError, VmEntryFailure
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

both_mmus = pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda kind: kind.value)
pytestmark = pytest.mark.parametrize("kernel", KERNELS)


def test_pdptes_come_from_the_vmcs(kernel: str) -> None:
    """And from memory, through EPT12, when the inner guest loads CR3."""
    scene = paging_inner_guest(kernel, Mode.PAE)
    scene.vm.memory.write(0x6000, 66)
    cr3 = scene.inner.cr3
    scene.vm.memory.write(cr3, 0)
    assert scene.outcome("read", 0x1000) == 66

    scene.cpu.mov_cr3(cr3)

    assert fault(scene, "read", 0x1000).args == (0, 0x1000)
    scene.edit(cr3 & ~0xFFF, 0)
    with pytest.raises(EptViolation) as caught:
        scene.cpu.mov_cr3(cr3)
    assert caught.value.args == (R, cr3)
    scene.vm.memory.write(cr3, 7 << 5 | 1)
    scene.edit(cr3 & ~0xFFF, cr3 & ~0xFFF | EPT_USED)
    with pytest.raises(GeneralProtection):
        scene.cpu.mov_cr3(cr3)


def state(vm: VirtualMachine) -> object:
    """All that an observer sees."""
    return vm.snapshot()


@both_mmus
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda eptp: eptp & ~7 | 2, "memory type"),
        (lambda eptp: eptp & ~7, "KVM offers memory type 6"),
        (lambda eptp: eptp & ~0x38 | 2 << 3, "walk length"),
        (lambda eptp: eptp & ~0x38 | 5 << 3, "walk length"),
        (lambda eptp: eptp | 1 << 7, "bits 11:7"),
        (lambda eptp: eptp | 1 << 11, "bits 11:7"),
        (lambda eptp: eptp | 1 << 46, "bits above 45"),
    ],
)
def test_an_impossible_eptp(kernel: str, mmu: MmuKind, change: Any, message: str) -> None:
    """VM entry fails, and the hypervisor goes on; so does INVEPT."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000})
    scene.cpu.read(0x5000)
    scene.cpu.leave_nested()
    scene.cpu.read(0x6000)
    before, eptp = state(scene.vm), change(scene.eptp)

    with pytest.raises(VmEntryFailure, match=message):
        scene.cpu.enter_nested(eptp, scene.inner)
    with pytest.raises(VmEntryFailure, match=message):
        scene.cpu.invept(eptp)

    assert state(scene.vm) == before
    scene.enter()
    assert scene.outcome("read", 0x5000) == 0


def test_what_the_hosts_processor_lacks(kernel: str) -> None:
    """Five levels, accessed and dirty flags, EPT itself."""
    registers = Registers(maxphyaddr=46)
    four = VirtualMachine(kernel, tdp_format=TdpFormat.EPT_WITHOUT_AD).add_cpu()
    none = VirtualMachine(kernel, MmuKind.SHADOW, tdp_format=TdpFormat.EPT).add_cpu()

    for cpu, eptp, message in (
        (four, 6 | EPTP_WALK_LENGTH_5, "4 levels"),
        (four, 6 | EPTP_WALK_LENGTH_4 | EPTP_ACCESSED_DIRTY, "no accessed and dirty flags"),
        (none, 6 | EPTP_WALK_LENGTH_4, "without EPT on the host"),
    ):
        with pytest.raises(VmEntryFailure, match=message):
            cpu.enter_nested(eptp, registers)
        assert not cpu.vcpu.guest_mode


def test_pdptes_that_no_processor_takes(kernel: str) -> None:
    """None at all, or one with reserved bits."""
    scene = nested_ept_guest(kernel, MmuKind.TDP, {0x5000: 0x6000})
    scene.cpu.leave_nested()
    before, pae = state(scene.vm), paging_registers(Mode.PAE, 0x5000)

    with pytest.raises(VmEntryFailure, match="PDPTEs in its VMCS"):
        scene.cpu.enter_nested(scene.eptp, pae)
    with pytest.raises(VmEntryFailure, match="PDPTE1 is 0x3: reserved bits 0x2"):
        scene.cpu.enter_nested(scene.eptp, pae, pdptes=(0x1001, 3, 0, 0))

    assert state(scene.vm) == before


def test_malformed_pdptes_without_ept(kernel: str) -> None:
    """They are in the memory of the hypervisor, and VM entry loads them."""
    vm = VirtualMachine(kernel, tdp_format=TdpFormat.EPT)
    vm.add_memory(0, MIB)
    cpu = vm.add_cpu()
    cpu.read(0x5000)
    vm.memory.write(0x5000, 3)
    before = state(vm)

    with pytest.raises(GeneralProtection):
        cpu.enter_nested(None, replace(paging_registers(Mode.PAE, 0x5000), maxphyaddr=46))

    assert state(vm) == before
    assert cpu.vcpu.l1_registers is None


def test_instructions_of_the_wrong_processor_or_at_the_wrong_time(kernel: str) -> None:
    """Of AMD's on Intel's and the other way round; of a hypervisor that is not running."""
    scene = nested_ept_guest(kernel, MmuKind.TDP, {0x5000: 0x6000})
    svm = VirtualMachine(kernel).add_cpu()

    refusals: tuple[tuple[Callable[[], None], str], ...] = (
        (lambda: scene.cpu.enter_nested(scene.eptp, scene.inner), "runs an inner guest"),
        (lambda: scene.cpu.invept(scene.eptp), "INVEPT of an inner guest"),
        (lambda: scene.cpu.invvpid(1), "INVVPID of an inner guest"),
        (lambda: scene.cpu.invlpga(0x5000, 1), "INVLPGA"),
        (svm.invept, "no EPT"),
        (lambda: svm.invvpid(1), "AMD's processors"),
        (svm.leave_nested, "no inner guest"),
    )
    for act, message in refusals:
        with pytest.raises(KvmError, match=message):
            act()
    scene.cpu.leave_nested()
    for vpid in (0, 1 << 16):
        with pytest.raises(VmEntryFailure, match="INVVPID"):
            scene.cpu.invvpid(vpid)
