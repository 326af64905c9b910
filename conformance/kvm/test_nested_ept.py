"""A hypervisor on Intel's processors: what is in the EPT that KVM makes of its own, and what it is told."""

import pytest

from conformance.kvm.nested_scenes import (
    DEVICE,
    LINEAR,
    PAGE_TRANSLATED,
    RESERVED,
    fault,
    levels,
    paging_inner_guest,
)
from conformance.nested_ept import (
    EPT_A,
    EPT_D,
    EPT_USED,
    WRITE_BACK,
    R,
    W,
    X,
    nested_ept_guest,
)
from conformance.scenes import INNER_TABLES, MIB, PAGE
from mmu_model.hardware import (
    EptMisconfiguration,
    EptViolation,
)
from mmu_model.kernels import KERNELS
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import TripleFault
from mmu_model.snapshot import Kind, MmuKind

both_mmus = pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda kind: kind.value)
pytestmark = pytest.mark.parametrize("kernel", KERNELS)


# What is in the tables that the processor walks


@both_mmus
@pytest.mark.parametrize("walk_length", [4, 5])
@pytest.mark.parametrize(
    ("tdp_format", "accessed_dirty"),
    [(TdpFormat.EPT, True), (TdpFormat.EPT, False), (TdpFormat.EPT_WITHOUT_AD, False)],
)
def test_the_words_of_ept02(
    kernel: str, mmu: MmuKind, walk_length: int, tdp_format: TdpFormat, accessed_dirty: bool
) -> None:
    """Entries of EPT's format, as many levels as EPT12 has; KVM's mark where the flags are not to be used."""
    scene = nested_ept_guest(
        kernel,
        mmu,
        {0x5000: 0x6000},
        walk_length=walk_length,
        accessed_dirty=accessed_dirty,
        tdp_format=tdp_format,
    )
    scene.cpu.write(0x5000, 5)
    words = levels(scene, 0x5000)
    frame = (scene.vm.memory.hpa(0x6000) or 0) & ~0xFFF
    common = 1 << 11 | (1 << 63 if kernel == "6.12" else 0)
    tables = common | 7 | (EPT_A if accessed_dirty else 1 << 52)
    page = common | 7 | WRITE_BACK | 1 << 6 | 3 << 57 | (EPT_A | EPT_D if accessed_dirty else 1 << 52)

    assert list(words) == list(range(walk_length, 0, -1))
    assert {word & ~((1 << 52) - (1 << 12)) for level, word in words.items() if level > 1} == {tables}
    assert words[1] == frame | page
    assert scene.vm.memory.read(0x6000) == 5


@both_mmus
def test_role_words(kernel: str, mmu: MmuKind) -> None:
    """By the positions of the bits: level 3:0, access 10:8, ad_disabled 16, guest_mode 17; nothing else."""
    with_flags = nested_ept_guest(kernel, mmu, {0x5000: 0x6000})
    without = nested_ept_guest(kernel, mmu, {0x5000: 0x6000}, accessed_dirty=False, walk_length=5)
    for scene in (with_flags, without):
        scene.cpu.read(0x5000)

    assert sorted(page.role_word for page in with_flags.shadows()) == [0x20701, 0x20702, 0x20703, 0x20704]
    assert {page.role_word for page in without.shadows()} == {0x30700 | level for level in range(1, 6)}
    mmus = [scene.vm.snapshot().vcpus[0].guest_mmu for scene in (with_flags, without)]
    assert [mmu.root_role for mmu in mmus] == [0x20704, 0x30705]
    assert [mmu.cpu_role for mmu in mmus] == [0x3_0002_0704, 0x3_0003_0705]


