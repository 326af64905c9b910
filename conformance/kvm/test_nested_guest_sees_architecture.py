"""A guest of a guest never sees the shadow either: its hypervisor's memory is in one MMU, its own in the other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.broken import BrokenModel, nothing
from conformance.kvm.host_steps import HOST_STEPS, move
from conformance.live import PREDICATES
from conformance.races.truths import whole
from conformance.scenes import MIB, NESTED_TABLES, PAGE, USED, Scene, guest, page_tables
from mmu_model.hardware import (
    CR4_PAE,
    EFER_LMA,
    EFER_NXE,
    LogicalProcessor,
    Mode,
    NestedPageFault,
    NestedPaging,
    PhysicalMemory,
    Registers,
)
from mmu_model.hardware.tables import PageTables
from mmu_model.kernels import KERNELS
from mmu_model.kvm.errors import KvmBug
from mmu_model.snapshot import MmuKind

ADDRESSES = (0x5000, 0x9000, 2 * MIB, 1 << 30)
"""Of the inner guest: two pages of one last-level table, one of another, one of another directory."""

FRAMES = (0x10_0000, 0x10_1000, 0x10_2000)
TABLES = tuple(NESTED_TABLES + n * PAGE for n in range(8))
MAXPHYADDR = 46
P, W, U, A, D, XD = 1, 2, 4, 1 << 5, 1 << 6, 1 << 63

addresses = st.sampled_from(ADDRESSES)
frames = st.sampled_from(FRAMES)
rights = st.sets(st.sampled_from((P, P, W, U, XD, A, D)), max_size=6).map(sum)
accesses = st.tuples(st.just("access"), st.sampled_from(("read", "write", "fetch")), addresses)
edits = st.tuples(st.just("edit"), addresses, st.tuples(frames, rights))
upper_edits = st.tuples(st.just("upper"), addresses, st.tuples(st.sampled_from((2, 3)), rights))
looks = st.tuples(st.just("look"), frames, st.just(0))
hosts = st.tuples(st.just("host"), st.sampled_from(HOST_STEPS), st.sampled_from((*FRAMES, *TABLES[:3])))
programs = st.lists(
    st.one_of(accesses, accesses, accesses, edits, upper_edits, looks, hosts), min_size=3, max_size=16
)


@dataclass
class Pair:
    """The same inner guest twice: under a hypervisor under KVM, and on a processor's own nested paging."""

    scene: Scene
    memory: PhysicalMemory
    tables: PageTables
    native: LogicalProcessor

    @classmethod
    def of(cls, kernel: str, mmu: MmuKind) -> "Pair":
        """Every address leads to the first frame; the hypervisor sees its nested tables where they are."""
        seen = {page: page for page in (*TABLES, *FRAMES)}
        scene = guest(kernel, mmu, "4-level", mapped=seen, mapped_flags=USED)
        memory = PhysicalMemory(MAXPHYADDR)
        below = page_tables(scene.vm, Mode.FOUR_LEVEL, NESTED_TABLES, [])
        beside = PageTables(memory, Mode.FOUR_LEVEL, iter(TABLES))
        for tables in (below, beside):
            for address in ADDRESSES:
                tables.map(address, FRAMES[0])
        for number, frame in enumerate(FRAMES):
            for at in (scene.vm.memory, memory):
                at.write(frame, 100 + number)
        pair = cls(scene, memory, beside, LogicalProcessor(memory))
        pair.enter()
        return pair

    def enter(self) -> None:
        """VMRUN on both; nobody remembers translations."""
        registers = Registers(maxphyaddr=MAXPHYADDR)
        self.scene.cpu.enter_nested(self.tables.root, registers)
        nested = NestedPaging(self.tables.root, cr4=CR4_PAE, efer=EFER_LMA | EFER_NXE, maxphyaddr=MAXPHYADDR)
        self.native = LogicalProcessor(self.memory)
        self.native.enter_guest(registers, nested)

    def step(self, what: str, first: Any, second: Any, number: int) -> None:
        """One step of a program."""
        if what == "access":
            self.access(first, second, number)
        elif what == "edit":
            self.hypervisor_writes(self.tables.entry_address(first, 1), second[0] | second[1])
        elif what == "upper":
            level, bits = second
            where = self.tables.entry_address(first, level)
            table = self.memory.read(where) & ~(P | W | U | XD)
            self.hypervisor_writes(where, table | P | bits & ~D)
        elif what == "look":
            self.hypervisor_reads(first)
        else:
            first(self.scene.vm, second)

    def access(self, kind: str, address: int, value: int) -> None:
        """The inner guest reads, writes or fetches: the same comes of it, or the same exit to the hypervisor."""

        def act(cpu: Any) -> object:
            return cpu.write(address, value) if kind == "write" else getattr(cpu, kind)(address)

        assert outcome(act, self.scene.cpu) == outcome(act, self.native)

    def hypervisor_writes(self, where: int, entry: int) -> None:
        """It changes an entry of its nested tables, and runs its guest again."""
        self.scene.cpu.leave_nested()
        self.scene.cpu.write(where, entry)
        self.memory.write(where, entry)
        self.enter()

    def hypervisor_reads(self, frame: int) -> None:
        """It sees what its guest wrote."""
        self.scene.cpu.leave_nested()
        assert self.scene.cpu.read(frame) == self.memory.read(frame)
        self.enter()

    def check(self) -> None:
        """What any state of KVM's MMUs satisfies."""
        whole(self.scene.vm)
        snapshot = self.scene.vm.snapshot()
        assert [what for predicate in PREDICATES for what in predicate.check(snapshot)] == []


