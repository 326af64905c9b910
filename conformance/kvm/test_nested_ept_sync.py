"""A hypervisor on Intel's processors edits its EPT, and flushes: KVM's keeps up with it as far as it must."""

from typing import Any

import pytest

from conformance.kvm.nested_scenes import fault, levels
from conformance.nested_ept import (
    EPT_USED,
    R,
    W,
    X,
    nested_ept_guest,
)
from conformance.scenes import MIB, NESTED_TABLES, guest, page_tables, paging_registers
from mmu_model.hardware import (
    Gfn,
    Mode,
    Registers,
)
from mmu_model.hardware.ept import EPTP_ACCESSED_DIRTY
from mmu_model.kernels import KERNELS
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind

both_mmus = pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda kind: kind.value)
pytestmark = pytest.mark.parametrize("kernel", KERNELS)


@both_mmus
def test_edits_of_tables_are_seen_by_way_of_the_hypervisors_own_mapping(kernel: str, mmu: MmuKind) -> None:
    """Frames with tables above the last level are tracked; those of the last level become unsync."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000})
    scene.cpu.read(0x5000)
    slot = scene.vm.kvm.memslots[0].find(0)
    assert slot is not None
    *upper, last = (Gfn(frame >> 12) for frame in scene.frames)
    assert [slot.gfn_write_track.get(gfn, 0) for gfn in (*upper, last)] == [1, 1, 1, 0]

    scene.edit(0x5000, 0x8000 | EPT_USED, invept=False)

    unsync = [int(page.gfn) for page in scene.shadows() if page.unsync]
    assert unsync == [int(last)]
    emulated = scene.cpu.vcpu.stat["pf_emulate"]
    scene.edit(0x5000, 0, 3, invept=False)
    assert scene.cpu.vcpu.stat["pf_emulate"] == emulated + 1
    assert scene.outcome("read", 0x5000) == f"EPT violation at 0x5000, exit qualification {0x181:#x}"


@both_mmus
def test_invept_brings_ept02_in_step(kernel: str, mmu: MmuKind) -> None:
    """VM entry alone does not: translations of guest-physical addresses outlive it (SDM vol. 3, 29.4.3.1)."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000})
    scene.vm.memory.write(0x6000, 66)
    scene.vm.memory.write(0x8000, 88)
    assert scene.outcome("read", 0x5000) == 66

    scene.edit(0x5000, 0x8000 | EPT_USED, invept=False)
    assert scene.outcome("read", 0x5000) == 66
    scene.as_hypervisor(lambda: scene.cpu.invept(scene.eptp))

    assert scene.outcome("read", 0x5000) == 88


@both_mmus
@pytest.mark.parametrize("single", [True, False])
def test_invept_of_one_context_or_of_all(kernel: str, mmu: MmuKind, single: bool) -> None:
    """Roots of the same tables go, whatever the flags of their EPTP; others only if all are meant."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000})
    other = page_tables(scene.vm, Mode.FOUR_LEVEL, 60 * MIB, [])
    other.map(0x5000, 0x8000, flags=EPT_USED)
    first, second = scene.eptp, other.root | scene.eptp & 0xFFF
    for eptp in (first ^ EPTP_ACCESSED_DIRTY, second, first):
        scene.eptp = eptp
        scene.as_hypervisor(lambda: None)
        scene.cpu.read(0x5000)
    guest_mmu = scene.cpu.vcpu.guest_mmu
    assert [root.pgd for root in (guest_mmu.root, *guest_mmu.prev_roots)] == [
        first,
        second,
        first ^ EPTP_ACCESSED_DIRTY,
        0,
    ]
    scene.cpu.leave_nested()

    scene.cpu.invept(first if single else None)

    left = [root.pgd for root in (guest_mmu.root, *guest_mmu.prev_roots) if root.is_valid]
    assert left == ([second] if single else [])


@both_mmus
def test_roots_are_remembered_by_eptp(kernel: str, mmu: MmuKind) -> None:
    """The hypervisor goes back and forth between two EPTs: no root is made twice."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000})
    other = page_tables(scene.vm, Mode.FOUR_LEVEL, 60 * MIB, [])
    other.map(0x5000, 0x8000, flags=EPT_USED)
    scene.vm.memory.write(0x6000, 66)
    scene.vm.memory.write(0x8000, 88)
    eptps, seen, roots = (scene.eptp, other.root | scene.eptp & 0xFFF), [], []

    for n in range(4):
        scene.eptp = eptps[n % 2]
        scene.as_hypervisor(lambda: None)
        seen.append(scene.outcome("read", 0x5000))
        roots.append(scene.cpu.vcpu.guest_mmu.root.hpa)

    assert seen == [66, 88, 66, 88]
    assert roots[:2] == roots[2:]
    assert roots[0] != roots[1]


