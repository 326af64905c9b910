"""The host tells KVM that it changes the mapping of the process's memory (kvm_main.c: the MMU notifier)."""

from mmu_model.hardware.types import PAGE_SHIFT, PAGE_SIZE, Gfn
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.memslot import KVM_MEMSLOT_INVALID, KvmMemorySlot
from mmu_model.kvm.process import HostMapping
from mmu_model.kvm.requests import flush_remote_tlbs
from mmu_model.kvm.task import Steps, finish, might_sleep
from mmu_model.kvm.types import Hva
from mmu_model.kvm.vm import Kvm


def invalidate_range_start(kvm: Kvm, start: Hva, end: Hva) -> Steps[None]:
    """Before the host changes the mapping of `start` to before `end`: no spte leads there, until it is over.

    The memslots do not change meanwhile: so the end finds those that the beginning found, and what is counted
    up is counted down again.
    """
    yield from kvm.mn_invalidate_lock.wait()
    with kvm.mn_invalidate_lock:
        kvm.mn_active_invalidate_count += 1
    ranges = gfn_ranges(kvm, start, end)
    if not ranges:
        return
    yield from kvm.mmu_lock.write.wait()
    with kvm.mmu_lock.write:
        mmu_invalidate_begin(kvm)
        flush = False
        for slot, first, behind in ranges:
            flush |= kvm.shadow.kvm_unmap_gfn_range(kvm, slot, first, behind)
            if kvm.parameters.tdp_mmu_enabled:
                flush |= yield from kvm.tdp.kvm_tdp_mmu_unmap_gfn_range(kvm, slot, first, behind)
        if flush:
            yield from flush_remote_tlbs(kvm)


def invalidate_range_end(kvm: Kvm, start: Hva, end: Hva) -> Steps[None]:
    """After it: faults that looked at the mapping in between are tried again, later ones go on."""
    if gfn_ranges(kvm, start, end):
        yield from kvm.mmu_lock.write.wait()
        with kvm.mmu_lock.write:
            mmu_invalidate_end(kvm)
    yield from kvm.mn_invalidate_lock.wait()
    with kvm.mn_invalidate_lock:
        if kvm.mn_active_invalidate_count:  # for an end without a beginning the kernel only warns
            kvm.mn_active_invalidate_count -= 1


def change_pte(kvm: Kvm, address: Hva, mapping: HostMapping) -> Steps[None]:
    """The host replaces a page, between the beginning and the end of the change: its sptes get the new frame.

    Only before 6.10, and there too the beginning has left no sptes that could get it, nor do faults make any.

    Raises
    ------
    KvmBug
        There was no beginning.

    """
    if not kvm.kernel.change_pte:
        return
    if not kvm.mn_active_invalidate_count:
        raise KvmBug("the host replaces a page, and did not announce it")
    if not kvm.mmu_invalidate_in_progress:
        return
    yield from kvm.mmu_lock.write.wait()
    with kvm.mmu_lock.write:
        flush = False
        for slot, gfn, _ in gfn_ranges(kvm, address, Hva(address + PAGE_SIZE)):
            if slot.flags & KVM_MEMSLOT_INVALID:
                continue
            flush |= yield from kvm.shadow.kvm_set_spte_gfn(kvm, slot, gfn, mapping)
            if kvm.parameters.tdp_mmu_enabled:
                flush |= yield from kvm.tdp.kvm_tdp_mmu_set_spte_gfn(kvm, slot, gfn, mapping)
        if flush:
            yield from flush_remote_tlbs(kvm)


def clear_flush_young(kvm: Kvm, start: Hva, end: Hva) -> Steps[bool]:
    """Whether the guest used the memory at these addresses since this was last asked (kvm_age_gfn)."""
    young = False
    yield from kvm.mmu_lock.write.wait()
    with kvm.mmu_lock.write:
        for slot, first, behind in gfn_ranges(kvm, start, end):
            young |= kvm.shadow.kvm_rmap_age_gfn_range(kvm, slot, first, behind, test_only=False)
            if kvm.parameters.tdp_mmu_enabled:
                young |= yield from kvm.tdp.kvm_tdp_mmu_age_gfn_range(kvm, slot, first, behind)
        if young:
            yield from flush_remote_tlbs(kvm)
    return young


