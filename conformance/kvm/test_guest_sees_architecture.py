"""A guest never sees the shadow: random programs have the results that the processor alone gives them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.broken import BrokenModel, nothing
from conformance.kvm.host_steps import HOST_STEPS, move
from conformance.kvm.twins import Machine
from conformance.live import PREDICATES
from conformance.races.truths import whole
from conformance.scenes import MIB, PAGE, TABLES, Editor, editing_guest
from mmu_model.hardware import CR0_WP, CR4_SMEP, LogicalProcessor, PageFault, PhysicalMemory
from mmu_model.kernels import KERNELS
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind

ADDRESSES = (0x5000, 0x9000, 2 * MIB, 1 << 30)
"""Two pages of one last-level table, one of another, one of another directory."""

FRAMES = (0x10_0000, 0x10_1000, 0x10_2000)
UPPER = (2, 3)
P, W, U, A, XD = 1, 2, 4, 1 << 5, 1 << 63

addresses = st.sampled_from(ADDRESSES)
rights = st.sets(st.sampled_from((P, W, U, XD)), max_size=4).map(lambda bits: A | sum(bits))
accesses = st.tuples(st.sampled_from(("read", "write", "fetch")), addresses, st.sampled_from((0, 3)))
edits = st.tuples(st.just("edit"), addresses, st.tuples(st.sampled_from(FRAMES), rights))
upper_edits = st.tuples(st.just("upper"), addresses, st.tuples(st.sampled_from(UPPER), rights))
modes = st.tuples(st.just("mode"), st.sampled_from(("wp", "smep")), st.just(0))
hosts = st.tuples(st.just("host"), st.sampled_from(HOST_STEPS), st.sampled_from(FRAMES))
programs = st.lists(st.one_of(accesses, accesses, edits, upper_edits, modes, hosts), min_size=3, max_size=14)


@dataclass
class Pair:
    """The same guest twice: under KVM, and on a processor of its own."""

    scene: Editor
    native: LogicalProcessor
    entries: dict[tuple[int, int], int]

    @classmethod
    def of(cls, kernel: str, mmu: MmuKind, tdp_format: TdpFormat, *, pml: bool) -> "Pair":
        """Both with the tables of an editing guest, and the frames numbered."""
        mapped = dict.fromkeys(ADDRESSES, FRAMES[0])
        scene = editing_guest(kernel, mapped, mmu=mmu, tdp_format=tdp_format, pml=pml)
        memory = PhysicalMemory(46)
        for number, frame in enumerate(FRAMES):
            for at in (scene.vm.memory, memory):
                at.write(frame, 100 + number)
        for table in scene.frames:
            for address in range(table, table + PAGE, 8):
                if word := scene.vm.memory.read(address):
                    memory.write(address, word)
        tables = scene.tables
        assert tables is not None
        entries = {(at, level): tables.entry_address(at, level) for at in ADDRESSES for level in (1, *UPPER)}
        return cls(scene, LogicalProcessor(memory, scene.cpu.vcpu.registers), entries)

    def both(self, act: Callable[[Machine], object]) -> None:
        """Do the same on both, and see that the same comes of it."""
        outcomes = []
        for machine in (self.scene.cpu, self.native):
            try:
                outcomes.append(act(machine))
            except PageFault as fault:
                outcomes.append((fault.error_code, fault.cr2))
        assert outcomes[0] == outcomes[1]

    def step(self, what: str, first: Any, second: Any, number: int) -> None:
        """One step of a program."""
        if what == "edit":
            self.edit(first, 1, second[0] | second[1])
        elif what == "upper":
            self.edit_upper(first, *second)
        elif what == "mode":
            self.mode(first)
        elif what == "host":
            first(self.scene.vm, second)
        else:
            self.access(what, first, second, number)

    def access(self, kind: str, address: int, cpl: int, value: int) -> None:
        """Read, write or fetch."""
        if kind == "write":
            self.both(lambda machine: machine.write(address, value, cpl=cpl))
        else:
            self.both(lambda machine: getattr(machine, kind)(address, cpl=cpl))

    def edit(self, address: int, level: int, entry: int) -> None:
        """Change an entry through the window, and flush what it translated, as the architecture demands."""
        where = self.scene.window + self.entries[address, level] - TABLES
        self.both(lambda machine: machine.write(where, entry))
        if level == 1:
            self.both(lambda machine: machine.invlpg(address))
        else:
            cr3 = self.native.registers.cr3
            self.both(lambda machine: machine.mov_cr3(cr3))

    def edit_upper(self, address: int, level: int, bits: int) -> None:
        """Change the rights of an upper entry."""
        table = self.native.memory.read(self.entries[address, level]) & ~(P | W | U | XD)
        self.edit(address, level, table | bits)

    def mode(self, what: str) -> None:
        """Turn a protection on or off."""
        registers = self.native.registers
        if what == "wp":
            self.both(lambda machine: machine.mov_cr0(registers.cr0 ^ CR0_WP))
        else:
            self.both(lambda machine: machine.mov_cr4(registers.cr4 ^ CR4_SMEP))

    def check(self) -> None:
        """What any state of KVM's MMUs satisfies."""
        whole(self.scene.vm)
        snapshot = self.scene.vm.snapshot()
        assert [what for predicate in PREDICATES for what in predicate.check(snapshot)] == []

    def same_memory(self) -> None:
        """The frames have the same contents in the end."""
        for frame in FRAMES:
            assert self.scene.vm.memory.read(frame) == self.native.memory.read(frame)


