"""Races: what vCPUs, the process and the host do to one VM at the same time, for the explorer.

Each function makes a VM in which something is about to happen, and says what must be true whatever the order.
"""

from collections.abc import Callable
from typing import Final

from conformance.races.dirty_log import (
    clearing_d_against_write,
    clearing_w_against_write,
    dirty_flag_against_aging,
    dirty_flag_against_zap,
    fast_page_fault_against_log,
)
from conformance.races.faults import (
    aged_page_against_notifier,
    fault_against_notifier,
    flush_against_entry,
    huge_page_against_small,
    two_faults_on_one_gfn,
)
from conformance.races.memslots import (
    fast_zap_against_vcpu,
    freed_memory_against_guest,
    mmio_against_new_memory,
    slot_against_notifier,
)
from conformance.races.roots import (
    fault_against_zap,
    last_reference_against_iteration,
    references_come_and_go,
    two_root_allocations,
)
from conformance.races.unsync import (
    two_unsyncs_of_one_table,
    unsync_against_write,
    write_before_the_root_is_marked,
)
from mmu_model.schedule import Race

RACES: Final[tuple[Callable[[str], Race], ...]] = (
    two_faults_on_one_gfn,
    huge_page_against_small,
    fault_against_notifier,
    aged_page_against_notifier,
    flush_against_entry,
    fast_page_fault_against_log,
    clearing_w_against_write,
    clearing_d_against_write,
    dirty_flag_against_zap,
    dirty_flag_against_aging,
    two_root_allocations,
    references_come_and_go,
    last_reference_against_iteration,
    fault_against_zap,
    fast_zap_against_vcpu,
    freed_memory_against_guest,
    mmio_against_new_memory,
    slot_against_notifier,
    unsync_against_write,
    two_unsyncs_of_one_table,
)
"""All that no order of steps may lose."""

LOST_BY_THE_KERNELS: Final = (write_before_the_root_is_marked,)
"""Those that real kernels lose, and so does the model."""

__all__ = [
    "LOST_BY_THE_KERNELS",
    "RACES",
    "aged_page_against_notifier",
    "clearing_d_against_write",
    "clearing_w_against_write",
    "dirty_flag_against_aging",
    "dirty_flag_against_zap",
    "fast_page_fault_against_log",
    "fast_zap_against_vcpu",
    "fault_against_notifier",
    "fault_against_zap",
    "flush_against_entry",
    "freed_memory_against_guest",
    "huge_page_against_small",
    "last_reference_against_iteration",
    "mmio_against_new_memory",
    "references_come_and_go",
    "slot_against_notifier",
    "two_faults_on_one_gfn",
    "two_root_allocations",
    "two_unsyncs_of_one_table",
    "unsync_against_write",
    "write_before_the_root_is_marked",
]
