"""Wrong models: virtual and real hardware supported."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from conformance.broken import BrokenModel
from mmu_model.hardware import ExtendedPaging, GeneralProtection, Mode, NestedPaging
from mmu_model.hardware.ept import EPTP_WALK_LENGTH_4, EPTP_WALK_LENGTH_5
from mmu_model.hardware.paging import GLOBAL, Step
from mmu_model.kvm.spte import paging_masks
from mmuspec.violations import violates

HARDWARE = "virtual-and-real-hardware-supported/hardware/first-generation-and-two-dimensional"
FEATURES = "virtual-and-real-hardware-supported/hardware/emulated-modes-and-features"
NESTED = "virtual-and-real-hardware-supported/hardware/npt-for-guests"

Steps = tuple[Step, ...]

_TOPS = {
    "32-bit": ["32-bit PDE, table"],
    "PAE": ["PAE PDPTE", "PAE PDE, table"],
    "4": ["PML4E"],
    "5": ["PML5E"],
}


def _change_walks(model: BrokenModel, paging: str, change: Callable[[Steps], Steps]) -> None:
    """Walks of that kind of paging go other steps, on the processor and in KVM."""

    def wrong(original: Any) -> Any:
        def steps(levels: Any, *arguments: Any) -> Steps:
            right: Steps = original(levels, *arguments)
            return change(right) if levels and levels[0].table in _TOPS[paging] else right

        return steps

    model.wrap("hardware.linear._steps", wrong)


def _change_level(number: int, **wrong: Any) -> Callable[[Steps], Steps]:
    """The entries of one level are read in another way."""
    return lambda steps: tuple(replace(step, **wrong) if step.level == number else step for step in steps)


def _change_page(number: int, **wrong: Any) -> Callable[[Steps], Steps]:
    """The entries of one level that map pages are read in another way."""

    def change(steps: Steps) -> Steps:
        return tuple(
            replace(step, page=replace(step.page, **wrong)) if step.level == number else step
            for step in steps
        )

    return change


Entry = Callable[[Any, Any, Any, Any], None]
"""What becomes of an entry: the right one, the processor, the guest's registers, the second dimension."""


def _change_entry(model: BrokenModel, kind: type, change: Entry) -> None:
    """The processor enters guests with that second dimension in another way."""

    def wrong(original: Any) -> Any:
        def enter_guest(processor: Any, registers: Any, second: Any, *rest: Any, **more: Any) -> None:
            def right(registers: Any, second: Any, **other: Any) -> None:
                original(processor, registers, second, *rest, **more, **other)

            if isinstance(second, kind):
                change(right, processor, registers, second)
            else:
                right(registers, second)

        return enter_guest

    model.wrap("hardware.processor.LogicalProcessor.enter_guest", wrong)


_NONE = type(None)


@violates(HARDWARE)
def guests_need_a_second_dimension(model: BrokenModel) -> None:
    """A processor without NPT or EPT goes on as the host."""
    _change_entry(model, _NONE, lambda right, processor, registers, second: None)


@violates(HARDWARE)
def an_entry_leaves_the_paging_mode_alone(model: BrokenModel) -> None:
    """Without a second dimension only CR3 is the guest's."""

    def change(right: Any, processor: Any, registers: Any, second: Any) -> None:
        right(replace(processor.registers, cr3=registers.cr3), second)

    _change_entry(model, _NONE, change)


@violates(HARDWARE)
def an_entry_leaves_cr3_alone(model: BrokenModel) -> None:
    """Without a second dimension only the paging mode is the guest's."""

    def change(right: Any, processor: Any, registers: Any, second: Any) -> None:
        right(replace(registers, cr3=processor.registers.cr3), second)

    _change_entry(model, _NONE, change)


