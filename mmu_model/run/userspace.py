"""The process that runs the guest: what a scenario wants done between two steps of it (kvm_live/guest/vmm.c)."""

from collections.abc import Callable
from typing import Final, NoReturn

from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.kvm.memory_region import add_memory_region, delete_memory_region
from mmu_model.kvm.types import Hva
from mmu_model.machine import VirtualMachine
from mmu_model.run.errors import CannotRun
from mmu_model.scenario import HostCall, HostOp, Scenario

SPACE_SHIFT: Final = 16
_SLOT_NUMBER: Final = (1 << SPACE_SHIFT) - 1


class Userspace:
    """Carries host calls out.

    Parameters
    ----------
    scenario :
        Where errors say they are.
    vm, base :
        The VM, and where the process has the memory behind it.
    take_snapshot :
        Called with the number of the snapshot.

    """

    def __init__(
        self, scenario: Scenario, vm: VirtualMachine, base: Hva, take_snapshot: Callable[[int], None]
    ) -> None:
        self._scenario = scenario
        self._vm = vm
        self._base = base
        self._take_snapshot = take_snapshot

    def do(self, call: HostCall) -> None:
        """Carry one call out.

        Raises
        ------
        CannotRun
            The model has nothing for it.

        """
        match call.op:
            case HostOp.SNAPSHOT:
                self._take_snapshot(call.args[0])
            case HostOp.SET_SLOT:
                self._set_slot(call)
            case HostOp.POKE:
                self._poke(*call.args)
            case HostOp.SMI:
                return
            case _:
                self._cannot(call, call.op.name.lower().replace("_", " "))

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
        elif gpa >> PAGE_SHIFT != old.base_gfn:
            self._cannot(call, "move a slot")
        elif flags != old.flags:
            self._cannot(call, "change the flags of a slot")

    def _cannot(self, call: HostCall, what: str) -> NoReturn:
        raise CannotRun(self._scenario.where, self._scenario.walk()[call.step].line, what)

    def _poke(self, place: int, value: int, size: int) -> None:
        hpa = self._vm.process.hpa(self._base + place)
        assert hpa is not None, "the memory behind the VM is mapped"
        self._vm.host.memory.write(hpa, value, size)
