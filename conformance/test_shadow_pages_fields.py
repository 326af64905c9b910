"""Section "Shadow pages": that a page has what the list of its fields names."""

from functools import cache
from pathlib import Path

import pytest

from conformance.looking import structs
from conformance.scenes import guest
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.snapshot import MmuKind
from mmuspec.specfiles import load_spec

FIELDS = "shadow-pages/fields/lead-in"
SPEC = Path(__file__).parent.parent / "spec"
ROLE = "role."


@cache
def documented() -> set[str]:
    """The names in the list, as the spec has them: those of a role's fields begin with ``role.``."""
    return {name for item in load_spec(SPEC).items for name in item.names}


def members(sp: KvmMmuPage) -> set[str]:
    """Which of them a page has."""
    return {
        name
        for name in documented()
        if hasattr(sp.role if name.startswith(ROLE) else sp, name.removeprefix(ROLE))
    }


@pytest.mark.spec(FIELDS)
def test_a_page_has_every_member_of_the_list(kernel: str, mmu: MmuKind) -> None:
    """Pages of all MMUs, whichever of them uses a member; but one of them is of 32-bit hosts."""
    scene = guest(kernel, mmu)
    scene.reads(0x5000)

    found = [members(sp) for sp in structs(scene.vm)]

    assert found == [documented() - {"clear_spte_count"}] * len(found)
    assert len(found) >= 2


@pytest.mark.spec(FIELDS)
def test_a_page_of_a_32_bit_host_has_them_all(kernel: str) -> None:
    """Edge: there none is missing."""
    scene = guest(kernel, MmuKind.SHADOW, x86_64=False)
    scene.reads(0x5000)

    found = [members(sp) for sp in structs(scene.vm)]

    assert found == [documented()] * len(found)
    assert len(found) >= 2
