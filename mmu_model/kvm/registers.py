"""The guest's control registers, as it or the process loads them (x86.c)."""

from mmu_model.hardware.faults import GeneralProtection
from mmu_model.hardware.linear import Pdptes
from mmu_model.hardware.pdptes import load_pdptes
from mmu_model.hardware.registers import Mode, Registers
from mmu_model.kvm.guest_memory import GuestMemory
from mmu_model.kvm.vcpu import KvmVcpu


def load_registers(vcpu: KvmVcpu, registers: Registers) -> None:
    """Take registers over, PDPTEs included; the MMU is the caller's business.

    Raises
    ------
    GeneralProtection
        A PDPTE has reserved bits set, or lies where there is no memory.

    """
    vcpu.pdptes = _load_pdptrs(vcpu, registers)
    vcpu.registers = registers


def _load_pdptrs(vcpu: KvmVcpu, registers: Registers) -> Pdptes | None:
    if registers.mode is not Mode.PAE or vcpu.kvm.parameters.tdp_enabled:
        return None
    try:
        return load_pdptes(GuestMemory(vcpu.kvm, vcpu.memslots), registers)
    except LookupError as error:
        raise GeneralProtection(f"the PDPTEs are nowhere: {error}") from None
