"""Wrong models: what a page has."""

from typing import Any

from conformance.broken import BrokenModel
from mmuspec.violations import violates

FIELDS = "shadow-pages/fields/lead-in"


def _missing(model: BrokenModel, name: str) -> None:
    """What is written to the member is lost, and nobody finds it."""

    def absent(page: Any) -> None:
        raise AttributeError(name)

    model.replace(f"kvm.page.KvmMmuPage.{name}", property(absent, lambda page, value: None))


@violates(FIELDS)
def pages_do_not_count_writes(model: BrokenModel) -> None:
    """There is no write_flooding_count."""
    _missing(model, "write_flooding_count")


@violates(FIELDS)
def pages_have_no_generation(model: BrokenModel) -> None:
    """There is no mmu_valid_gen."""
    _missing(model, "mmu_valid_gen")