@both_mmus
def test_access_is_inherited_as_rights_to_read_write_and_execute(kernel: str, mmu: MmuKind) -> None:
    """4 where EPT12 lets read, 2 write, 1 execute; below an execute-only table all is execute-only."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000})
    where = scene.ept.entry_address(0x5000, 3)
    scene.vm.memory.write(where, scene.vm.memory.read(where) & ~(R | W))
    scene.cpu.fetch(0x5000)

    assert {page.role.level: page.role.access for page in scene.shadows()} == {4: 7, 3: 7, 2: 1, 1: 1}
    assert levels(scene, 0x5000)[1] & 7 == X
    assert fault(scene, "read", 0x5000).exit_qualification == 1 | X << 3 | LINEAR | PAGE_TRANSLATED


@both_mmus
@pytest.mark.parametrize("host_level", [1, 2])
def test_large_pages_of_ept12(kernel: str, mmu: MmuKind, host_level: int) -> None:
    """On large host pages one large spte; on small ones a direct page with the access of the large entry."""
    scene = nested_ept_guest(
        kernel, mmu, {4 * MIB: 8 * MIB}, level=2, flags=EPT_USED & ~X, host_level=host_level
    )
    scene.cpu.write(4 * MIB + 0x3008, 5)

    assert scene.vm.memory.read(8 * MIB + 0x3008) == 5
    assert min(levels(scene, 4 * MIB + 0x3000)) == host_level
    assert [page.role_word for page in scene.shadows() if page.role.direct] == (
        [0x20681] if host_level == 1 else []
    )
    assert fault(scene, "fetch", 4 * MIB + 0x3000).permitted == R | W


@both_mmus
def test_without_flags_no_entry_is_clean(kernel: str, mmu: MmuKind) -> None:
    """With them a read leaves W out until the first write, which sets the flag in EPT12; without, it does not."""
    clean = EPT_USED & ~(EPT_A | EPT_D)
    kept = nested_ept_guest(kernel, mmu, {0x5000: 0x6000}, flags=clean)
    not_kept = nested_ept_guest(kernel, mmu, {0x5000: 0x6000}, flags=clean, accessed_dirty=False)
    for scene in (kept, not_kept):
        scene.cpu.read(0x5000)
    assert [levels(scene, 0x5000)[1] & W for scene in (kept, not_kept)] == [0, W]
    assert [scene.entry(0x5000) & (EPT_A | EPT_D) for scene in (kept, not_kept)] == [EPT_A, 0]

    for scene in (kept, not_kept):
        scene.cpu.write(0x5000, 1)

    assert [levels(scene, 0x5000)[1] & W for scene in (kept, not_kept)] == [W, W]
    assert [scene.entry(0x5000) & (EPT_A | EPT_D) for scene in (kept, not_kept)] == [EPT_A | EPT_D, 0]


# What the hypervisor is told


@both_mmus
@pytest.mark.parametrize(
    ("kind", "rights", "permitted", "requested"),
    [("read", X, X, R), ("write", R | X, R | X, W), ("fetch", R | W, R | W, X), ("write", 0, 0, W)],
)
def test_violations(
    kernel: str, mmu: MmuKind, kind: str, rights: int, permitted: int, requested: int
) -> None:
    """The qualification says what the access was and what EPT12 permits; bits 8:7 are the processor's."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000}, flags=EPT_USED & ~7 | rights)

    violation = fault(scene, kind, 0x5010)

    assert violation.args == (requested | permitted << 3 | LINEAR | PAGE_TRANSLATED, 0x5010)


@both_mmus
@pytest.mark.parametrize("bits", [W, W | X, R | 2 << 3, R | 3 << 3, R | 7 << 3, R | WRITE_BACK | RESERVED])
def test_misconfigurations(kernel: str, mmu: MmuKind, bits: int) -> None:
    """W without R, a memory type that is none, an address that is too wide."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000})
    scene.cpu.read(0x5000)

    scene.edit(0x5000, 0x6000 | bits)

    assert isinstance(fault(scene, "read", 0x5010), EptMisconfiguration)
    scene.edit(0x5000, 0x6000 | EPT_USED)
    assert scene.outcome("read", 0x5010) == 0


@both_mmus
@pytest.mark.parametrize("level", [2, 3, 4])
def test_a_misconfigured_table(kernel: str, mmu: MmuKind, level: int) -> None:
    """Bits 6:3 of an entry that leads on must be 0."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000})
    scene.cpu.read(0x5000)

    scene.edit(0x5000, scene.entry(0x5000, level) | WRITE_BACK, level)

    assert isinstance(fault(scene, "read", 0x5010), EptMisconfiguration)