def outcome(act: Callable[[Any], object], cpu: object) -> object:
    """What was read, or the exit with what it says."""
    try:
        return act(cpu)
    except NestedPageFault as fault:
        return fault.exit_info_1, fault.exit_info_2


@pytest.fixture
def model() -> Iterator[BrokenModel]:
    """A model that can be broken for the length of a test."""
    broken = BrokenModel()
    yield broken
    broken.restore()


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda kind: kind.value)
@pytest.mark.parametrize("kernel", list(KERNELS))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=programs)
def test_an_inner_guest_sees_the_architecture(
    kernel: str, mmu: MmuKind, program: list[tuple[str, object, object]]
) -> None:
    """Every access has the result, or the exit to its hypervisor, that nested paging gives by itself; and after
    every step all that is true of real snapshots is true of both MMUs."""
    run(Pair.of(kernel, mmu), program)


def run(pair: Pair, program: list[tuple[str, object, object]]) -> None:
    """Raises AssertionError, or what a broken MMU raises, where the two are told apart."""
    for number, (what, first, second) in enumerate(program):
        pair.step(what, first, second, number)
        pair.check()
    for frame in FRAMES:
        pair.hypervisor_reads(frame)


def tables_stay_writable(model: BrokenModel) -> None:
    """The TDP MMU does not protect the frame of a table that becomes shadowed."""
    model.replace("tdp.protect.kvm_tdp_mmu_write_protect_gfn", nothing(False))


def roots_are_not_synchronized(model: BrokenModel) -> None:
    """What the hypervisor wrote to an unsync table is never looked at."""
    model.replace("shadow.sync.kvm_mmu_sync_roots", nothing())


def the_shadow_mmu_hears_of_no_move(model: BrokenModel) -> None:
    """The notifier tells the TDP MMU alone."""
    model.replace("shadow.notifier.kvm_unmap_gfn_range", lambda kvm, slot, start, end: False)


def the_tdp_mmu_hears_of_no_move(model: BrokenModel) -> None:
    """The notifier tells the shadow MMU alone."""
    model.replace("tdp.notifier.kvm_tdp_mmu_unmap_gfn_range", nothing(False))


def nothing_is_flushed(model: BrokenModel) -> None:
    """Processors go on with what they remember."""
    model.replace("kvm.requests.flush_remote_tlbs", nothing())


HERE, F0, F1, F2 = ADDRESSES[0], *FRAMES
READS, WRITES = ("access", "read", HERE), ("access", "write", HERE)
LOOKS, MOVES = ("look", F0, 0), ("host", move, F0)


def remaps(frame: int) -> tuple[str, int, tuple[int, int]]:
    """The hypervisor makes an address lead to another frame."""
    return "edit", HERE, (frame, P | W | U | A)


WRONG: dict[Callable[[BrokenModel], None], list[Any]] = {
    tables_stay_writable: [READS, remaps(F1), READS, remaps(F2), READS],
    roots_are_not_synchronized: [READS, remaps(F1), READS],
    the_shadow_mmu_hears_of_no_move: [WRITES, MOVES, LOOKS, WRITES],
    the_tdp_mmu_hears_of_no_move: [LOOKS, MOVES, WRITES],
    nothing_is_flushed: [WRITES, MOVES, WRITES],
}
"""Each with a program that tells it from the right one."""


@pytest.mark.parametrize("breaks", WRONG, ids=lambda breaks: breaks.__name__)
def test_programs_tell_a_wrong_model(breaks: Callable[[BrokenModel], None], model: BrokenModel) -> None:
    run(Pair.of("6.12", MmuKind.TDP), WRONG[breaks])
    pair = Pair.of("6.12", MmuKind.TDP)
    breaks(model)

    with pytest.raises((AssertionError, KvmBug)):
        run(pair, WRONG[breaks])