@pytest.fixture
def model() -> Iterator[BrokenModel]:
    """A model that can be broken for the length of a test."""
    broken = BrokenModel()
    yield broken
    broken.restore()


MMUS = (
    (MmuKind.SHADOW, TdpFormat.NPT, False),
    (MmuKind.DIRECT, TdpFormat.NPT, False),
    (MmuKind.DIRECT, TdpFormat.EPT_WITHOUT_AD, False),
    (MmuKind.TDP, TdpFormat.NPT, False),
    (MmuKind.TDP, TdpFormat.EPT, False),
    (MmuKind.TDP, TdpFormat.EPT, True),
    (MmuKind.TDP, TdpFormat.EPT_WITHOUT_AD, False),
)


@pytest.mark.parametrize(
    "mmu", MMUS, ids=lambda mmu: f"{mmu[0].value}-{mmu[1].value}{'-pml' if mmu[2] else ''}"
)
@pytest.mark.parametrize("kernel", list(KERNELS))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=programs)
def test_a_guest_sees_the_architecture(
    kernel: str, mmu: tuple[MmuKind, TdpFormat, bool], program: list[tuple[str, object, object]]
) -> None:
    """Every access has the result, or the fault with the error code, that the processor gives by itself; and
    after every step all that is true of real snapshots is true."""
    kind, tdp_format, pml = mmu
    run(Pair.of(kernel, kind, tdp_format, pml=pml), program)


def run(pair: Pair, program: list[Any]) -> None:
    """Raises AssertionError where the two are told apart."""
    for number, (what, first, second) in enumerate(program):
        pair.step(what, first, second, number)
        pair.check()
    pair.same_memory()


def nothing_is_unmapped(model: BrokenModel) -> None:
    """The host moves pages, and sptes lead to where they were."""
    model.replace("tdp.notifier.kvm_tdp_mmu_unmap_gfn_range", nothing(False))


def nothing_is_flushed(model: BrokenModel) -> None:
    """Processors go on with what they remember."""
    model.replace("kvm.requests.flush_remote_tlbs", nothing())


def leaves_are_counted_once(model: BrokenModel) -> None:
    """The statistics do not hear of leaves that go."""
    model.wrap(
        "tdp.changed.handle_changed_spte",
        lambda original: lambda kvm, gfn, old, new, level: original(kvm, gfn, old if new else 0, new, level),
    )


@pytest.mark.parametrize("breaks", [nothing_is_unmapped, nothing_is_flushed, leaves_are_counted_once])
def test_programs_tell_a_wrong_tdp_mmu(breaks: Callable[[BrokenModel], None], model: BrokenModel) -> None:
    program = [("write", ADDRESSES[0], 0), ("host", move, FRAMES[0]), ("write", ADDRESSES[0], 0)]
    run(Pair.of("6.1", MmuKind.TDP, TdpFormat.NPT, pml=False), program)
    pair = Pair.of("6.1", MmuKind.TDP, TdpFormat.NPT, pml=False)
    breaks(model)

    with pytest.raises((AssertionError, KvmBug)):
        run(pair, program)
