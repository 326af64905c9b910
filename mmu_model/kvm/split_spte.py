"""Sptes on a 32-bit host, whose kernel stores and loads 4 bytes at once (mmu.c, where CONFIG_X86_64 is not set).

Nobody may see half of an spte. The processor looks at the half with the present bits, the low one: that is the
last to be stored when an spte appears, and the first when one goes. Who reads sptes without mmu_lock reads both
halves and looks again; that the spte was another in between, and has come back, only a count can tell, which
every spte that goes adds to. An spte that is to map another frame goes first.
"""

from typing import Final

from mmu_model.kvm.host import Host
from mmu_model.kvm.page import sptep_to_sp
from mmu_model.kvm.spte import is_shadow_present_pte
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import PAGE_OFFSET, Sptep

_LOW: Final = (1 << 32) - 1
_HALF: Final = 4


def read_half(host: Host, half: int) -> int:
    """The 32 bits that the kernel sees at an address."""
    return host.memory.read(half - PAGE_OFFSET, _HALF)


def write_half(host: Host, half: int, value: int) -> None:
    """Store 32 bits at an address of the kernel."""
    host.memory.write(half - PAGE_OFFSET, value, _HALF)


def set_spte(host: Host, sptep: Sptep, spte: int) -> Steps[None]:
    """Make an spte that was not present: the half with the present bits last (__set_spte)."""
    write_half(host, sptep + _HALF, spte >> 32)
    yield "has stored the high half"
    write_half(host, sptep, spte & _LOW)


def update_clear_spte(host: Host, sptep: Sptep, spte: int) -> Steps[int]:
    """Clear a present spte, or change bits other than its frame; what was there.

    The low half is exchanged as one, so that no accessed or dirty bit is lost that the processor sets meanwhile;
    where none can be, the kernel has a cheaper store for it (__update_clear_spte_slow, __update_clear_spte_fast).
    """
    low = read_half(host, sptep)
    write_half(host, sptep, spte & _LOW)
    yield "has stored the low half"
    high = read_half(host, sptep + _HALF)
    write_half(host, sptep + _HALF, spte >> 32)
    yield "has stored the high half"
    count_spte_clear(host, sptep, spte)
    return high << 32 | low


def count_spte_clear(host: Host, sptep: Sptep, spte: int) -> None:
    """An spte has gone, completely."""
    if not is_shadow_present_pte(spte):
        sptep_to_sp(host, sptep).clear_spte_count += 1


def get_spte_lockless(host: Host, sptep: Sptep) -> Steps[int]:
    """An spte as it was at some moment, for who does not hold mmu_lock (__get_spte_lockless)."""
    if host.x86_64:
        return host.read(sptep)
    sp = sptep_to_sp(host, sptep)
    while True:
        count = sp.clear_spte_count
        yield "has read clear_spte_count"
        low = read_half(host, sptep)
        yield "has read the low half"
        high = read_half(host, sptep + _HALF)
        yield "has read the high half"
        if low != read_half(host, sptep):
            continue
        yield "has read the low half again"
        if count == sp.clear_spte_count:
            return high << 32 | low