@both_mmus
def test_a_violation_drops_what_other_roots_of_the_tables_have(kernel: str, mmu: MmuKind) -> None:
    """A processor's TLB knows the tables of an EPTP and not its flags; one entry of it is one of all of them."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000})
    scene.cpu.write(0x5000, 1)
    scene.edit(0x5000, 0x6000 | EPT_USED & ~W, invept=False)
    with_flags = scene.eptp
    scene.eptp ^= EPTP_ACCESSED_DIRTY
    scene.as_hypervisor(lambda: None)
    assert fault(scene, "write", 0x5000).permitted == R | X
    scene.eptp = with_flags

    scene.as_hypervisor(lambda: None)

    assert levels(scene, 0x5000)[1] & W == 0


def test_invvpid_over_ept_concerns_no_root(kernel: str) -> None:
    """Only linear translations, which KVM does not make."""
    scene = nested_ept_guest(kernel, MmuKind.TDP, {0x5000: 0x6000})
    scene.cpu.read(0x5000)
    scene.cpu.leave_nested()
    before = scene.vm.snapshot()

    scene.cpu.invvpid(1)

    assert scene.vm.snapshot() == before


def shadowed_inner_guest(kernel: str) -> tuple[Any, Any, Registers]:
    """A hypervisor without EPT, its guest's tables, and that guest's registers. It has VPID 1."""
    scene = guest(
        kernel,
        MmuKind.SHADOW,
        "4-level",
        mapped={n * 2 * MIB: n * 2 * MIB for n in range(32)},
        mapped_level=2,
        mapped_flags=0x67,
        tdp_format=TdpFormat.EPT,
    )
    tables = page_tables(scene.vm, Mode.FOUR_LEVEL, NESTED_TABLES, [])
    tables.map(0x5000, 0x6000, flags=0x67)
    scene.vm.memory.write(0x6000, 66)
    scene.vm.memory.write(0x8000, 88)
    return scene, tables, paging_registers(Mode.FOUR_LEVEL, tables.root)


@pytest.mark.parametrize("flush", [False, True])
def test_without_ept_invvpid_is_what_flushes_an_inner_guest(kernel: str, flush: bool) -> None:
    """It keeps its translations from one VM entry to the next, if its VPID stays the same."""
    scene, tables, inner = shadowed_inner_guest(kernel)
    scene.cpu.enter_nested(None, inner, vpid=1)
    assert scene.reads(0x5000) == 66
    scene.cpu.leave_nested()
    scene.cpu.write(tables.entry_address(0x5000, 1), 0x8067)

    if flush:
        scene.cpu.invvpid(1)
    scene.cpu.enter_nested(None, inner, vpid=1)

    assert scene.reads(0x5000) == (88 if flush else 66)


@pytest.mark.parametrize("vpid", [0, 2])
def test_without_ept_another_vpid_or_none_begins_anew(kernel: str, vpid: int) -> None:
    """KVM keeps no record of VPIDs but the last; without one every entry flushes."""
    scene, tables, inner = shadowed_inner_guest(kernel)
    scene.cpu.enter_nested(None, inner, vpid=1)
    assert scene.reads(0x5000) == 66
    scene.cpu.leave_nested()
    scene.cpu.write(tables.entry_address(0x5000, 1), 0x8067)

    scene.cpu.enter_nested(None, inner, vpid=vpid)

    assert scene.reads(0x5000) == 88
