"""Lists of sptes in one word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmu_model.kvm.host import Host
from mmu_model.kvm.rmap import (
    KVM_RMAP_MANY,
    PTE_LIST_EXT,
    RmapHead,
    pte_list,
    pte_list_add,
    pte_list_clear,
    pte_list_count,
    pte_list_remove,
)
from mmu_model.kvm.types import Kva, Sptep


def sptep(number: int) -> Sptep:
    return Sptep(Kva(0xFFFF_8880_0000_1000 + 8 * number))


def test_one_is_a_plain_pointer_and_two_are_a_list() -> None:
    """Bit 0 tells; a list that shrinks to one stays a list."""
    host, head = Host(), RmapHead()
    pte_list_add(host, head, sptep(1))
    assert head.val == sptep(1)

    pte_list_add(host, head, sptep(2))
    assert head.val & KVM_RMAP_MANY
    assert host.at(head.val & ~KVM_RMAP_MANY).sptes == [sptep(1), sptep(2)]

    pte_list_remove(host, head, sptep(1))
    assert head.val & KVM_RMAP_MANY
    pte_list_remove(host, head, sptep(2))
    assert head.val == 0


def test_only_the_first_descriptor_has_room() -> None:
    """A full one gets a new one in front, which counts all that is behind it."""
    host, head = Host(), RmapHead()
    for number in range(2 * PTE_LIST_EXT + 1):
        pte_list_add(host, head, sptep(number))

    first = host.at(head.val & ~KVM_RMAP_MANY)
    assert (len(first.sptes), first.tail_count) == (1, 2 * PTE_LIST_EXT)
    assert len(host.at(first.more).sptes) == PTE_LIST_EXT


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=120))
def test_a_list_is_a_set(steps: list[tuple[bool, int]]) -> None:
    """Whatever is added and removed: what is in it, how many, and no memory lost."""
    host, head, model = Host(), RmapHead(), set[Sptep]()
    for add, number in steps:
        if add and sptep(number) not in model:
            assert (pte_list_add(host, head, sptep(number)) > 0) == bool(model)
            model.add(sptep(number))
        elif not add and sptep(number) in model:
            pte_list_remove(host, head, sptep(number))
            model.remove(sptep(number))
        assert set(pte_list(host, head)) == model
        assert pte_list_count(host, head) == len(model)
    pte_list_clear(host, head)
    assert (head.val, pte_list(host, head)) == (0, [])


def test_what_is_not_there_cannot_be_removed() -> None:
    """The kernel calls it data corruption."""
    host, head = Host(), RmapHead()
    pte_list_add(host, head, sptep(1))
    with pytest.raises(KeyError, match="not in the list"):
        pte_list_remove(host, head, sptep(2))
    pte_list_add(host, head, sptep(3))
    with pytest.raises(KeyError, match="not in the list"):
        pte_list_remove(host, head, sptep(2))
