"""Section "Reaction to events": accesses to addresses without memory."""

import pytest

from conformance.between import before
from conformance.scenes import Scene, guest
from mmu_model.hardware import ERROR_RSVD
from mmu_model.kvm import page_fault
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind, Spte
from mmu_model.snapshot.spte import Kind

DEVICE = 0xF000_0000
FORMATS = [
    (MmuKind.SHADOW, TdpFormat.NPT),
    *(
        (mmu, tdp_format)
        for mmu in (MmuKind.TDP, MmuKind.DIRECT)
        for tdp_format in (TdpFormat.NPT, TdpFormat.EPT)
    ),
]


def faults(scene: Scene) -> int:
    """How many faults KVM has handled."""
    return scene.cpu.vcpu.stat["pf_taken"]


@pytest.mark.spec("reaction-to-events/cause-mmio/untranslatable")
def test_memory_that_is_none_cannot_be_translated(kernel: str, mmu: MmuKind) -> None:
    """The access comes to KVM and from there to the process, each time anew."""
    scene = guest(kernel, mmu)
    scene.cpu.write(DEVICE, 5)

    assert scene.vm.devices == {DEVICE: 5}
    assert scene.reads(DEVICE) == 5
    assert scene.vm.memory.hpa(DEVICE) is None
    assert scene.cpu.vcpu.stat["pf_emulate"] >= 1


