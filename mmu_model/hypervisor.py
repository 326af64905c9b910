"""What a guest that is a hypervisor does besides what all guests do: it runs a guest of its own, and flushes."""

from abc import ABC, abstractmethod

from mmu_model.hardware.linear import Pdptes
from mmu_model.hardware.registers import Registers
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.nested import enter_nested, leave_nested
from mmu_model.kvm.nested_vmx import enter_nested_vmx, handle_invept, handle_invvpid, leave_nested_vmx
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.vm import TdpFormat


class Hypervisor(ABC):
    """A virtual processor with AMD's SVM or Intel's VMX, whichever the host's has.

    Attributes
    ----------
    vcpu :
        What KVM knows of it.

    """

    def __init__(self, vcpu: KvmVcpu) -> None:
        self.vcpu = vcpu
        self._vpid = 0

    @abstractmethod
    def invlpg(self, address: int) -> None:
        """INVLPG."""

    def enter_nested(
        self,
        nested_root: int | None,
        registers: Registers,
        *,
        vpid: int = 0,
        pdptes: Pdptes | None = None,
    ) -> None:
        """VMRUN or VMLAUNCH: run a guest of the guest.

        Parameters
        ----------
        nested_root :
            nCR3 or, on Intel's processors, EPTP: the nested tables that the guest has made; None without.
        registers :
            Those of the inner guest.
        vpid, pdptes :
            On Intel's processors: the inner guest's VPID, if it has one, and, for PAE paging over EPT, the
            PDPTEs in its VMCS.

        Raises
        ------
        KvmError
            The inner guest cannot be entered; :class:`~mmu_model.kvm.errors.VmEntryFailure` if it is for
            what the guest put into its VMCS.

        """
        if self._is_vmx:
            enter_nested_vmx(self.vcpu, registers, nested_root, vpid=vpid, pdptes=pdptes)
            self._vpid = vpid
        else:
            enter_nested(self.vcpu, registers, nested_root)

    def leave_nested(self) -> None:
        """#VMEXIT or VM exit: back to the guest itself."""
        if self._is_vmx:
            leave_nested_vmx(self.vcpu, vpid=self._vpid)
        else:
            leave_nested(self.vcpu)

    def invlpga(self, address: int, asid: int) -> None:
        """INVLPGA: for KVM it is INVLPG, whatever the ASID (svm.c: invlpga_interception).

        Raises
        ------
        KvmError
            It is no instruction of Intel's processors.

        """
        if self._is_vmx:
            raise KvmError(f"INVLPGA of ASID {asid:#x}: Intel's processors have no such instruction")
        self.invlpg(address)

    def invept(self, eptp: int | None = None) -> None:
        """INVEPT by a hypervisor: of one EPT, or, left out, of all.

        Raises
        ------
        KvmError
            The instruction is not there, or fails; see :func:`~mmu_model.kvm.nested_vmx.handle_invept`.

        """
        if not self.vcpu.kvm.parameters.ept_enabled:
            raise KvmError("INVEPT: the guest's processor has no EPT")
        handle_invept(self.vcpu, eptp)

    def invvpid(self, vpid: int) -> None:
        """INVVPID by a hypervisor, of a VPID of its guests.

        Raises
        ------
        KvmError
            The instruction is not there, or fails; see :func:`~mmu_model.kvm.nested_vmx.handle_invvpid`.

        """
        if not self._is_vmx:
            raise KvmError(f"INVVPID of {vpid:#x}: AMD's processors have no such instruction")
        handle_invvpid(self.vcpu, vpid)

    @property
    def _is_vmx(self) -> bool:
        return self.vcpu.kvm.parameters.tdp_format is not TdpFormat.NPT
