"""What a vCPU remembers of its last access without memory: what replaces it, what takes it away."""

import pytest

from conformance.scenes import PAGE, guest
from mmu_model.hardware import Gfn
from mmu_model.kernels import KERNELS
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind

DEVICE = 0xF000_0000

pytestmark = pytest.mark.parametrize("kernel", KERNELS)


def test_the_last_of_two_devices_is_remembered(kernel: str, mmu: MmuKind) -> None:
    """Also if it is an spte, and no look at the memslots, that tells of it. With shadow paging a first fault is known
    by the guest's address, too; what an spte of a guest without paging tells of has none."""
    scene = guest(kernel, mmu)
    mmio, shadow = scene.cpu.vcpu.mmio, mmu is MmuKind.SHADOW

    known = []
    for device in (DEVICE, DEVICE + PAGE, DEVICE, DEVICE + PAGE):
        scene.reads(device + 8)
        assert (mmio.gfn, mmio.access) == (device // PAGE, 6)
        known.append(mmio.gva)

    assert known == [DEVICE * shadow, (DEVICE + PAGE) * shadow, 0, 0]


def test_invlpg_takes_away_what_is_known_of_its_page(kernel: str) -> None:
    """Wherever in the page the address is; what is known of another page stays (kvm_mmu_invlpg)."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: DEVICE, 0x7000: 0x7000})
    mmio = scene.cpu.vcpu.mmio
    scene.reads(0x5010)
    assert mmio.gva == 0x5000

    scene.cpu.invlpg(0x7010)
    assert mmio.gva == 0x5000
    scene.cpu.invlpg(0x5FF8)
    assert mmio.gva == 0


@pytest.mark.parametrize("tdp_format", [TdpFormat.EPT, TdpFormat.EPT_WITHOUT_AD])
def test_an_spte_has_the_frame_of_a_device_up_to_bit_50(kernel: str, tdp_format: TdpFormat) -> None:
    """Bit 51 is no part of it, for it is what makes an spte fault where there is no other way."""
    device = 1 << 50 | 0x3000
    scene = guest(
        kernel,
        MmuKind.TDP,
        "4-level",
        mapped={0x5000: device},
        maxphyaddr=52,
        max_tdp_level=5,
        tdp_format=tdp_format,
    )
    scene.vm.devices[device] = 9
    assert scene.reads(0x5000) == 9
    mmio = scene.cpu.vcpu.mmio
    mmio.gfn = Gfn(0)

    assert scene.reads(0x5000) == 9

    assert mmio.gfn == device // PAGE