@violates(HARDWARE)
def an_entry_takes_two_steps(model: BrokenModel) -> None:
    """The paging mode is the guest's while CR3 still is the host's: PAE paging finds its PDPTEs there."""

    def change(right: Any, processor: Any, registers: Any, second: Any) -> None:
        if registers.mode is not Mode.PAE:
            right(registers, second)
            return
        base = processor.registers.cr3 & ~0x1F
        words = tuple(processor.memory.read(base + 8 * n) for n in range(4))
        if any(word & 0x1E6 for word in words):
            raise GeneralProtection("the host's tables are no PDPTEs")
        right(registers, second, pdptes=words)

    _change_entry(model, _NONE, change)


@violates(HARDWARE)
def npt_is_not_walked(model: BrokenModel) -> None:
    """A guest-physical address is a host-physical one."""
    _change_entry(model, NestedPaging, lambda right, processor, registers, second: right(registers, None))


@violates(HARDWARE)
def ept_is_not_walked(model: BrokenModel) -> None:
    """A guest-physical address is a host-physical one."""
    _change_entry(model, ExtendedPaging, lambda right, processor, registers, second: right(registers, None))


@violates(HARDWARE)
def ept_has_the_format_of_npt(model: BrokenModel) -> None:
    """KVM writes the same sptes for Intel's processors as for AMD's."""
    model.replace("guest_entry.spte_masks", lambda kernel, parameters, maxphyaddr: paging_masks(maxphyaddr))


@violates(HARDWARE)
def ept_is_walked_from_the_wrong_level(model: BrokenModel) -> None:
    """The EPTP names five levels for four, and four for five."""
    other = EPTP_WALK_LENGTH_4 ^ EPTP_WALK_LENGTH_5
    model.wrap("kvm.vmx.construct_eptp", lambda original: lambda vcpu: original(vcpu) ^ other)


@violates(HARDWARE)
def ept_violations_are_taken_for_misconfigurations(model: BrokenModel) -> None:
    """No page is ever mapped for a guest over EPT."""
    model.replace("kvm.vmx.ept_violation_error_code", lambda exit_qualification: 1 << 3)


@violates(FEATURES)
def two_levels_are_one(model: BrokenModel) -> None:
    """32-bit paging has one level: the table that CR3 names maps pages of 4 KiB."""
    _change_walks(model, "32-bit", lambda steps: steps[1:])


@violates(FEATURES)
def three_levels_are_two(model: BrokenModel) -> None:
    """PAE paging has one level less, below the four registers."""
    _change_walks(model, "PAE", lambda steps: steps[:-2] + steps[-1:])


@violates(FEATURES)
def four_levels_are_three(model: BrokenModel) -> None:
    """CR3 names a table of the third level."""
    _change_walks(model, "4", lambda steps: steps[1:])


@violates(FEATURES)
def no_page_is_global(model: BrokenModel) -> None:
    """A load of CR3 forgets all."""

    def change(original: Any) -> Any:
        return lambda tlb, tag, address, cached, *, is_global=False: original(tlb, tag, address, cached)

    model.wrap("hardware.tlb.TranslationCache.insert", change)


@violates(FEATURES)
def global_pages_do_not_wait_for_cr4_pge(model: BrokenModel) -> None:
    """The bit in the entry makes a page global whatever CR4 says."""

    def change(original: Any) -> Any:
        def wrong(tlb: Any, tag: Any, address: int, cached: Any, *, is_global: bool = False) -> None:
            original(tlb, tag, address, cached, is_global=is_global or bool(cached.guest.entry & GLOBAL))

        return wrong

    model.wrap("hardware.tlb.TranslationCache.insert", change)


@violates(FEATURES)
def nothing_ends_a_global_translation(model: BrokenModel) -> None:
    """CR4.PGE keeps them, too."""

    def change(original: Any) -> Any:
        return lambda tlb, selection: original(tlb, selection._replace(keep_global=True))

    model.wrap("hardware.tlb.TranslationCache.invalidate", change)