def test_young(kvm: Kvm, start: Hva, end: Hva) -> Steps[bool]:
    """The same, and the next who asks gets the same answer (kvm_test_age_gfn)."""
    yield from kvm.mmu_lock.write.wait()
    with kvm.mmu_lock.write:
        return any(
            kvm.shadow.kvm_rmap_age_gfn_range(kvm, *frames, test_only=True)
            or (kvm.parameters.tdp_mmu_enabled and kvm.tdp.kvm_tdp_mmu_test_age_gfn(kvm, *frames))
            for frames in gfn_ranges(kvm, start, end)
        )


class Invalidations:
    """Changes of the host's mappings: over when none is under way (mn_memslots_update_rcuwait)."""

    __slots__ = ("_kvm",)

    def __init__(self, kvm: Kvm) -> None:
        self._kvm = kvm

    def ready(self) -> bool:
        """Whether none is."""
        return not self._kvm.mn_active_invalidate_count

    def __str__(self) -> str:
        return "changes of the host's mappings to be over"


def wait_for_invalidations(kvm: Kvm) -> Steps[None]:
    """Wait until memslots may be changed; then nobody comes in between (kvm_swap_active_memslots)."""
    might_sleep("for changes of the host's mappings")
    yield Invalidations(kvm)


def mmu_invalidate_begin(kvm: Kvm) -> None:
    """From now on faults are tried again (kvm_mmu_invalidate_begin)."""
    kvm.mmu_lock.assert_held_write()
    kvm.mmu_invalidate_in_progress += 1


def mmu_invalidate_end(kvm: Kvm) -> None:
    """Only those are that were looked at before now (kvm_mmu_invalidate_end)."""
    kvm.mmu_lock.assert_held_write()
    kvm.mmu_invalidate_seq += 1
    kvm.mmu_invalidate_in_progress -= 1


def gfn_ranges(kvm: Kvm, start: Hva, end: Hva) -> list[tuple[KvmMemorySlot, Gfn, Gfn]]:
    """The memslots that these addresses back, and which frames of each."""
    found = ((slot, gfn_range(slot, start, end)) for slots in kvm.memslots for slot in slots)
    return [(slot, *frames) for slot, frames in found if frames]


def gfn_range(slot: KvmMemorySlot, start: Hva, end: Hva) -> tuple[Gfn, Gfn] | None:
    """The first frame of a slot, and the one behind the last, that these addresses back; None if they back none."""
    first = max(start, slot.userspace_addr)
    behind = min(end, slot.userspace_addr + (slot.npages << PAGE_SHIFT))
    if first >= behind:
        return None
    offset = slot.base_gfn - (slot.userspace_addr >> PAGE_SHIFT)
    return Gfn((first >> PAGE_SHIFT) + offset), Gfn((behind >> PAGE_SHIFT) + offset)


class KvmMmuNotifier:
    """What a VM registers with the process that has its memory: :class:`~mmu_model.kvm.process.MmuNotifier`."""

    def __init__(self, kvm: Kvm) -> None:
        self._kvm = kvm

    def invalidate_range_start(self, start: Hva, end: Hva) -> None:
        """Nobody comes in between."""
        finish(invalidate_range_start(self._kvm, start, end))

    def invalidate_range_end(self, start: Hva, end: Hva) -> None:
        """Nobody comes in between."""
        finish(invalidate_range_end(self._kvm, start, end))

    def change_pte(self, address: Hva, mapping: HostMapping) -> None:
        """Nobody comes in between."""
        finish(change_pte(self._kvm, address, mapping))

    def clear_flush_young(self, start: Hva, end: Hva) -> bool:
        """Nobody comes in between."""
        return finish(clear_flush_young(self._kvm, start, end))

    def test_young(self, start: Hva, end: Hva) -> bool:
        """Nobody comes in between."""
        return finish(test_young(self._kvm, start, end))
