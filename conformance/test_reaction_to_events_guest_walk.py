"""Section "Reaction to events": when KVM walks the guest's tables, and what comes of it."""

import pytest

from conformance.between import before
from conformance.looking import backing, structs
from conformance.scenes import NESTED_FORMATS, Scene, guest, nested_guest
from mmu_model.hardware import Kind, PageFault, Registers, access
from mmu_model.kvm.emulate import Instruction
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind
from mmu_model.snapshot.spte import Kind as SpteKind

XD = 1 << 63
RESERVED = 1 << 51
"""A bit of an entry that is no address bit here."""


def mapped(scene: Scene, gfn: int) -> bool:
    """Whether any leaf maps the memory behind a guest frame."""
    sptes = (spte for page in scene.vm.snapshot().pages for spte in page.sptes().values())
    return any(spte.kind is SpteKind.LEAF and spte.pfn == backing(scene.vm, gfn) for spte in sptes)


@pytest.mark.spec("reaction-to-events/cause-guest-fault/guest-denies")
@pytest.mark.spec("reaction-to-events/guest-walk-denied/fault-reflected")
@pytest.mark.parametrize(
    ("flags", "kind", "cpl", "code"),
    [
        (0x0, Kind.READ, 3, 0x4),
        (0x0, Kind.WRITE, 0, 0x2),
        (0x1, Kind.READ, 3, 0x5),
        (0x1, Kind.WRITE, 0, 0x3),
        (0x5, Kind.WRITE, 3, 0x7),
        (0x5 | XD, Kind.FETCH, 3, 0x15),
        (0x7 | RESERVED, Kind.READ, 0, 0x9),
    ],
)
def test_what_the_guests_tables_deny_is_the_guests_fault(
    kernel: str, flags: int, kind: Kind, cpl: int, code: int
) -> None:
    """A page that is absent, the kernel's, read-only, not for execution, or whose entry is malformed: KVM finds that
    out, gives the guest the fault with the error code and the very address, and makes no spte."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000}, mapped_flags=flags)

    with pytest.raises(PageFault) as denied:
        scene.cpu.run(Instruction(access(kind, user=cpl == 3), 0x5018, 8))

    assert (denied.value.error_code, denied.value.cr2) == (code, 0x5018)
    assert scene.cpu.vcpu.stat["pf_taken"] == 1
    assert not mapped(scene, 6)


@pytest.mark.spec("reaction-to-events/guest-walk/if-needed")
def test_kvm_walks_the_guests_tables_where_they_are_shadowed(kernel: str, mmu: MmuKind) -> None:
    """With shadow paging once a fault; under nested paging, and without guest paging, never."""
    walked: dict[str, int] = {}
    for paging in ("off", "4-level"):
        scene = guest(kernel, mmu, paging, mapped={0x5000: 0x5000})
        walked[paging] = walks(scene, 0x5000)

    assert walked == {"off": 0, "4-level": 1 if mmu is MmuKind.SHADOW else 0}


@pytest.mark.spec("reaction-to-events/guest-walk/if-needed")
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
@pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
def test_kvm_walks_nested_tables_where_they_are_shadowed(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat
) -> None:
    """A nested guest-physical address is translated by the tables of the hypervisor, once a fault, and what they say
    is mapped. Of a hypervisor that uses no nested paging there is nothing to walk."""
    scene = nested_guest(kernel, mmu, mapped={0x5000: 0x6000}, tdp_format=tdp_format)
    scene.vm.memory.write(0x6000, 77)

    assert walks(scene, 0x5000) == 1

    (page,) = (sp for sp in structs(scene.vm) if sp.role.guest_mode and sp.role.level == 1)
    assert page.shadowed_translation is not None
    assert page.shadowed_translation[5] >> 12 == 6
    assert scene.reads(0x5000) == 77
    scene.cpu.leave_nested()
    scene.cpu.enter_nested(None, Registers(maxphyaddr=46))
    assert walks(scene, 0x9000) == 0


def walks(scene: Scene, address: int) -> int:
    """How often KVM walks tables of a guest while the guest reads there for the first time, and faults."""
    seen: list[int] = []
    faults = scene.cpu.vcpu.stat["pf_taken"]
    with before("kvm.guest_walk.walk_addr", lambda: seen.append(1)):
        scene.reads(address)
    assert scene.cpu.vcpu.stat["pf_taken"] > faults
    return len(seen)