@violates(FEATURES)
def pae_reaches_no_more_than_4_gib(model: BrokenModel) -> None:
    """Entries of 8 bytes, but addresses of 32 bits."""
    _change_walks(model, "PAE", _change_page(1, address=0xFFFF_F000))


@violates(FEATURES)
def pse_does_nothing(model: BrokenModel) -> None:
    """No page of 4 MiB."""
    _change_walks(model, "32-bit", _change_level(2, page_if=0))


@violates(FEATURES)
def pages_of_4_mib_do_not_wait_for_pse(model: BrokenModel) -> None:
    """Bit 7 means a large page whatever CR4 says."""
    _change_walks(model, "32-bit", _change_level(2, page_if=1 << 7))


@violates(FEATURES)
def pages_of_4_mib_have_2(model: BrokenModel) -> None:
    """A large page of 32-bit paging spans what one of PAE paging does."""
    _change_walks(model, "32-bit", _change_page(2, address=0xFFE0_0000, reserved=0))
    _change_walks(model, "32-bit", _change_level(2, shift=21))


@violates(FEATURES)
def pse_36_does_nothing(model: BrokenModel) -> None:
    """Large pages are below 4 GiB."""
    _change_walks(model, "32-bit", _change_page(2, high=0))


@violates(FEATURES)
def cr0_wp_does_nothing(model: BrokenModel) -> None:
    """The kernel writes where it likes."""
    _without_wp(model, forced=0)


@violates(FEATURES)
def cr0_wp_is_always_on(model: BrokenModel) -> None:
    """The kernel never writes to a read-only page."""
    _without_wp(model, forced=1 << 16)


def _without_wp(model: BrokenModel, *, forced: int) -> None:
    def change(original: Any) -> Any:
        def wrong(registers: Any, how: Any, **rights: bool) -> Any:
            return original(replace(registers, cr0=registers.cr0 & ~(1 << 16) | forced), how, **rights)

        return wrong

    model.wrap("hardware.permissions.permitted", change)


@violates(FEATURES)
def without_cr0_wp_users_write_too(model: BrokenModel) -> None:
    """CR0.WP frees every program, not the kernel alone."""

    def change(original: Any) -> Any:
        def wrong(registers: Any, how: Any, **rights: bool) -> Any:
            return (how.writes and not registers.cr0 & 1 << 16) or original(registers, how, **rights)

        return wrong

    model.wrap("hardware.permissions.permitted", change)


@violates(FEATURES)
def there_are_no_pages_of_1_gib(model: BrokenModel) -> None:
    """An entry of the third level always names a table."""
    _change_walks(model, "4", _change_level(3, page_if=0))


@violates(FEATURES)
def five_levels_are_four(model: BrokenModel) -> None:
    """CR4.LA57 does nothing."""

    def change(original: Any) -> Any:
        def mode(registers: Any) -> Mode:
            right: Mode = original.fget(registers)
            return Mode.FOUR_LEVEL if right is Mode.FIVE_LEVEL else right

        return property(mode)

    model.wrap("hardware.registers.Registers.mode", change)


@violates(NESTED)
def nested_page_tables_are_not_looked_at(model: BrokenModel) -> None:
    """A guest of the guest uses the memory of its hypervisor at the same address."""

    def change(original: Any) -> Any:
        def wrong(memory: Any, paging: Any, how: Any, address: int) -> Any:
            walker = original(memory, paging, how, address)
            walker.gfn = address >> 12
            return walker

        return wrong

    model.wrap("kvm.guest_walk.walk_addr", change)


@violates(NESTED)
def nested_paging_is_offered_on_any_host(model: BrokenModel) -> None:
    """A guest may make nested page tables though the host's processor cannot walk them."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, *arguments: Any) -> None:
            parameters = vcpu.kvm.parameters
            vcpu.kvm.parameters = replace(parameters, tdp_enabled=True)
            try:
                original(vcpu, *arguments)
            finally:
                vcpu.kvm.parameters = parameters

        return wrong

    model.wrap("kvm.nested.enter_nested", change)
