"""What a nested guest writes is in the dirty log of the memory, by whatever way the processor has to notice it."""

import pytest

from conformance.scenes import PAGE, Scene, guest, nested_guest
from mmu_model.hardware import Gfn, Registers
from mmu_model.kernels import KERNELS
from mmu_model.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind

PROCESSORS = {
    "NPT": (TdpFormat.NPT, False),
    "EPT": (TdpFormat.EPT, False),
    "EPT without flags": (TdpFormat.EPT_WITHOUT_AD, False),
    "EPT with a log": (TdpFormat.EPT, True),
}

pytestmark = [
    pytest.mark.parametrize("kernel", KERNELS),
    pytest.mark.parametrize("processor", PROCESSORS),
]
with_or_without_tables = pytest.mark.parametrize("own_tables", [True, False], ids=["own tables", "none"])


def nested(kernel: str, processor: str, *, own_tables: bool, host_level: int = 1) -> Scene:
    """A nested guest without paging, over nested tables of its hypervisor or over none; only in the latter case
    the level of the host's pages matters."""
    tdp_format, pml = PROCESSORS[processor]
    if own_tables:
        mapped = {page: page for page in (0x5000, 0x6000)}
        return nested_guest(kernel, MmuKind.TDP, mapped=mapped, tdp_format=tdp_format, pml=pml)
    scene = guest(kernel, MmuKind.TDP, tdp_format=tdp_format, pml=pml, host_level=host_level)
    scene.cpu.enter_nested(None, Registers(maxphyaddr=46))
    return scene


def logged(scene: Scene) -> set[Gfn]:
    """What was written to since this was last asked, of the two pages that the nested guest has."""
    (slot,) = scene.vm.kvm.memslots[0]
    return kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot) & {Gfn(5), Gfn(6)}


def start_logging(scene: Scene) -> None:
    """From now on writes are logged."""
    (slot,) = scene.vm.kvm.memslots[0]
    set_memory_region_flags(scene.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)


@with_or_without_tables
def test_every_write_of_a_nested_guest_is_logged(kernel: str, processor: str, own_tables: bool) -> None:
    """To a page that it wrote before, once more after each time that the log was read, and to a new page. The log
    of the processor is off while it runs (vmx.c: prepare_vmcs02_early; tdp_mmu_need_write_protect)."""
    scene = nested(kernel, processor, own_tables=own_tables)
    scene.cpu.write(0x5000, 1)
    start_logging(scene)
    assert logged(scene) == set()

    for value in range(3):
        scene.cpu.write(0x5000, value)
        assert logged(scene) == {5}
    assert logged(scene) == set()
    scene.cpu.write(0x6000, 1)
    scene.cpu.read(0x5000)
    assert logged(scene) == {6}


@with_or_without_tables
def test_an_spte_says_what_notices_writes(kernel: str, processor: str, own_tables: bool) -> None:
    """In bits 53:52, which mean nothing to the processor: 1, no flags; 2, flags, but no log (spte.h)."""
    scene = nested(kernel, processor, own_tables=own_tables)
    scene.cpu.write(0x5000, 1)

    pages = [page for page in scene.vm.snapshot().pages if page.role.guest_mode and page.role.level == 1]

    said = {spte.raw >> 52 & 3 for page in pages for spte in page.sptes().values()}
    assert said == {{"EPT without flags": 1, "EPT with a log": 2}.get(processor, 0)}


@with_or_without_tables
def test_writes_of_the_hypervisor_are_logged_besides(kernel: str, processor: str, own_tables: bool) -> None:
    """Both have written to the same page, by tables that have nothing in common."""
    scene = nested(kernel, processor, own_tables=own_tables)
    scene.cpu.write(0x5000, 1)
    scene.cpu.leave_nested()
    scene.cpu.set_registers(Registers(maxphyaddr=46))
    scene.cpu.write(0x5000, 2)
    start_logging(scene)

    for value in range(3):
        scene.cpu.write(0x5000, value)
        assert logged(scene) == {5}


def test_a_large_page_of_a_nested_guest_is_logged_by_small_ones(kernel: str, processor: str) -> None:
    """Of 2 MiB that it has as one page, what it wrote to is logged, and no other page."""
    scene = nested(kernel, processor, own_tables=False, host_level=2)
    scene.cpu.write(0x5000, 1)
    start_logging(scene)
    for page in (0x6000, 0x5000):
        scene.cpu.write(page, 2)
        assert logged(scene) == {page // PAGE}