@both_mmus
def test_an_ept_where_there_is_no_memory(kernel: str, mmu: MmuKind) -> None:
    """A table that is nowhere is an entry that is not present; the rights are those of the levels above."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000})
    scene.edit(0x5000, DEVICE | R | X, 2)

    assert fault(scene, "read", 0x5000).args == (R | (R | X) << 3 | LINEAR | PAGE_TRANSLATED, 0x5000)


@both_mmus
def test_an_eptp_that_points_at_no_memory(kernel: str, mmu: MmuKind) -> None:
    """6.12 has an EPT of zeroes for it; 6.1 shuts the guest down."""
    scene = nested_ept_guest(kernel, mmu, {})
    scene.eptp = DEVICE | scene.eptp & 0xFFF
    scene.as_hypervisor(lambda: None)

    with pytest.raises(TripleFault if kernel == "6.1" else EptViolation):
        scene.cpu.read(0x5000)


def test_a_walk_of_the_inner_guest_is_told_from_its_page(kernel: str) -> None:
    """With flags for EPT reading an entry is a write, too (SDM vol. 3, 29.3.3.2); bit 8 is 0 then."""
    for accessed_dirty, requested in (True, R | W), (False, R):
        scene = paging_inner_guest(kernel, accessed_dirty=accessed_dirty)
        scene.edit(INNER_TABLES, 0)
        violation = fault(scene, "read", 0x1000)
        assert violation.args == (requested | LINEAR, INNER_TABLES)
        assert fault(scene, "read", 0x1000).args == violation.args


def test_faults_of_the_inner_guests_own_tables_are_its_own(kernel: str) -> None:
    """Nobody else sees them."""
    scene = paging_inner_guest(kernel)

    assert fault(scene, "read", 0x4000).args == (0, 0x4000)
    assert fault(scene, "read", 0x3000).args == (R | LINEAR | PAGE_TRANSLATED, 0x9000)


def test_mmio_of_the_inner_guest_is_emulated_by_both_dimensions(kernel: str) -> None:
    """The device's address is the one that EPT12 has, whatever the inner guest calls it."""
    scene = paging_inner_guest(kernel)
    scene.cpu.write(0x2008, 9)

    assert scene.vm.devices == {DEVICE + 8: 9}
    assert scene.cpu.read(0x2008) == 9
    assert [spte.kind for spte in (page.sptes().get(7) for page in scene.shadows()) if spte] == [Kind.MMIO]


@pytest.mark.parametrize(("level", "stage"), [(1, LINEAR | PAGE_TRANSLATED), (0, LINEAR)])
def test_an_exit_that_kvm_comes_upon_while_it_emulates(kernel: str, level: int, stage: int) -> None:
    """An MMIO entry still says there is no memory; EPT12 says otherwise by now, for the page or for a table.

    Nobody flushed, so that the processor exits by what it has: a misconfiguration. KVM emulates, and its walk
    ends in a violation. 6.12 tells what that one was about, 6.1 what the processor's last violation was about:
    the page of the device. KVM's access to a table counts as a write, and that to a page as a read.
    """
    scene = paging_inner_guest(kernel)
    scene.cpu.read(0x2000)
    where, ngpa = (0x7000, 0x7000) if level else (INNER_TABLES, INNER_TABLES)
    scene.cpu.leave_nested()
    entry = scene.ept.entry_address(where, 1)
    scene.vm.memory.write(entry, scene.vm.memory.read(entry) & ~7)
    scene.enter()

    violation = fault(scene, "read", 0x2000)

    last = LINEAR | PAGE_TRANSLATED
    requested = R if level else R | W
    assert violation.args == (requested | (last if kernel == "6.1" else stage), ngpa)


def test_a_stale_mmio_entry_leads_to_a_violation(kernel: str) -> None:
    """The processor's exit is a misconfiguration, which says nothing of the access. So neither does what 6.12
    passes on; 6.1 adds what the violation before was about."""
    scene = nested_ept_guest(kernel, MmuKind.TDP, {0x5000: DEVICE})
    scene.cpu.read(0x5000)
    scene.vm.memory.write(scene.ept.entry_address(0x5000, 1), 0)
    scene.vm.add_memory(1 << 41, PAGE)  # another generation of memslots

    violation = fault(scene, "read", 0x5000)

    assert violation.args == (LINEAR | PAGE_TRANSLATED if kernel == "6.1" else 0, 0x5000)
