"""Memory slots, the process behind them, and the kernels that there are."""

import pytest

from mmu_model.hardware import Gfn
from mmu_model.kernels import KERNELS, kernel_named, switches
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.host import Host
from mmu_model.kvm.memory_region import add_memory_region
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.process import Process
from mmu_model.kvm.types import Hva
from mmu_model.machine import VirtualMachine

MIB = 1 << 20


@pytest.mark.parametrize(
    ("gpa", "size", "flags", "message"),
    [
        (0, 0, 0, "slot 7 at 0x0 is empty"),
        (0x10, MIB, 0, "its address 0x10 is not a multiple of 0x1000"),
        (0, 0x1001, 0, "its size 0x1001 is not a multiple"),
        ((1 << 64) - 4096, 8192, 0, "wraps around"),
        (MIB, MIB, 0, "overlaps slot 0 at 0x0"),
        (8 * MIB, MIB, 4, "flags 0x4 do not exist"),
    ],
)
def test_impossible_memory_is_refused(gpa: int, size: int, flags: int, message: str) -> None:
    """The error names what is wrong, and the VM is as it was."""
    vm = VirtualMachine()
    vm.add_memory(0, 4 * MIB)
    before = vm.snapshot()

    with pytest.raises(KvmError, match=message):
        add_memory_region(vm.kvm, 7, gpa, size, Hva(0x7000_0000), flags=flags)

    assert vm.snapshot() == before


def test_a_number_is_given_once_and_there_are_two_address_spaces() -> None:
    """Slots are known by their numbers."""
    vm = VirtualMachine()
    vm.add_memory(0, MIB)
    with pytest.raises(KvmError, match="there is a slot of that number"):
        add_memory_region(vm.kvm, 0, 16 * MIB, MIB, Hva(0))
    with pytest.raises(KvmError, match="address space 2 does not exist"):
        add_memory_region(vm.kvm, 1, 16 * MIB, MIB, Hva(0), as_id=2)


def test_large_pages_are_excluded_at_ragged_ends() -> None:
    """One count for each end that a slot holds only a part of; everywhere if the process is out of step."""
    slot = KvmMemorySlot(0, Gfn(0x100), 0x400, Hva(0x100 << 12))
    assert slot.disallow_lpage[0] == {0: 1, 2: 1}
    assert slot.disallow_lpage[1] == {0: 1}

    askew = KvmMemorySlot(0, Gfn(0), 0x400, Hva(0x1 << 12))
    assert askew.disallow_lpage[0] == {0: 1, 1: 1}


def test_the_host_maps_large_pages_where_they_fit() -> None:
    """An area of 2 MiB and a page: the rest is small."""
    process = Process(Host())
    hva = process.mmap(513, level=2)
    levels = [mapping.level for page in (0, 511, 512) if (mapping := process.mapping(hva + (page << 12)))]

    assert levels == [2, 2, 1]
    assert process.mapping(hva + (513 << 12)) is None
    first = process.mapping(hva)
    assert first is not None
    assert first.pfn % 512 == 0


def test_every_switch_says_where_it_is_seen() -> None:
    """And the error for an unknown kernel names those that there are."""
    assert switches()
    for name, places in switches().items():
        assert set(places) == set(KERNELS), name
        assert len({getattr(kernel, name) for kernel in KERNELS.values()}) == 2, name
    with pytest.raises(ValueError, match=r"no model of kernel '5.4'; there are 6.1, 6.12"):
        kernel_named("5.4")
