"""A guest never sees the shadow, in any mode, whatever becomes of its memory; and KVM's state is whole at any time."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.broken import BrokenModel, nothing
from conformance.kvm.invariants import check
from conformance.kvm.twins import ADDRESSES, BASES, FRAMES, XD, A, P, Step, Twins, U, W, step
from conformance.looking import structs
from mmu_model.hardware import Kind, Mode
from mmu_model.kernels import KERNELS
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.mmio import check_mmio_spte
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind

FULL = P | W | U | A

addresses = st.sampled_from(ADDRESSES)
rights = st.sets(st.sampled_from((P, W, U, XD)), max_size=4).map(lambda bits: A | sum(bits))
entries = st.tuples(st.sampled_from(FRAMES), rights).map(sum)
accesses = st.tuples(
    st.just("access"), st.sampled_from(Kind), addresses, st.sampled_from((0, 3)), st.integers(1, 99)
)
steps: st.SearchStrategy[Step] = st.one_of(
    accesses,
    accesses,
    accesses,
    st.tuples(st.just("edit"), addresses, st.just(1), entries),
    st.tuples(st.just("edit"), addresses, st.just(1), entries),
    st.tuples(st.just("edit_upper"), addresses, st.sampled_from((0, 1)), rights),
    st.tuples(st.just("switch"), st.sampled_from(Mode)),
    st.tuples(st.just("toggle"), st.sampled_from(("WP", "SMEP", "SMAP", "paging"))),
    st.just(("smm",)),
    st.tuples(st.just("add"), st.sampled_from((0, 1))),
    st.sampled_from((("remove",), ("move",), ("fetch_log",), ("log", True), ("log", False))),
    st.tuples(
        st.just("host"), st.sampled_from(("shrink", "age", "swap", "move")), st.sampled_from(FRAMES[:2])
    ),
)

MMUS = {
    "shadow": (MmuKind.SHADOW, TdpFormat.NPT),
    "direct": (MmuKind.DIRECT, TdpFormat.NPT),
    "direct-ept-without-ad": (MmuKind.DIRECT, TdpFormat.EPT_WITHOUT_AD),
    "tdp": (MmuKind.TDP, TdpFormat.NPT),
    "tdp-ept": (MmuKind.TDP, TdpFormat.EPT),
}


def run(twins: Twins, program: list[Step]) -> None:
    """Raises AssertionError where the two are told apart, or KVM's state is not whole."""
    for each in program:
        step(twins, *each)
        check(twins.vm)
    if twins.outside is not None:
        twins.smm()
    twins.fetch_log()
    twins.same_memory()


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("kernel", list(KERNELS))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=st.lists(steps, min_size=5, max_size=25))
def test_a_guest_never_sees_the_shadow(kernel: str, mmu: str, program: list[Step]) -> None:
    run(Twins.of(kernel, *MMUS[mmu]), program)


@pytest.fixture
def model() -> Iterator[BrokenModel]:
    """A model that can be broken for the length of a test."""
    broken = BrokenModel()
    yield broken
    broken.restore()


def replaced(path: str, new: object) -> Callable[[BrokenModel], None]:
    """A model in which something is another."""
    return lambda model: model.replace(path, new)


def ignores(*paths: str) -> Callable[[BrokenModel], None]:
    """A model that does nothing in these places."""

    def breaks(model: BrokenModel) -> None:
        for path in paths:
            model.replace(path, lambda *_, **__: False)

    return breaks


def skips(*paths: str) -> Callable[[BrokenModel], None]:
    """The same for what can be overtaken."""

    def breaks(model: BrokenModel) -> None:
        for path in paths:
            model.replace(path, nothing(False))

    return breaks


def access(kind: Kind, address: int = ADDRESSES[0], cpl: int = 0, value: int = 7) -> Step:
    return "access", kind, address, cpl, value


READ, WRITE, FETCH = (access(kind) for kind in (Kind.READ, Kind.WRITE, Kind.FETCH))
READ_ONLY = A | P | U | FRAMES[0]
SPARE = ("edit", ADDRESSES[0], 1, FULL | FRAMES[2])
PHYSICAL: tuple[Step, ...] = (("switch", Mode.OFF), access(Kind.WRITE, BASES[0] + 8, 0, 5))

