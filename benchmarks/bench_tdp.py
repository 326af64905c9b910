"""The TDP MMU: faults, a million pages, invalidating roots; and orders of steps explored."""

import time
from collections.abc import Iterator
from functools import partial

from benchmarks.measure import Measurement, benchmark, rate
from benchmarks.process import cost, python
from conformance.races import RACES
from mmu_model.kvm.fault import PFERR_USER_MASK
from mmu_model.kvm.page_fault import kvm_mmu_page_fault
from mmu_model.machine import Cpu, VirtualMachine
from mmu_model.schedule import explore
from mmu_model.tdp.zap import kvm_tdp_mmu_invalidate_all_roots

MILLION = 1 << 20
FEW, MANY = 1_000, 1_000_000
FAULTS, ROUNDS = 2_000, 25
"""Rounds are short, so that one of them has the machine to itself."""
KERNEL = "6.12"

MAP_A_MILLION = f"""
from benchmarks.bench_tdp import MILLION, touch, vcpu
touch(vcpu({MILLION}), 0, {MILLION})
"""


def vcpu(pages: int) -> Cpu:
    """A vCPU of a guest with so many pages of memory, which has touched the first."""
    vm = VirtualMachine(KERNEL)
    vm.add_memory(0, pages << 12)
    cpu = vm.add_cpu()
    cpu.read(0)
    return cpu


def touch(cpu: Cpu, first: int, count: int) -> None:
    """As many faults as pages: the processor's part is left out."""
    for page in range(first, first + count):
        kvm_mmu_page_fault(cpu.vcpu, page << 12, PFERR_USER_MASK)


@benchmark
def tdp_faults() -> Iterator[Measurement]:
    """Each maps a page of 4 KiB."""
    cpu = vcpu(ROUNDS * FAULTS)
    firsts = iter(range(0, ROUNDS * FAULTS, FAULTS))
    best = rate(lambda: touch(cpu, next(firsts), FAULTS), FAULTS, ROUNDS)
    yield Measurement("TDP faults", best, "faults/s", target=30_000)


@benchmark
def a_million_pages() -> Iterator[Measurement]:
    """In a process of its own, for the memory."""
    took = cost(python(MAP_A_MILLION))
    yield Measurement("1 million pages of 4 KiB mapped, whole process", took.seconds, "s")
    yield Measurement("1 million pages of 4 KiB mapped, memory", took.mib, "MiB", target=1024)


@benchmark
def invalidating_all_roots() -> Iterator[Measurement]:
    """The part of a fast zap that vCPUs wait for, whatever is below the roots."""
    few, many = (invalidation(pages) for pages in (FEW, MANY))
    yield Measurement(
        f"invalidating all roots, {MANY:,} pages, as a multiple of {FEW:,}", many / few, "times", target=1.5
    )


def invalidation(pages: int) -> float:
    """Seconds for one invalidation of a VM with so many pages mapped."""
    cpu = vcpu(pages)
    touch(cpu, 0, pages)
    kvm = cpu.vcpu.kvm
    (root,) = kvm.tdp_mmu_roots
    valid = root.role

    def again() -> None:
        for _ in range(1_000):
            root.role = valid
            kvm_tdp_mmu_invalidate_all_roots(kvm)

    with kvm.mmu_lock.write:
        return 1 / rate(again, 1_000)


@benchmark
def explorations() -> Iterator[Measurement]:
    """Every order in each race, and how many there are."""
    states, took = 0, 0.0
    for race in RACES:
        begin = time.process_time()
        found = explore(partial(race, KERNEL))
        lasted = time.process_time() - begin
        what = f"{race.__name__}: {found.schedules:,} orders of up to {found.longest} steps, {found.states:,} states"
        yield Measurement(what, found.schedules / lasted, "orders/s")
        states, took = states + found.states, took + lasted
    yield Measurement(f"all {len(RACES)} races: {states:,} states", states / took, "states/s")