@pytest.mark.spec("reaction-to-events/mmio-fault/rsv-bit-and-cached-info")
@pytest.mark.parametrize(("mmu", "tdp_format"), FORMATS)
def test_the_reserved_bit_tells_a_known_mmio_access(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """The first access faults without it; those that find the spte fault with it, as KVM is told of a
    misconfiguration of EPT."""
    scene = guest(kernel, mmu, tdp_format=tdp_format)
    codes = error_codes(scene, DEVICE, 3)

    assert [bool(code & ERROR_RSVD) for code in codes] == [False, True, True]


@pytest.mark.spec("reaction-to-events/mmio-fault/rsv-bit-and-cached-info")
def test_a_reserved_bit_of_the_guests_own_does_not_tell_kvm(kernel: str, mmu: MmuKind) -> None:
    """A malformed entry of the guest: the guest gets the fault that says so. But what KVM gets, if anything, does
    not: only its own sptes have such bits, and only where there is no memory."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000}, mapped_flags=0x7 | 1 << 51)
    scene.reads(0x9000)

    codes = error_codes(scene, 0x5000, 2)

    assert codes == [0, 0]
    assert scene.reads(0x5000) == "page fault at 0x5000, error code 0x9"


def error_codes(scene: Scene, address: int, times: int) -> list[int]:
    """The error codes that the processor reports for reads of an address."""
    codes: list[int] = []
    original = page_fault.handle_mmio_page_fault
    for _ in range(times):
        seen: list[int] = []
        with before("kvm.page_fault.handle_mmio_page_fault", lambda seen=seen: seen.append(ERROR_RSVD)):  # type: ignore[misc]
            scene.reads(address)
        codes.append(seen[0] if seen else 0)
    assert page_fault.handle_mmio_page_fault is original
    return codes


@pytest.mark.spec("reaction-to-events/mmio-fault-walk/shadow-page-table")
def test_the_spte_is_found_by_a_walk_of_kvms_tables(kernel: str, mmu: MmuKind) -> None:
    """If the vCPU remembers nothing itself: the walk comes to the spte, and that is enough."""
    scene = guest(kernel, mmu)
    scene.reads(DEVICE)
    before_it, walks = faults(scene), list[int]()
    with before("kvm.shadow_walk.last_spte_lockless", lambda: walks.append(1)):
        scene.reads(DEVICE)
        assert walks == []  # edge: the vCPU remembers, and there is no walk
        scene.cpu.vcpu.mmio.gfn = scene.cpu.vcpu.mmio.gva = 0  # type: ignore[assignment]
        scene.reads(DEVICE)

    assert walks == [1]
    assert faults(scene) == before_it


@pytest.mark.spec("reaction-to-events/mmio-fault-cache/cached-and-emulated")
def test_a_fault_on_an_mmio_spte_fills_the_vcpus_cache_and_is_emulated(kernel: str, mmu: MmuKind) -> None:
    """Linear address (where it is KVM that translates it, else 0), access and frame; also the generation. The
    process gets the access."""
    linear = 0x7000
    scene = guest(kernel, mmu, "4-level", mapped={linear: DEVICE})
    scene.reads(linear + 8)
    mmio = scene.cpu.vcpu.mmio
    mmio.gva, mmio.gfn, mmio.access, mmio.generation = 1, 0, 0, 0  # type: ignore[assignment]
    scene.vm.devices[DEVICE + 8] = 5

    assert scene.reads(linear + 8) == 5

    # user and write; not write yet where the guest's entry, which is not dirty, has a say
    access, gva = (4, linear) if mmu is MmuKind.SHADOW else (6, 0)
    assert (mmio.gfn, mmio.access, mmio.gva) == (DEVICE >> 12, access, gva)
    assert mmio.generation == scene.vm.kvm.memslots[0].generation


@pytest.mark.spec("reaction-to-events/host-page-mmio/info-cached")
@pytest.mark.parametrize("paging", ["off", "4-level"])
def test_the_first_access_without_memory_fills_the_vcpus_cache(
    kernel: str, mmu: MmuKind, paging: str
) -> None:
    """There is no slot, so there is no host page; the vCPU remembers access and frame, and by the shadow MMU's own
    faults the address that was accessed, also where guest paging is off."""
    scene = guest(kernel, mmu, paging, mapped={0x7000: DEVICE})
    address = 0x7000 if paging != "off" else DEVICE

    scene.reads(address + 8)

    mmio = scene.cpu.vcpu.mmio
    shadowed = mmu is MmuKind.SHADOW and paging != "off"
    assert scene.vm.memory.hpa(DEVICE) is None
    assert (mmio.gfn, mmio.access) == (DEVICE >> 12, 4 if shadowed else 6)
    assert mmio.gva == (address if mmu is MmuKind.SHADOW else 0)
    assert mmio.generation == scene.vm.kvm.memslots[0].generation


def mmio_sptes(scene: Scene) -> list[Spte]:
    """The sptes of the last level that remember an access without memory."""
    sptes = (spte for page in scene.vm.snapshot().pages for spte in page.sptes().values())
    return [spte for spte in sptes if spte.level == 1 and spte.kind is not Kind.LEAF]


@pytest.mark.spec("reaction-to-events/shadow-walk-mmio/spte-caches-info")
@pytest.mark.parametrize(("maxphyaddr", "expected"), [(46, 1), (51, 1), (52, 0)])
def test_an_mmio_spte_has_a_reserved_bit(kernel: str, mmu: MmuKind, maxphyaddr: int, expected: int) -> None:
    """Bit 51, where that is no address bit. Edge: on a processor with 52 of them there is no such spte."""
    scene = guest(kernel, mmu, maxphyaddr=maxphyaddr)
    scene.cpu.write(DEVICE, 5)

    assert [spte.raw >> 51 & 1 for spte in mmio_sptes(scene)] == [1] * expected
    assert scene.reads(DEVICE) == 5


@pytest.mark.spec("reaction-to-events/shadow-walk-mmio/spte-caches-info")
@pytest.mark.parametrize(
    ("flags", "writable", "user"),
    [(0x67, True, True), (0x63, True, False), (0x65, False, True), (0x61, False, False)],
)
def test_an_mmio_spte_keeps_frame_and_access(kernel: str, flags: int, writable: bool, user: bool) -> None:
    """What the guest's entry is about, and what it grants; direct pages grant all."""
    for mmu in MmuKind:
        scene = guest(kernel, mmu, "4-level", mapped={0x7000: DEVICE}, mapped_flags=flags)
        scene.reads(0x7000)
        all_access = mmu is not MmuKind.SHADOW

        (spte,) = mmio_sptes(scene)

        assert spte.mmio_gfn == DEVICE >> 12
        assert (spte.writable, spte.user) == (writable or all_access, user or all_access)


@pytest.mark.spec("reaction-to-events/shadow-walk-mmio/spte-caches-info")
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
@pytest.mark.parametrize("maxphyaddr", [46, 52])
def test_an_mmio_spte_of_ept_is_misconfigured(kernel: str, mmu: MmuKind, maxphyaddr: int) -> None:
    """Edge: W and X without R, on every processor, and no reserved bit; it keeps the frame and no access."""
    scene = guest(kernel, mmu, tdp_format=TdpFormat.EPT, maxphyaddr=maxphyaddr)
    scene.cpu.write(DEVICE, 5)

    (spte,) = mmio_sptes(scene)

    assert (spte.raw & 7, spte.raw >> 51 & 1, spte.mmio_gfn) == (6, 0, DEVICE >> 12)
    assert scene.reads(DEVICE) == 5
