"""A VM as KVM knows it: what its modules were loaded with, its hash of pages, its kernel; what a page's struct has."""

import pytest

from conformance.looking import structs
from conformance.scenes import GIB, MIB, guest
from mmu_model.hardware.types import Gfn
from mmu_model.kernels import KERNELS, on_32_bit
from mmu_model.kvm.host import Host
from mmu_model.kvm.page import KvmMmuPage, is_tdp_mmu_page, kvm_mmu_page_get_gfn, root_to_sp, sptep_to_sp
from mmu_model.kvm.role import PageRole
from mmu_model.kvm.shrinker import MmuShrinker
from mmu_model.kvm.spte import SpteMasks, ept_masks, is_shadow_present_pte, paging_masks
from mmu_model.kvm.vm import TdpFormat, page_table_hash
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

FORMATS = [
    paging_masks(46),
    *(ept_masks(has_ad_bits=flags, suppress_ve=ve) for flags in (False, True) for ve in (False, True)),
]


@pytest.mark.parametrize(
    ("mmu", "tdp_format", "possible"),
    [
        (MmuKind.TDP, TdpFormat.EPT, True),
        (MmuKind.TDP, TdpFormat.EPT_WITHOUT_AD, False),
        (MmuKind.TDP, TdpFormat.NPT, False),
        (MmuKind.DIRECT, TdpFormat.EPT, False),
        (MmuKind.SHADOW, TdpFormat.EPT, False),
    ],
)
def test_what_the_log_of_the_processor_needs(mmu: MmuKind, tdp_format: TdpFormat, possible: bool) -> None:
    if possible:
        assert VirtualMachine(mmu=mmu, tdp_format=tdp_format, pml=True).add_cpu().vcpu.pml is not None
        return
    with pytest.raises(ValueError, match="page-modification logging needs"):
        VirtualMachine(mmu=mmu, tdp_format=tdp_format, pml=True)


@pytest.mark.parametrize("tdp_format", TdpFormat)
@pytest.mark.parametrize("max_tdp_level", [4, 5])
def test_how_many_levels_nested_paging_has(tdp_format: TdpFormat, max_tdp_level: int) -> None:
    """NPT has as many as the host's own paging; of EPT five only for guests with more than 48 bits."""
    levels = []
    for maxphyaddr in (48, 49):
        vm = VirtualMachine(maxphyaddr=maxphyaddr, max_tdp_level=max_tdp_level, tdp_format=tdp_format)
        levels.append(vm.add_cpu().vcpu.mmu.root_role.level)
    few = max_tdp_level if tdp_format is TdpFormat.NPT else 4
    assert levels == [few, max_tdp_level]


def test_a_32_bit_host_walks_fewer_levels(kernel: str) -> None:
    """NPT is PAE paging there; EPT is what it is."""
    levels = {
        tdp_format: VirtualMachine(
            kernel, MmuKind.DIRECT, tdp_format=tdp_format, x86_64=False, max_tdp_level=5
        )
        .add_cpu()
        .vcpu.mmu.root_role.level
        for tdp_format in TdpFormat
    }
    assert levels == {TdpFormat.NPT: 3, TdpFormat.EPT: 4, TdpFormat.EPT_WITHOUT_AD: 4}


def test_pages_are_spread_over_the_hash() -> None:
    """By the upper 12 bits of the product with the golden ratio, as the kernel's hash_64 has it."""
    assert [page_table_hash(gfn) for gfn in (0, 1, 2)] == [0, 0x61C, 0xC39]
    buckets = {page_table_hash(gfn) for gfn in range(1 << 20, (1 << 20) + 1024)}
    assert max(buckets) < 4096
    assert len(buckets) > 1000


