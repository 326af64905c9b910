"""Memory pressure: KVM gives shadow pages back when the host asks for memory (mmu.c: mmu_shrink_scan).

Only the shadow MMU's: those of the TDP MMU are neither counted nor given.
"""

from mmu_model.kvm.host import Host
from mmu_model.kvm.vm import Kvm


class MmuShrinker:
    """What KVM registers with the host: :class:`~mmu_model.kvm.host.Shrinker`.

    Attributes
    ----------
    vm_list :
        The VMs of the host; the first with shadow pages is the next to give some.

    """

    def __init__(self) -> None:
        self.vm_list: list[Kvm] = []

    def count_objects(self) -> int:
        """How many shadow pages there are (mmu_shrink_count)."""
        return sum(kvm.n_used_mmu_pages for kvm in self.vm_list)

    def scan_objects(self, nr_to_scan: int) -> int:
        """Zap so many of one VM's, the oldest first; how many went. The next time it is another VM's turn.

        No more than `nr_to_scan` VMs are looked at.
        """
        for kvm in self.vm_list[:nr_to_scan]:
            if kvm.n_used_mmu_pages:
                return self._shrink(kvm, nr_to_scan)
        return 0

    def _shrink(self, kvm: Kvm, nr_to_scan: int) -> int:
        with kvm.srcu.read, kvm.mmu_lock.write:
            freed = kvm.shadow.kvm_mmu_zap_oldest_mmu_pages(kvm, nr_to_scan)
        self.vm_list.remove(kvm)
        self.vm_list.append(kvm)
        return freed


def mmu_shrinker(host: Host) -> MmuShrinker:
    """The one that KVM registers with a host, for all its VMs."""
    found = next((each for each in host.shrinkers if isinstance(each, MmuShrinker)), None)
    if found is None:
        found = MmuShrinker()
        host.shrinkers.append(found)
    return found
