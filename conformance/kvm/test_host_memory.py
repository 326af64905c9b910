"""Frames and objects of the host's kernel: where they are, and that nothing is left of what was given back."""

import pytest

from mmu_model.hardware.types import PAGE_SHIFT, Pfn
from mmu_model.kvm.host import Host
from mmu_model.kvm.types import PAGE_OFFSET, Sptep, pa

GIB_FRAMES = 1 << 18
FOUR_GIB = 1 << 32


@pytest.fixture
def host() -> Host:
    return Host()


def test_tables_of_the_kernel_are_below_4_gib(host: Host) -> None:
    """CR3 of PAE paging has 32 bits. The kernel sees them where it maps all memory."""
    pages = [host.alloc_page() for _ in range(8)]

    assert len({*pages, host.zero_page}) == 9
    for page in pages:
        assert pa(page) == page - PAGE_OFFSET < FOUR_GIB
        assert pa(page) % 4096 == 0


def test_a_frame_comes_back_empty(host: Host) -> None:
    """The one that was given back last is given out next, with zeroes or what is wanted in every word."""
    page = host.alloc_page()
    host.write(Sptep(page + 8), 77)
    host.page_private[pa(page) >> PAGE_SHIFT] = page
    host.free_page(page)

    assert pa(page) >> PAGE_SHIFT not in host.page_private
    again = host.alloc_page()
    assert (again, host.words(again)) == (page, [0] * 512)
    other = host.alloc_page(fill=0x8000_0000_0000_0000)
    assert other != page
    assert host.words(other) == [0x8000_0000_0000_0000] * 512


def test_frames_of_processes_are_no_others(host: Host) -> None:
    """Each range begins where it has to, and none has what another has."""
    kernel = {pa(host.alloc_page()) >> PAGE_SHIFT for _ in range(3)} | {pa(host.zero_page) >> PAGE_SHIFT}
    asked = [(1, 1), (512, 512), (3, 1), (GIB_FRAMES, GIB_FRAMES), (1, 1)]
    starts = [host.alloc_user_frames(count, alignment) for count, alignment in asked]
    devices = [host.alloc_device_frames(count) for count in (4, 2)]

    for (count, alignment), start, following in zip(asked, starts, [*starts[1:], Pfn(1 << 40)], strict=True):
        assert start % alignment == 0
        assert start >= FOUR_GIB >> PAGE_SHIFT and start + count <= following
        assert not any(host.is_device(Pfn(pfn)) for pfn in (start, start + count - 1))
    assert devices[1] == devices[0] + 4
    for pfn in range(devices[0], devices[0] + 6):
        assert host.is_device(Pfn(pfn))
        assert pfn < FOUR_GIB >> PAGE_SHIFT and pfn not in kernel
    assert not any(host.is_device(Pfn(pfn)) for pfn in kernel)


def test_an_object_has_an_address_until_it_is_freed(host: Host) -> None:
    """Bits 0 to 2 of it are free for tags. A freed address is wild until it is somebody else's."""
    one, other = object(), object()
    first, second = host.kmalloc(one), host.kmalloc(other)
    assert first % 8 == second % 8 == 0
    assert abs(first - second) >= 128
    assert (host.at(first), host.at(second)) == (one, other)

    host.kfree(first)

    with pytest.raises(KeyError):
        host.at(first)
    assert host.at(second) is other
    third = object()
    assert host.kmalloc(third) == first
    assert host.at(first) is third


def test_words_are_exchanged(host: Host) -> None:
    """xchg tells what was there; try_cmpxchg64 stores only over what was expected."""
    word = Sptep(host.alloc_page() + 16)
    assert host.exchange(word, 5) == 0
    assert host.exchange(word, 6) == 5
    assert not host.compare_exchange(word, 5, 7)
    assert host.read(word) == 6
    assert host.compare_exchange(word, 6, 8)
    assert host.read(word) == 8