def test_pages_of_one_bucket_are_told_apart_by_gfn(kernel: str) -> None:
    """Whatever else falls into it; and obsolete ones are none."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    scene.reads(0x5000)
    kvm = scene.vm.kvm
    (root,) = [sp for sp in structs(scene.vm) if sp.role.level == 4]
    stranger = KvmMmuPage(scene.vm.host, root.role, Gfn(root.gfn + 1), scene.vm.host.alloc_page())
    kvm.bucket(root.gfn).insert(0, stranger)

    assert list(kvm.valid_pages_at(root.gfn)) == [root]
    kvm.mmu_valid_gen = 1
    assert list(kvm.valid_pages_at(root.gfn)) == []
    assert list(kvm.valid_pages_at(1 << 30)) == []


@pytest.mark.parametrize("release", KERNELS)
@pytest.mark.parametrize("masks", FORMATS, ids=range(len(FORMATS)))
@pytest.mark.parametrize("x86_64", [True, False])
def test_a_frozen_spte_is_like_no_other(release: str, masks: SpteMasks, x86_64: bool) -> None:
    """It leads nowhere, for KVM and for the processor of whatever format; it is no empty one, and none of MMIO
    (spte.h: REMOVED_SPTE, FROZEN_SPTE)."""
    kernel = KERNELS[release] if x86_64 else on_32_bit(KERNELS[release])
    frozen, empty = kernel.frozen_spte, kernel.shadow_nonpresent_value
    assert frozen != empty
    assert frozen >> 63 == empty >> 63 == int(x86_64 and release == "6.12")
    for spte in (frozen, empty):
        assert not is_shadow_present_pte(spte)
        assert not spte & 7
        assert not masks.is_mmio(spte)
    assert frozen & 0xFFF == 0x5A0


def test_members_that_share_their_storage() -> None:
    """What one writes the other reads, as the unions of the struct do."""
    host = Host()
    sp = KvmMmuPage(host, PageRole.of(level=1), Gfn(5), host.alloc_page())
    sp.root_count = 3
    sp.mmu_valid_gen = 1
    assert (sp.tdp_mmu_root_count, sp.tdp_mmu_scheduled_root_to_zap) == (3, True)
    sp.tdp_mmu_root_count = 2
    sp.tdp_mmu_scheduled_root_to_zap = False
    assert (sp.root_count, sp.mmu_valid_gen) == (2, 0)
    sp.ptep = sp.sptep(7)
    assert sp.parent_ptes.val == sp.spt + 56
    sp.ptep = None
    assert (sp.ptep, sp.parent_ptes.val) == (None, 0)


def test_a_page_is_found_by_its_frame_until_it_is_freed() -> None:
    """From any of its sptes; then the frame is nobody's, and so is the address of the struct."""
    host = Host()
    sp = KvmMmuPage(host, PageRole.of(level=1), Gfn(5), host.alloc_page())
    host.write(sp.sptep(511), 7)
    assert sptep_to_sp(host, sp.sptep(511)) is sp
    assert root_to_sp(host, sp.hpa) is sp
    assert not is_tdp_mmu_page(sp)

    sp.free(host)

    assert root_to_sp(host, sp.hpa) is None
    with pytest.raises(KeyError):
        host.at(sp.address)
    assert host.alloc_page() == sp.spt
    assert host.read(sp.sptep(511)) == 0


def test_which_frames_a_page_is_about() -> None:
    """In a row from its gfn on, by its level; those of a passthrough page are all the same."""
    host = Host()

    def gfns(**role: int) -> list[int]:
        sp = KvmMmuPage(host, PageRole.of(**role), Gfn(0x40_0000), host.alloc_page())
        return [kvm_mmu_page_get_gfn(sp, index) - 0x40_0000 for index in (0, 1, 511)]

    assert gfns(level=1, direct=1) == [0, 1, 511]
    assert gfns(level=2, direct=1) == [0, 512, 511 * 512]
    assert gfns(level=4, direct=1) == [0, 1 << 27, 511 << 27]
    assert gfns(level=5, passthrough=1) == [0, 0, 0]


def test_only_a_32_bit_host_counts_sptes_that_went() -> None:
    for x86_64 in (True, False):
        host = Host(x86_64=x86_64)
        sp = KvmMmuPage(host, PageRole.of(level=1), Gfn(5), host.alloc_page())
        assert hasattr(sp, "clear_spte_count") is not x86_64


def test_memory_pressure_on_vms_without_shadow_pages(kernel: str) -> None:
    """None gives any; and no more VMs are looked at than pages are wanted."""
    first = VirtualMachine(kernel, MmuKind.SHADOW)
    host = first.host
    (shrinker,) = host.shrinkers
    assert isinstance(shrinker, MmuShrinker)
    second = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000, GIB: 0x6000}, host=host)
    assert (shrinker.count_objects(), shrinker.scan_objects(5)) == (0, 0)
    second.reads(0x5000)
    second.reads(GIB)

    assert shrinker.count_objects() == len(structs(second.vm)) == 6
    assert host.shrinkers == [shrinker]
    assert shrinker.scan_objects(1) == 0
    assert shrinker.vm_list == [first.kvm, second.vm.kvm]
    assert shrinker.scan_objects(2) == 2


def test_memory_of_smm_is_another(kernel: str, mmu: MmuKind) -> None:
    """At the same addresses; the first free number of each address space is taken."""
    scene = guest(kernel, mmu)
    smram = scene.vm.add_memory(0, MIB, as_id=1)
    numbers = [scene.vm.add_memory(n * GIB, MIB).id for n in (1, 2)]
    first = scene.vm.kvm.memslots[0].by_id(1)
    assert first is not None
    scene.vm.remove_memory(first)

    assert (smram.id, smram.as_id, numbers, scene.vm.add_memory(3 * GIB, MIB).id) == (0, 1, [1, 2], 1)
    scene.cpu.write(0x5000, 5)
    scene.cpu.enter_smm()
    assert scene.cpu.read(0x5000) == 0
    scene.cpu.rsm()
    assert scene.cpu.read(0x5000) == 5
