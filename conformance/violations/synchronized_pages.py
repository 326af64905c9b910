"""Wrong models: synchronized and unsynchronized pages, INVLPG, control registers."""

from dataclasses import replace
from typing import Any

from conformance.broken import BrokenModel
from conformance.violations.shadow_pages_unsync import never_unsync
from mmu_model.hardware.control import CR3_NO_FLUSH
from mmu_model.kvm.guest_memory import GuestMemory
from mmu_model.kvm.page import sptep_to_sp
from mmu_model.kvm.rmap import pte_list
from mmu_model.kvm.task import Steps
from mmu_model.shadow.sync import mmu_sync_children
from mmu_model.snapshot.spte import FRAME
from mmuspec.violations import violates

SECTION = "synchronized-and-unsynchronized-pages"


@violates(f"{SECTION}/tlb-flush/synchronizes-all-reachable", f"{SECTION}/side-effect/resynchronized-on-flush")
def a_flush_synchronizes_one_page(model: BrokenModel) -> None:
    """The first that is found; the others wait for their own."""

    def wrap(original: Any) -> Any:
        found: list[Any] = []

        def wrong(kvm: Any, sp: Any) -> list[Any]:
            if found:
                found.clear()
                return []
            found.extend(original(kvm, sp)[:1])
            return list(found)

        return wrong

    model.wrap("shadow.unsync.mmu_unsync_walk", wrap)


@violates(f"{SECTION}/guest-events/flush-and-invlpg")
def invlpg_leaves_the_tlb_alone(model: BrokenModel) -> None:
    """On the processor itself."""
    model.replace("hardware.tlb.TranslationCache.invalidate_address", lambda *selection: None)


@violates(f"{SECTION}/guest-events/flush-and-invlpg")
def other_flushes_leave_the_tlb_alone(model: BrokenModel) -> None:
    """On the processor itself."""
    model.replace("hardware.tlb.TranslationCache.invalidate", lambda *selection: None)


@violates(f"{SECTION}/guest-events/flush-and-invlpg")
def every_access_walks(model: BrokenModel) -> None:
    """There is no TLB: a change is seen at once."""
    model.replace("hardware.tlb.TranslationCache.insert", lambda *arguments, **named: None)


@violates(f"{SECTION}/side-effect/resynchronized-on-flush")
def a_flush_synchronizes_everything(model: BrokenModel) -> None:
    """What other roots reach, too."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any) -> Any:
            yield from original(vcpu)
            with vcpu.kvm.mmu_lock.write:
                for root in [sp for sp in vcpu.kvm.active_mmu_pages if sp.root_count]:
                    mmu_sync_children(vcpu, root)

        return wrong

    model.wrap("shadow.sync.kvm_mmu_sync_roots", wrap)


@violates(f"{SECTION}/tlb-flush/synchronizes-all-reachable", f"{SECTION}/side-effect/resynchronized-on-flush")
def a_flush_synchronizes_the_first_gigabyte(model: BrokenModel) -> None:
    """Of four PAE roots one is looked at."""
    model.wrap("shadow.sync._root_pages", lambda original: lambda vcpu: original(vcpu)[:1])


@violates(f"{SECTION}/tlb-flush/tables-are-write-protected")
def a_write_that_changes_nothing_drops_nothing(model: BrokenModel) -> None:
    """As the document has it: on a write the spte is made what the entry says, which here it is already."""
    writing: list[bool] = []

    def tracked(original: Any) -> Any:
        def wrong(*arguments: Any) -> None:
            writing.append(True)
            original(*arguments)
            writing.pop()

        return wrong

    def zapped(original: Any) -> Any:
        def wrong(kvm: Any, sp: Any, sptep: int, *more: Any) -> Any:
            entry = GuestMemory(kvm, kvm.memslots[0]).read((sp.gfn << 12) + (sptep & 0xFFF), 8)
            child = next((c for c in kvm.active_mmu_pages if c.hpa == kvm.host.read(sptep) & FRAME), None)
            if writing and child is not None and child.gfn << 12 == entry & FRAME:
                return None
            return original(kvm, sp, sptep, *more)

        return wrong

    model.wrap("shadow.track_write.kvm_mmu_track_write", tracked)
    model.wrap("shadow.zap.mmu_page_zap_pte", zapped)


@violates(
    f"{SECTION}/tlb-flush/tables-are-write-protected",
    f"{SECTION}/reachable-table/protection-removed",
    f"{SECTION}/reachable-table/saves-emulation",
    "reaction-to-events/unsync/tried",
    "reaction-to-events/unsync-done/guest-continues",
)
def all_tables_are_kept_protected(model: BrokenModel) -> None:
    """As the document has it of the general case: every write to a table comes to KVM."""
    never_unsync(model)


@violates(f"{SECTION}/reachable-table/reachable-from-cr3")
def only_reachable_tables_lose_their_protection(model: BrokenModel) -> None:
    """As the document has it: a table is made unsync if a root that is loaded leads to it."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, slot: Any, gfn: int, **how: bool) -> Steps[bool]:
            loaded = {vcpu.mmu.root.hpa for vcpu in kvm.vcpus}
            if any(not _below(kvm, sp, loaded) for sp in kvm.valid_pages_at(gfn) if not sp.role.direct):
                return False
            return bool((yield from original(kvm, slot, gfn, **how)))

        return wrong

    model.wrap("shadow.unsync.mmu_try_to_unsync_pages", wrap)


