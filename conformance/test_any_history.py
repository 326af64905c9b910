"""Whatever host, process and guest do, in any order: memory is memory, the log has what was written, and every
snapshot on the way is one that a real kernel could have shown."""

import random
from collections.abc import Iterator

import pytest

from conformance.live import PREDICATES
from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from mmu_model.hardware import Gfn
from mmu_model.kvm.dirty_log import kvm_clear_dirty_log, kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.memory_region import (
    add_memory_region,
    delete_memory_region,
    move_memory_region,
    set_memory_region_flags,
)
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KvmMemorySlot
from mmu_model.kvm.types import Hva
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import Cpu
from mmu_model.snapshot import MmuKind

MEMORY = GIB
SIZE = 4 * MIB
PAGES = (0, 1, 2, 300, 511, 512, 1023)
"""Pages of that memory which the guest uses, in two large pages of the host."""
FAR = 64
"""Where their memory is moved to and back from, in large pages."""

EVERY_MMU = [
    (MmuKind.TDP, TdpFormat.NPT),
    *((MmuKind.TDP, nested) for nested in TdpFormat if nested is not TdpFormat.NPT),
    (MmuKind.DIRECT, TdpFormat.NPT),
    (MmuKind.SHADOW, TdpFormat.NPT),
]


class History:
    """What happens to a VM with two processors, and what its guest must find.

    Linear addresses are guest-physical ones; the guest has tables for both places of the memory.
    """

    def __init__(self, scene: Scene, seed: str) -> None:
        self._scene = scene
        self._rng = random.Random(seed)
        self._kvm, self._process = scene.vm.kvm, scene.vm.process
        self._hva: Hva = self._slot.userspace_addr
        other = scene.vm.add_cpu(scene.cpu.vcpu.registers)
        self._cpus: list[Cpu] = [scene.cpu, other]
        self._contents = dict.fromkeys(PAGES, 0)
        self._written: set[int] = set()
        self._touched: set[int] = set()
        self._read_only: set[int] = set()
        self._used = False
        """Was anything used since the host last asked, or changed anything?"""

    @property
    def _slot(self) -> KvmMemorySlot:
        slot = self._kvm.memslots[0].by_id(1)
        assert slot is not None
        return slot

    def go_on(self, steps: int) -> Iterator[str]:
        """One step after the other; what it was."""
        acts = {
            self._write: 8,
            self._read: 8,
            self._drop: 2,
            self._migrate: 2,
            self._protect: 1,
            self._resize: 2,
            self._switch_log: 2,
            self._read_log: 3,
            self._clear_log: 1,
            self._replace_slot: 1,
            self._move_slot: 1,
            self._flush: 1,
            self._ask_what_was_used: 2,
        }
        leave_it = (self._read_log, self._flush)
        for number in range(steps):
            (act,) = self._rng.choices(list(acts), list(acts.values()))
            page = self._rng.choice(PAGES)
            act(page, self._rng.choice(self._cpus))
            self._used = act in (self._read, self._write) or (self._used and act in leave_it)
            yield f"{number}: {act.__name__} {page}"

    def _address(self, page: int) -> int:
        return (self._slot.base_gfn + page) * PAGE

    def _write(self, page: int, cpu: Cpu) -> None:
        if page in self._read_only:
            self._read(page, cpu)
            return
        value = self._rng.getrandbits(64)
        cpu.write(self._address(page), value)
        self._contents[page] = value
        self._written.add(page)
        self._touched.add(page)

    def _read(self, page: int, cpu: Cpu) -> None:
        assert cpu.read(self._address(page)) == self._contents[page], f"page {page}"
        self._touched.add(page)

    def _drop(self, page: int, _: Cpu) -> None:
        """The process does without a page."""
        self._process.madvise_dontneed(Hva(self._hva + page * PAGE), 1)
        self._contents[page] = 0

    def _migrate(self, page: int, _: Cpu) -> None:
        hva, behind = Hva(self._hva + page * PAGE), Hva(self._hva + (page + 1) * PAGE)
        if self._process.mapping(hva) is None:
            return
        for notifier in self._process.notifiers:
            notifier.invalidate_range_start(hva, behind)
        self._process.migrate(hva)
        for notifier in self._process.notifiers:
            notifier.invalidate_range_end(hva, behind)

    def _protect(self, page: int, _: Cpu) -> None:
        """The process may not write to a page for a while; who writes meanwhile is sent away."""
        self._read_only ^= {page}
        self._process.mprotect(Hva(self._hva + page * PAGE), 1, writable=page not in self._read_only)

    def _resize(self, _page: int, _cpu: Cpu) -> None:
        self._process.madvise_hugepage(self._hva, SIZE // PAGE, self._rng.choice((1, 2)))

    def _switch_log(self, _page: int, _cpu: Cpu) -> None:
        set_memory_region_flags(self._kvm, self._slot, self._slot.flags ^ KVM_MEM_LOG_DIRTY_PAGES)
        self._written.clear()
        self._touched.clear()

    def _read_log(self, _page: int, _cpu: Cpu) -> None:
        if not self._slot.flags & KVM_MEM_LOG_DIRTY_PAGES:
            return
        logged = {gfn - self._slot.base_gfn for gfn in kvm_vm_ioctl_get_dirty_log(self._kvm, self._slot)}
        assert self._written <= logged <= self._touched
        self._written.clear()

    def _clear_log(self, page: int, _: Cpu) -> None:
        if self._slot.flags & KVM_MEM_LOG_DIRTY_PAGES:
            kvm_clear_dirty_log(self._kvm, self._slot, {Gfn(self._slot.base_gfn + page)})
            self._written.discard(page)

    def _replace_slot(self, _page: int, _cpu: Cpu) -> None:
        """The memory is taken away, and given back."""
        gpa, flags = self._slot.base_gfn * PAGE, self._slot.flags
        delete_memory_region(self._kvm, self._slot)
        for cpu in self._cpus:
            assert cpu.read(gpa) == 0
        add_memory_region(self._kvm, 1, gpa, SIZE, self._hva, flags=flags)
        self._written.clear()

    def _move_slot(self, _page: int, _cpu: Cpu) -> None:
        away = MEMORY + FAR * 2 * MIB
        old = self._slot.base_gfn * PAGE
        move_memory_region(self._kvm, self._slot, MEMORY if old == away else away)
        for cpu in self._cpus:
            assert cpu.read(old) == 0
        self._written.clear()

    def _flush(self, page: int, cpu: Cpu) -> None:
        cpu.invlpg(self._address(page))
        if self._scene.tables is not None:
            cpu.mov_cr3(cpu.vcpu.registers.cr3)

    def _ask_what_was_used(self, _page: int, _cpu: Cpu) -> None:
        """The host asks, and begins anew."""
        if self._used:
            assert self._process.was_used(self._hva, SIZE // PAGE, forget=False)
            assert self._process.was_used(self._hva, SIZE // PAGE)
        self._process.was_used(self._hva, SIZE // PAGE)
        assert not self._process.was_used(self._hva, SIZE // PAGE, forget=False)
        assert not self._process.was_used(self._hva, SIZE // PAGE)


@pytest.mark.parametrize(("level", "seed"), [(1, 0), (2, 1)])
@pytest.mark.parametrize("paging", ["off", "PAE", "4-level"])
@pytest.mark.parametrize(("mmu", "tdp_format"), EVERY_MMU, ids=lambda value: getattr(value, "value", None))
def test_memory_is_memory_whatever_happens(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat, paging: str, level: int, seed: int
) -> None:
    """Nothing remembered by a processor or a table outlives what it was made from."""
    places = (MEMORY, MEMORY + FAR * 2 * MIB)
    mapped = {start + page * PAGE: start + page * PAGE for start in places for page in PAGES}
    scene = guest(
        kernel,
        mmu,
        paging,
        memory={MEMORY: SIZE},
        mapped=None if paging == "off" else mapped,
        host_level=level,
        tdp_format=tdp_format,
    )
    history = History(scene, f"{paging} {level} {seed}")

    for number, step in enumerate(history.go_on(80), 1):
        if number % 20 == 0:
            snapshot = scene.vm.snapshot(step)
            assert [f"{step}: {what}" for each in PREDICATES for what in each.check(snapshot)] == []
