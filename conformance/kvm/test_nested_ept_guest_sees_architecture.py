"""The guest of a guest never sees EPT02: random programs, and random edits of EPT12 by their hypervisor."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.kvm.nested_pair import DEVICE, FRAMES, LARGE, LINEAR, NGPAS, NestedPair
from conformance.scenes import INNER_TABLES, MIB, PAGE
from mmu_model.hardware import Mode
from mmu_model.kernels import KERNELS
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind

P, W, U, A, XD = 1, 2, 4, 1 << 5, 1 << 63
EPT_R, EPT_W, EPT_X, EPT_A, EPT_D, EPT_PS = 1, 2, 4, 1 << 8, 1 << 9, 1 << 7
WRITE_BACK, RESERVED = 6 << 3, 1 << 50

accesses = st.tuples(
    st.sampled_from(("read", "write", "fetch")), st.sampled_from(LINEAR), st.sampled_from((0, 3))
)
every_way = st.tuples(
    st.just("every way"),
    st.sampled_from(LINEAR),
    st.tuples(st.permutations(("read", "write", "fetch")), st.sampled_from((0, 3))),
)
rights = st.sets(st.sampled_from((P, W, U)), max_size=3).map(lambda bits: A | sum(bits))
edits = st.tuples(
    st.just("edit"), st.sampled_from(LINEAR), st.tuples(st.sampled_from((*NGPAS, LARGE)), rights).map(sum)
)
ept_rights = st.sets(st.sampled_from((EPT_R, EPT_W, EPT_X)), max_size=3).map(sum)
flags = st.sets(st.sampled_from((EPT_A, EPT_D)), max_size=2).map(sum)
types = st.sampled_from((WRITE_BACK, WRITE_BACK, WRITE_BACK, 0, 2 << 3))
small = st.tuples(st.sampled_from(FRAMES), ept_rights, flags, types).map(sum)
"""Some are misconfigurations: W without R, memory type 2."""
malformed = small.map(lambda entry: entry | RESERVED)
ept_edits = st.tuples(st.just(1), st.sampled_from(NGPAS), st.one_of(small, small, malformed))
ept_large = st.tuples(
    st.just(2),
    st.just(LARGE),
    st.tuples(st.sampled_from((16 * MIB, 20 * MIB)), ept_rights, flags, types, st.just(EPT_PS)).map(sum),
)
tables = st.tuples(
    st.just(1),
    st.sampled_from(range(3)).map(lambda n: INNER_TABLES + n * PAGE),
    st.sampled_from((0, EPT_R, EPT_R | EPT_W, EPT_R | EPT_W | EPT_X)),
)
"""What the inner guest's own tables are in: mapped to themselves, or not at all."""
upper = st.tuples(st.sampled_from((2, 3, 4)), st.just(NGPAS[0]), ept_rights)

hypervisor = st.tuples(st.just("ept"), st.one_of(ept_edits, ept_edits, ept_large, tables, upper))
hosts = st.tuples(st.just("host"), st.sampled_from(("zap", "log", "stop logging")))
others = st.sampled_from((("cr3",), ("switch",)))
programs = st.lists(
    st.one_of(accesses, every_way, every_way, edits, hypervisor, hypervisor, hosts, others),
    min_size=3,
    max_size=16,
)

device = flags.map(lambda bits: DEVICE | WRITE_BACK | EPT_R | EPT_W | EPT_X | bits)
device_edits = st.tuples(
    st.just("ept"), st.tuples(st.just(1), st.sampled_from(NGPAS), st.one_of(device, small))
)
device_programs = st.lists(
    st.one_of(accesses, every_way, edits, device_edits, hosts), min_size=3, max_size=12
)
"""Where there is no memory KVM emulates the access, and every walk of the inner guest's tables is a write then,
and every access a read: so their pages, and devices, have all rights."""


def step(pair: NestedPair, what: str, arguments: list[Any], number: int) -> None:
    """One step of a program."""
    if what == "edit":
        pair.edit(*arguments)
    elif what == "ept":
        edit_ept(pair, *arguments[0])
    elif what == "host":
        pair.host(*arguments)
    elif what == "cr3":
        pair.load_cr3()
    elif what == "switch":
        if pair.scene.vm.kvm.masks.accessed:
            pair.switch_flags()
    elif what == "every way":
        address, (kinds, cpl) = arguments
        for kind in kinds:
            pair.access(kind, address, cpl, number)
    else:
        address, cpl = arguments
        pair.access(what, address, cpl, number)


def edit_ept(pair: NestedPair, level: int, ngpa: int, entry: int) -> None:
    """An entry of the last level as it is; one of the inner guest's tables, or an upper one, but for rights."""
    if level > 1 and not entry & EPT_PS:
        entry |= pair.native.memory.read(pair.eptes[ngpa, level]) & ~7
    elif ngpa >= INNER_TABLES and entry:
        entry |= ngpa | WRITE_BACK
    pair.edit_ept(ngpa, level, entry)


machines = st.tuples(
    st.sampled_from((Mode.FOUR_LEVEL, Mode.PAE)),
    st.sampled_from((TdpFormat.EPT, TdpFormat.EPT_WITHOUT_AD)),
    st.sampled_from((4, 5)),
)
"""The paging of the inner guest, the host's EPT, and the walk length that the hypervisor chose for its own."""


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda kind: kind.value)
@pytest.mark.parametrize("kernel", list(KERNELS))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(machine=machines, program=programs)
def test_a_nested_guest_sees_the_architecture(
    kernel: str, mmu: MmuKind, machine: tuple[Mode, TdpFormat, int], program: list[tuple[Any, ...]]
) -> None:
    """Every access has the result that the processor gives over EPT12 itself: the value, the page fault, the
    exit to the hypervisor with its qualification; and after every step all that is true of snapshots is."""
    pair = NestedPair.of(kernel, mmu, *machine)
    for number, (what, *arguments) in enumerate(program):
        step(pair, what, arguments, number)
        pair.check()
    pair.same_memory()


@pytest.mark.parametrize("kernel", list(KERNELS))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(machine=machines, program=device_programs)
def test_a_nested_guest_sees_devices_where_its_hypervisor_has_them(
    kernel: str, machine: tuple[Mode, TdpFormat, int], program: list[tuple[Any, ...]]
) -> None:
    """The device keeps what is written to it, so that it is as good as the memory that the processor finds."""
    pair = NestedPair.of(kernel, MmuKind.TDP, *machine)
    for number, (what, *arguments) in enumerate(program):
        step(pair, what, arguments, number)
    pair.check()
    pair.same_memory()
