"""What the host and the process do to a VM behind the guest's back, as steps of random programs."""

from collections.abc import Callable
from typing import Final

from mmu_model.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KvmMemorySlot
from mmu_model.kvm.notifier import invalidate_range_end, invalidate_range_start
from mmu_model.kvm.task import finish
from mmu_model.kvm.types import Hva
from mmu_model.machine import VirtualMachine

_PAGE: Final = 1 << 12


def zap(vm: VirtualMachine, _frame: int) -> None:
    """A slot comes and goes, so that everything is zapped."""
    vm.remove_memory(vm.add_memory(1 << 40, _PAGE))


def log(vm: VirtualMachine, _frame: int) -> None:
    """Writes are logged from now on."""
    set_memory_region_flags(vm.kvm, the_slot(vm), KVM_MEM_LOG_DIRTY_PAGES)


def stop_logging(vm: VirtualMachine, _frame: int) -> None:
    """Or not any more."""
    set_memory_region_flags(vm.kvm, the_slot(vm), 0)


def fetch_log(vm: VirtualMachine, _frame: int) -> None:
    """The log is fetched and cleared, if there is one."""
    if the_slot(vm).dirty_bitmap is not None:
        kvm_vm_ioctl_get_dirty_log(vm.kvm, the_slot(vm))


def age(vm: VirtualMachine, frame: int) -> None:
    """The host asks whether a page was used."""
    vm.process.was_used(the_slot(vm).hva(frame // _PAGE), 1)


def move(vm: VirtualMachine, frame: int) -> None:
    """The host moves a page to another frame of its own."""
    start = the_slot(vm).hva(frame // _PAGE)
    end = Hva(start + _PAGE)
    finish(invalidate_range_start(vm.kvm, start, end))
    vm.process.migrate(start)
    finish(invalidate_range_end(vm.kvm, start, end))


def the_slot(vm: VirtualMachine) -> KvmMemorySlot:
    """The memory of the guest, at 0."""
    slot = vm.kvm.memslots[0].find(0)
    assert slot is not None
    return slot


HOST_STEPS: Final[tuple[Callable[[VirtualMachine, int], None], ...]] = (
    zap,
    log,
    stop_logging,
    fetch_log,
    age,
    move,
)
"""Each is given a frame of the guest, by its address."""
