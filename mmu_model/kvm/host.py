"""The machine and the kernel that KVM runs on: frames, what `struct page` says of each, and the heap."""

from typing import Any, Final, Protocol

from mmu_model.hardware.memory import PhysicalMemory
from mmu_model.hardware.types import PAGE_SHIFT, Hpa, Pfn
from mmu_model.kvm.types import PAGE_OFFSET, Kva, Sptep, pa, va

_KERNEL_FRAMES: Final = 0x1000
"""The first frame handed out for tables: low enough for the CR3 of PAE paging to reach them."""

_USER_FRAMES: Final = 1 << 20
"""The first frame handed out to processes: at 4 GiB."""

_DEVICE_FRAMES: Final = range(0xC_0000, 0xF_0000)
"""The frames behind which there are devices with memory of their own: below 4 GiB."""

_HEAP: Final = 0xFFFF_C900_0000_0000
_OBJECT_SIZE: Final = 128


class Shrinker(Protocol):
    """Who has memory of the kernel that it can do without."""

    def count_objects(self) -> int:
        """How many things it has."""

    def scan_objects(self, nr_to_scan: int) -> int:
        """Give up to so many back; how many it gave."""


class Host:
    """Physical memory and the kernel's bookkeeping of it.

    Parameters
    ----------
    maxphyaddr :
        Physical-address bits of the host's processor, 36 to 52.
    x86_64 :
        Whether its kernel is a 64-bit one (CONFIG_X86_64), which stores an spte as one.

    """

    def __init__(self, maxphyaddr: int = 46, *, x86_64: bool = True) -> None:
        self.x86_64 = x86_64
        self.memory = PhysicalMemory(maxphyaddr)
        self.page_private: dict[int, Kva] = {}
        """`page->private` by frame."""
        self.dirty: set[Pfn] = set()
        self.accessed: set[Pfn] = set()
        """Frames of processes that KVM reported as written and as used (kvm_set_pfn_dirty, _accessed)."""
        self._free_frames: list[Pfn] = []
        self._next_frame = _KERNEL_FRAMES
        self.shrinkers: list[Shrinker] = []
        self.zero_page = self.alloc_page()
        """A page of zeroes that nobody writes to."""
        self._next_user_frame = _USER_FRAMES
        self._next_device_frame = _DEVICE_FRAMES.start
        self._uncounted: set[Pfn] = set()
        self._objects: dict[int, Any] = {}
        self._next_object = _HEAP
        self._free_objects: list[Kva] = []

    def alloc_page(self, fill: int = 0) -> Kva:
        """A frame for the kernel, every 8 bytes of it `fill`; the address at which the kernel sees it."""
        if self._free_frames:
            pfn = self._free_frames.pop()
        else:
            pfn = Pfn(self._next_frame)
            self._next_frame += 1
        hpa = Hpa(pfn << PAGE_SHIFT)
        if fill:
            self.memory.fill(pfn, fill)
        return va(hpa)

    def free_page(self, page: Kva) -> None:
        """Give a frame back; nothing points from it any more."""
        pfn = Pfn(pa(page) >> PAGE_SHIFT)
        self.page_private.pop(pfn, None)
        self.memory.release(pfn)
        self._free_frames.append(pfn)

    def shrink_slab(self, nr_to_scan: int) -> int:
        """Memory is short: ask everybody who has some to give so many things back; how many they gave."""
        return sum(each.scan_objects(nr_to_scan) for each in self.shrinkers if each.count_objects())

    def alloc_user_frames(self, count: int, alignment: int) -> Pfn:
        """`count` frames in a row for a process; the first is a multiple of `alignment`."""
        first = -(-self._next_user_frame // alignment) * alignment
        self._next_user_frame = first + count
        return Pfn(first)

    def alloc_device_frames(self, count: int) -> Pfn:
        """`count` frames in a row of a device's memory."""
        first = self._next_device_frame
        self._next_device_frame = first + count
        return Pfn(first)

    def alloc_uncounted_frames(self, count: int) -> Pfn:
        """`count` frames in a row that a driver has allocated as one piece, no references to which are counted."""
        first = self.alloc_user_frames(count, 1)
        self._uncounted.update(Pfn(pfn) for pfn in range(first, first + count))
        return first

    def try_get_pfn(self, pfn: Pfn) -> bool:
        """Take a reference to a frame; False if it is of memory, and its references are not counted
        (kvm_try_get_pfn). A device's needs none."""
        return pfn not in self._uncounted

    def is_device(self, pfn: Pfn) -> bool:
        """Whether a frame is of a device's memory, and not the host's (kvm_is_mmio_pfn)."""
        return pfn in _DEVICE_FRAMES

    def kmalloc(self, thing: Any) -> Kva:
        """Give an object of the kernel an address; bit 0 of it is 0, as the tags of pointers need."""
        if self._free_objects:
            pointer = self._free_objects.pop()
        else:
            pointer = Kva(self._next_object)
            self._next_object += _OBJECT_SIZE
        self._objects[pointer] = thing
        return pointer

    def kfree(self, pointer: Kva) -> None:
        """The address leads nowhere any more."""
        del self._objects[pointer]
        self._free_objects.append(pointer)

    def at(self, pointer: int) -> Any:
        """The object at an address that `kmalloc` gave.

        Raises
        ------
        KeyError
            There is none: a wild pointer.

        """
        return self._objects[pointer]

    def read(self, sptep: Sptep) -> int:
        """The 64-bit word that the kernel sees at an address."""
        return self.memory.read(sptep - PAGE_OFFSET)

    def write(self, sptep: Sptep, value: int) -> None:
        """Store a 64-bit word at an address of the kernel."""
        self.memory.write(sptep - PAGE_OFFSET, value)

    def compare_exchange(self, sptep: Sptep, expected: int, value: int) -> bool:
        """`try_cmpxchg64`: store `value` if the word still is `expected`; say whether it was."""
        return self.memory.compare_exchange(sptep - PAGE_OFFSET, expected, value)

    def exchange(self, sptep: Sptep, value: int) -> int:
        """`xchg`: store `value`; what was there."""
        old = self.read(sptep)
        self.write(sptep, value)
        return old

    def words(self, page: Kva) -> list[int]:
        """The 512 words of a page that the kernel sees at `page`."""
        words: list[int] = self.memory.frame(Pfn(pa(page) >> PAGE_SHIFT)).tolist()
        return words