WRONG: dict[str, tuple[str, Callable[[BrokenModel], None], list[Step]]] = {
    "an edited entry is not looked at": (
        "shadow",
        replaced("shadow.sync.sync_spte", lambda vcpu, sp, index: 0),
        [("switch", Mode.PAE), WRITE, ("edit", ADDRESSES[0], 1, FULL | FRAMES[1]), READ],
    ),
    "an edited upper entry is not looked at": (
        "shadow",
        ignores("shadow.track_write.kvm_mmu_track_write"),
        [WRITE, ("edit_upper", ADDRESSES[0], 0, A | P), WRITE],
    ),
    "rights of upper entries do not count": (
        "shadow",
        replaced("kvm.guest_walk.acc_bits", lambda *_: 7),
        [WRITE, ("edit_upper", ADDRESSES[0], 0, A | P), READ, WRITE],
    ),
    "CR0 is not looked at": (
        "shadow",
        replaced("kvm.registers.KVM_MMU_CR0_ROLE_BITS", 0),
        [("switch", Mode.THIRTY_TWO_BIT), WRITE, ("toggle", "paging"), READ],
    ),
    "SMEP is not looked at": (
        "shadow",
        replaced("kvm.registers.KVM_MMU_CR4_ROLE_BITS", 0),
        [("edit", ADDRESSES[0], 1, READ_ONLY), ("toggle", "WP"), WRITE, ("toggle", "SMEP"), FETCH],
    ),
    "a quarter is shadowed for another": (
        "shadow",
        replaced("kvm.role.root_quadrant", lambda index: 0),
        [("switch", Mode.THIRTY_TWO_BIT), access(Kind.WRITE, ADDRESSES[3])],
    ),
    "new memory is not seen": (
        "tdp",
        ignores("kvm.memory_region.finish_memslots_update"),
        [*PHYSICAL, ("add", 0), access(Kind.READ, BASES[0] + 8)],
    ),
    "memory that goes is mapped still": (
        "shadow",
        skips("kvm.zap_all.kvm_mmu_zap_all_fast"),
        [("add", 0), SPARE, WRITE, ("remove",)],
    ),
    "memory that moves is mapped where it was": (
        "direct",
        skips("kvm.zap_all.kvm_mmu_zap_all_fast"),
        [("add", 0), *PHYSICAL, ("move",)],
    ),
    "writes to what was writable are not logged": (
        "direct",
        ignores("shadow.slot.kvm_mmu_slot_remove_write_access"),
        [WRITE, ("log", True), WRITE, ("fetch_log",)],
    ),
    "a write is logged once only": (
        "shadow",
        ignores("shadow.slot.kvm_mmu_write_protect_gfns"),
        [("log", True), WRITE, ("fetch_log",), WRITE, ("fetch_log",)],
    ),
    "writes under the TDP MMU are not logged": (
        "tdp",
        skips("tdp.protect.kvm_tdp_mmu_wrprot_slot"),
        [WRITE, ("log", True), WRITE, ("fetch_log",)],
    ),
    "what the host takes is mapped still": (
        "shadow",
        ignores("shadow.notifier.kvm_unmap_gfn_range"),
        [WRITE, ("host", "swap", FRAMES[0])],
    ),
    "what the host moves is mapped where it was": (
        "tdp",
        skips("tdp.notifier.kvm_tdp_mmu_unmap_gfn_range"),
        [WRITE, ("host", "move", FRAMES[0])],
    ),
    "what is made old may be written to": (
        "direct-ept-without-ad",
        replaced("kvm.spte.SpteMasks.mark_for_access_track", lambda masks, spte: spte | W),
        [READ, ("log", True), ("fetch_log",), ("host", "age", FRAMES[0]), WRITE, ("fetch_log",)],
    ),
    "SMM has the memory of others": (
        "tdp",
        replaced("kvm.vcpu.KvmVcpu.memslots", property(lambda vcpu: vcpu.kvm.memslots[0])),
        [("switch", Mode.OFF), WRITE, ("smm",), READ],
    ),
    "pages of SMM are pages of others": (
        "shadow",
        replaced("kvm.vm.Kvm.slots_for_role", lambda kvm, role: kvm.memslots[0]),
        [("smm",), WRITE],
    ),
    "tables may be written to": (
        "shadow",
        ignores("shadow.accounting.write_protect_gfn"),
        [("edit_upper", ADDRESSES[0], 0, FULL), ("edit", ADDRESSES[3], 1, FULL | FRAMES[1]), READ],
    ),
    "large frames have no list": (
        "shadow",
        replaced("shadow.sptes.pte_list_add", lambda host, head, sptep: 0),
        [READ],
    ),
    "children do not know their parents": (
        "direct",
        replaced("shadow.pages.pte_list_add", lambda host, head, sptep: 0),
        [READ],
    ),
    "pages that shadow tables are not uncounted": (
        "shadow",
        ignores("shadow.zap.unaccount_shadowed"),
        [READ, ("host", "shrink", FRAMES[0])],
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_program_tells_a_wrong_model(wrong: str, model: BrokenModel) -> None:
    """The right model passes, the wrong one does not."""
    mmu, breaks, program = WRONG[wrong]
    run(Twins.of("6.12", *MMUS[mmu]), program)
    twins = Twins.of("6.12", *MMUS[mmu])
    breaks(model)

    with pytest.raises((AssertionError, KvmBug)):
        run(twins, program)


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_synchronizing_revives_an_mmio_spte(kernel: str) -> None:
    """An address without memory is known as such; then memory comes, so that this is not believed any more; then the
    guest writes the same entry again. In synchronizing it 6.12 gives the spte the new generation, and does not
    ask whether there is memory; 6.1 drops the spte and makes none in advance."""
    twins = Twins.of(kernel, *MMUS["shadow"])
    program: list[Step] = [SPARE, READ, ("add", 0), SPARE]
    for each in program:
        step(twins, *each)

    entries = [word for sp in structs(twins.vm) for word in twins.vm.host.words(sp.spt)]
    believed = [w for w in entries if twins.vm.kvm.masks.is_mmio(w) and check_mmio_spte(twins.cpu.vcpu, w)]

    assert len(believed) == (1 if kernel == "6.12" else 0)
    assert twins.vm.kvm.memslots[0].find(FRAMES[2] >> 12) is not None
