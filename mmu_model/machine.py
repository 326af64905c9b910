"""A whole virtual machine: host, KVM with both MMUs, the process, and processors that run the guest."""

from itertools import count

from mmu_model.cpu import Cpu, TripleFault
from mmu_model.guest_entry import spte_masks
from mmu_model.hardware.registers import Registers
from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.kernels import kernel_named, on_32_bit
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.guest_memory import GuestMemory
from mmu_model.kvm.host import Host
from mmu_model.kvm.memory_region import add_memory_region, address_space, check_region, delete_memory_region
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.notifier import KvmMmuNotifier
from mmu_model.kvm.observe import snapshot
from mmu_model.kvm.process import Process
from mmu_model.kvm.shrinker import mmu_shrinker
from mmu_model.kvm.types import PG_LEVEL_4K, PT32E_ROOT_LEVEL, PT64_ROOT_4LEVEL, Hva
from mmu_model.kvm.vm import Kvm, Parameters, TdpFormat
from mmu_model.shadow import entry as shadow_mmu
from mmu_model.snapshot import MmuKind, Snapshot
from mmu_model.tdp import entry as tdp_mmu

__all__ = ["Cpu", "TripleFault", "VirtualMachine"]


class VirtualMachine:
    """A VM, and the process that made it.

    Parameters
    ----------
    kernel :
        The release whose KVM runs it: "6.1" or "6.12".
    mmu :
        Which MMU maps its memory.
    maxphyaddr :
        Physical-address bits of the host's processor.
    max_tdp_level :
        Levels of nested paging that it walks.
    nx_huge_pages :
        Whether large pages may not be executable.
    tdp_format :
        What nested paging the host's processor has; with :attr:`MmuKind.SHADOW` it is not used.
    pml :
        Whether the processor logs writes, for which it needs EPT with dirty flags.
    private_memory :
        Whether the VM may have memory that the process cannot map.
    x86_64 :
        Whether the host's kernel is a 64-bit one. Another has no TDP MMU; its nested paging is PAE or EPT.
    host :
        A host that has VMs already, instead of a new one with that processor and kernel.

    """

    def __init__(
        self,
        kernel: str = "6.12",
        mmu: MmuKind = MmuKind.TDP,
        *,
        maxphyaddr: int = 46,
        max_tdp_level: int = 4,
        nx_huge_pages: bool = False,
        tdp_format: TdpFormat = TdpFormat.NPT,
        pml: bool = False,
        private_memory: bool = False,
        x86_64: bool = True,
        host: Host | None = None,
    ) -> None:
        self.host = host or Host(maxphyaddr, x86_64=x86_64)
        x86_64, maxphyaddr = self.host.x86_64, self.host.memory.maxphyaddr
        if not x86_64:
            if mmu is MmuKind.TDP:
                raise KvmError("a 32-bit host has no TDP MMU: take the direct pages of the shadow MMU")
            max_tdp_level = PT32E_ROOT_LEVEL if tdp_format is TdpFormat.NPT else PT64_ROOT_4LEVEL
        release = kernel_named(kernel) if x86_64 else on_32_bit(kernel_named(kernel))
        if private_memory and not release.has_guest_memfd:
            raise KvmError(f"KVM of {kernel} has no private memory")
        self.process = Process(self.host)
        parameters = Parameters(
            tdp_enabled=mmu is not MmuKind.SHADOW,
            tdp_mmu_enabled=mmu is MmuKind.TDP,
            tdp_format=tdp_format,
            max_tdp_level=max_tdp_level,
            tdp_root_level=max_tdp_level if tdp_format is TdpFormat.NPT else 0,
            nx_huge_pages=nx_huge_pages,
            pml=pml,
            private_memory=private_memory,
        )
        self.kvm = Kvm(
            host=self.host,
            process=self.process,
            kernel=release,
            parameters=parameters,
            masks=spte_masks(release, parameters, maxphyaddr),
            shadow=shadow_mmu,
            tdp=tdp_mmu,
        )
        mmu_shrinker(self.host).vm_list.append(self.kvm)
        self.process.notifiers.append(KvmMmuNotifier(self.kvm))
        self.memory = GuestMemory(self.kvm, self.kvm.memslots[0], logs_dirty=False)
        self.devices: dict[int, int] = {}
        """What the process has for addresses without memory: by gpa the value stored last."""

    def add_memory(
        self,
        gpa: int,
        size: int,
        *,
        level: int = PG_LEVEL_4K,
        writable: bool = True,
        offset: int = 0,
        flags: int = 0,
        as_id: int = 0,
    ) -> KvmMemorySlot:
        """Give the guest memory, which the host maps with pages of `level` where it can.

        `as_id` 1 is the memory of SMM. Other parameters as of :meth:`Process.mmap` and
        :func:`~mmu_model.kvm.memory_region.add_memory_region`, which raises the errors.
        """
        slots = address_space(self.kvm, as_id)
        slot_id = next(number for number in count() if slots.by_id(number) is None)
        check_region(self.kvm, slots, slot_id, gpa, size, Hva(0), flags)
        hva = self.process.mmap(size >> PAGE_SHIFT, level, writable=writable, offset=offset)
        return add_memory_region(self.kvm, slot_id, gpa, size, hva, flags=flags, as_id=as_id)

    def remove_memory(self, slot: KvmMemorySlot) -> None:
        """Take memory away from the guest."""
        delete_memory_region(self.kvm, slot)

    def add_cpu(self, registers: Registers | None = None) -> Cpu:
        """A virtual processor; without registers paging is off."""
        return Cpu(self, registers or Registers(maxphyaddr=self.host.memory.maxphyaddr))

    def snapshot(self, name: str = "") -> Snapshot:
        """All shadow pages, roles, sptes and roots at this moment."""
        return snapshot(self.kvm, name)
