"""The process that runs the guest: what a scenario wants done between two steps of it (kvm_live/guest/vmm.c)."""

from collections.abc import Callable
from typing import Final

from mmu_model.hardware.types import PAGE_SHIFT, Gfn
from mmu_model.kvm.dirty_log import kvm_clear_dirty_log, kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.memory_region import (
    add_memory_region,
    delete_memory_region,
    move_memory_region,
    set_memory_region_flags,
)
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.types import Hva
from mmu_model.machine import VirtualMachine
from mmu_model.scenario import HostCall, HostOp
from mmu_model.snapshot import StepResult

SPACE_SHIFT: Final = 16
_SLOT_NUMBER: Final = (1 << SPACE_SHIFT) - 1


class Userspace:
    """Carries host calls out.

    Parameters
    ----------
    vm, base :
        The VM, and where the process has the memory behind it.
    take_snapshot :
        Called with the number of the snapshot.

    """

    def __init__(self, vm: VirtualMachine, base: Hva, take_snapshot: Callable[[int], None]) -> None:
        self._vm = vm
        self._base = base
        self._take_snapshot = take_snapshot

    def do(self, call: HostCall) -> StepResult | None:
        """Carry one call out; what it tells, if that is anything.

        Raises
        ------
        KvmError
            KVM refuses it.

        """
        match call.op:
            case HostOp.SNAPSHOT:
                self._take_snapshot(call.args[0])
            case HostOp.SET_SLOT:
                self._set_slot(call)
            case HostOp.GET_DIRTY:
                return self._get_dirty(call)
            case HostOp.CLEAR_DIRTY:
                self._clear_dirty(*call.args)
            case HostOp.DROP:
                place, size = call.args
                self._vm.process.madvise_dontneed(Hva(self._base + place), size >> PAGE_SHIFT)
            case HostOp.PROTECT:
                place, size, writable = call.args
                hva = Hva(self._base + place)
                self._vm.process.mprotect(hva, size >> PAGE_SHIFT, writable=bool(writable))
            case HostOp.POKE:
                self._poke(*call.args)
        return None

    def _set_slot(self, call: HostCall) -> None:
        """KVM_SET_USER_MEMORY_REGION: a new slot, one that goes, or one that is changed."""
        number, flags, gpa, size, place = call.args
        kvm, as_id, slot_id = self._vm.kvm, number >> SPACE_SHIFT, number & _SLOT_NUMBER
        old = kvm.memslots[as_id].by_id(slot_id)
        if old is None:
            hva = Hva(self._base + place)
            add_memory_region(kvm, slot_id, gpa, size, hva, flags=flags, as_id=as_id)
        elif not size:
            delete_memory_region(kvm, old)
        elif size >> PAGE_SHIFT != old.npages:
            raise KvmError(f"memory slot {slot_id} has its size for good; delete it and make another")
        elif gpa >> PAGE_SHIFT != old.base_gfn:
            move_memory_region(kvm, old, gpa)
        else:
            set_memory_region_flags(kvm, old, flags)

    def _slot(self, number: int) -> KvmMemorySlot:
        found = self._vm.kvm.memslots[number >> SPACE_SHIFT].by_id(number & _SLOT_NUMBER)
        if found is None:
            raise KvmError(f"there is no memory slot {number & _SLOT_NUMBER}")
        return found

    def _get_dirty(self, call: HostCall) -> StepResult:
        slot = self._slot(call.args[0])
        gfns = kvm_vm_ioctl_get_dirty_log(self._vm.kvm, slot)
        return StepResult(call.step, dirty=tuple(sorted(gfn - slot.base_gfn for gfn in gfns)))

    def _clear_dirty(self, number: int, page: int, count: int) -> None:
        slot = self._slot(number)
        first = slot.base_gfn + page
        kvm_clear_dirty_log(self._vm.kvm, slot, {Gfn(gfn) for gfn in range(first, first + count)})

    def _poke(self, place: int, value: int, size: int) -> None:
        self._vm.process.fault_in(self._base + place, write=True)
        hpa = self._vm.process.hpa(self._base + place)
        assert hpa is not None, "the memory behind the VM is mapped"
        self._vm.host.memory.write(hpa, value, size)