def _below(kvm: Any, sp: Any, loaded: set[int]) -> bool:
    """Whether a page is a loaded root or hangs below one."""
    parents = [sptep_to_sp(kvm.host, sptep) for sptep in pte_list(kvm.host, sp.parent_ptes)]
    return sp.hpa in loaded or any(_below(kvm, parent, loaded) for parent in parents)


@violates("reaction-to-events/invlpg-drop/affected-translations")
def the_kernels_exchange_their_invlpg(model: BrokenModel) -> None:
    """What 6.1 does, 6.12 does, and the other way round."""
    _exchange(model)


@violates("reaction-to-events/invlpg-reinstantiate/indicated-translation")
def the_kernels_exchange_what_they_do_in_advance(model: BrokenModel) -> None:
    """What 6.1 makes anew, 6.12 makes, and the other way round."""
    _exchange(model)


def _exchange(model: BrokenModel) -> None:
    def wrap(original: Any) -> Any:
        def wrong(release: str) -> Any:
            kernel = original(release)
            return replace(kernel, invlpg_zaps=not kernel.invlpg_zaps)

        return wrong

    model.wrap("kernels.kernel_named", wrap)


@violates("reaction-to-events/mov-cr3-roots/looked-up", "reaction-to-events/mov-cr0-cr4-efer-roots/looked-up")
def every_root_is_made_anew(model: BrokenModel) -> None:
    """Neither those that a vCPU remembers nor those that the hash knows are used again."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, gfn: int, role: Any) -> Any:
            return None if role.level == vcpu.mmu.root_role.level else original(vcpu, gfn, role)

        return wrong

    model.wrap("shadow.pages.kvm_mmu_find_shadow_page", wrap)
    model.replace("kvm.roots.is_root_usable", lambda kvm, root, pgd, role: False)


@violates("reaction-to-events/mov-cr3-roots/looked-up")
def only_remembered_roots_are_used_again(model: BrokenModel) -> None:
    """What the hash knows is not."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, gfn: int, role: Any) -> Any:
            return None if role.level == vcpu.mmu.root_role.level else original(vcpu, gfn, role)

        return wrong

    model.wrap("shadow.pages.kvm_mmu_find_shadow_page", wrap)


@violates("reaction-to-events/mov-cr3-sync/newly-reachable")
def a_guest_cannot_keep_its_tlb(model: BrokenModel) -> None:
    """As the document has it: every write to CR3 synchronizes."""
    model.wrap(
        "kvm.registers.kvm_set_cr3",
        lambda original: lambda vcpu, value: original(vcpu, value & ~CR3_NO_FLUSH),
    )


@violates("reaction-to-events/mov-cr3-sync/newly-reachable")
def new_roots_are_taken_as_they_are(model: BrokenModel) -> None:
    """A root that was got anew is not synchronized before it is used; a flush still synchronizes."""
    loading: list[bool] = []

    def load(original: Any) -> Any:
        def wrong(vcpu: Any) -> Steps[None]:
            loading.append(True)
            yield from original(vcpu)
            loading.clear()

        return wrong

    def sync(original: Any) -> Any:
        def wrong(vcpu: Any) -> Steps[None]:
            if not loading:
                yield from original(vcpu)

        return wrong

    model.wrap("kvm.roots.kvm_mmu_load", load)
    model.wrap("shadow.sync.kvm_mmu_sync_roots", sync)


@violates("reaction-to-events/mov-cr0-cr4-efer-context/set-up")
def efer_makes_no_difference(model: BrokenModel) -> None:
    """A change of EFER does not reach the MMU."""

    def wrap(original: Any) -> Any:
        return lambda old, new: original(replace(old, efer=new.efer), new)

    model.wrap("kvm.registers.matters_to_roles", wrap)


@violates("reaction-to-events/mov-cr0-cr4-efer-context/set-up")
def the_context_stays_what_it_was(model: BrokenModel) -> None:
    """A change of mode does not reach the MMU."""
    model.replace("kvm.registers.matters_to_roles", lambda old, new: False)
