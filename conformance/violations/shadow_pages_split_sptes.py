"""Wrong models: sptes on 32-bit hosts."""

from typing import Any

from conformance.broken import BrokenModel, nothing
from mmu_model.kvm.split_spte import read_half, write_half
from mmuspec.violations import violates

ONLY = "clear_spte_count/only-on-32-bit-hosts"
RETRIES = "clear_spte_count/reader-retries"
LOW = (1 << 32) - 1


@violates(ONLY)
def every_host_counts(model: BrokenModel) -> None:
    """Pages of 64-bit hosts have the member, too."""

    def change(original: Any) -> Any:
        def wrong(sp: Any, *arguments: Any) -> None:
            original(sp, *arguments)
            sp.clear_spte_count = 0

        return wrong

    model.wrap("kvm.page.KvmMmuPage.__init__", change)


@violates(ONLY)
def a_32_bit_host_stores_sptes_as_one(model: BrokenModel) -> None:
    """As if it could write 8 bytes at once."""

    def wrong(host: Any, sptep: int, spte: int) -> Any:
        yield "is about to store"
        host.write(sptep, spte)

    model.replace("kvm.split_spte.set_spte", wrong)


@violates(ONLY)
def the_present_half_is_stored_first(model: BrokenModel) -> None:
    """An spte appears with its low half; the high one follows."""

    def wrong(host: Any, sptep: int, spte: int) -> Any:
        write_half(host, sptep, spte & LOW)
        yield "has stored the low half"
        write_half(host, sptep + 4, spte >> 32)

    model.replace("kvm.split_spte.set_spte", wrong)


def _clear(model: BrokenModel, order: str) -> None:
    """Change what update_clear_spte does in which order: h and l for the halves, c for the count."""

    def change(original: Any) -> Any:
        count = original.__globals__["count_spte_clear"]

        def wrong(host: Any, sptep: int, spte: int) -> Any:
            old = host.read(sptep)
            for what in order:
                if what == "l":
                    write_half(host, sptep, spte & LOW)
                elif what == "h":
                    write_half(host, sptep + 4, spte >> 32)
                else:
                    count(host, sptep, spte)
                yield f"has done {what}"
            return old

        return wrong

    model.wrap("kvm.split_spte.update_clear_spte", change)


@violates(ONLY)
def the_present_half_is_cleared_last(model: BrokenModel) -> None:
    """An spte loses its high half while it is still present."""
    _clear(model, "hlc")


@violates(ONLY)
def every_store_is_counted(model: BrokenModel) -> None:
    """clear_spte_count also counts sptes that stay present."""

    def wrong(host: Any, sptep: int, spte: int) -> None:
        host.at(host.page_private[sptep - 0xFFFF_8880_0000_0000 >> 12]).clear_spte_count += 1

    model.replace("kvm.split_spte.count_spte_clear", wrong)


@violates(ONLY, RETRIES)
def sptes_that_go_are_not_counted(model: BrokenModel) -> None:
    """clear_spte_count stays 0."""
    model.replace("kvm.split_spte.count_spte_clear", lambda host, sptep, spte: None)


@violates(RETRIES)
def sptes_are_counted_before_they_go(model: BrokenModel) -> None:
    """A reader may read the count between it and the stores."""
    _clear(model, "clh")


def _reader(model: BrokenModel, *, looks_again: bool, counts: bool) -> None:
    """A reader that leaves out some of its checks."""

    def change(original: Any) -> Any:
        sptep_to_sp = original.__globals__["sptep_to_sp"]

        def wrong(host: Any, sptep: int) -> Any:
            if host.x86_64:
                return host.read(sptep)
            sp = sptep_to_sp(host, sptep)
            while True:
                count = sp.clear_spte_count
                yield "has read clear_spte_count"
                low = read_half(host, sptep)
                yield "has read the low half"
                high = read_half(host, sptep + 4)
                yield "has read the high half"
                if (not looks_again or low == read_half(host, sptep)) and (
                    not counts or count == sp.clear_spte_count
                ):
                    return high << 32 | low

        return wrong

    model.wrap("kvm.split_spte.get_spte_lockless", change)


@violates(RETRIES)
def readers_ignore_the_count(model: BrokenModel) -> None:
    """They only look whether the low half is what it was."""
    _reader(model, looks_again=True, counts=False)


@violates(RETRIES)
def readers_look_at_the_count_alone(model: BrokenModel) -> None:
    """It counts an spte only after it has gone: in the middle of that they see nothing of it."""
    _reader(model, looks_again=False, counts=True)


@violates(RETRIES)
def readers_do_not_retry(model: BrokenModel) -> None:
    """They take the two halves as they come."""
    _reader(model, looks_again=False, counts=False)


@violates(RETRIES)
def pages_are_freed_while_they_are_read(model: BrokenModel) -> None:
    """Nobody waits for those who walk shadow pages without the lock."""
    model.replace("kvm.requests.wait_for_kicked", nothing())
