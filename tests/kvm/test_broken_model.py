"""Breaking the model on purpose, and putting it right."""

import pytest

from conformance.broken import BrokenModel
from mmu_model.kvm import role
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.tdp import map as tdp_map


def test_every_module_gets_the_replacement_and_loses_it_again() -> None:
    """A function that was imported elsewhere is replaced there, too."""
    original, model = role.child_level, BrokenModel()
    model.wrap("kvm.role.child_level", lambda old: lambda level: old(level) + 10)

    assert role.child_level(3) == vars(tdp_map)["child_level"](3) == 12
    model.restore()
    assert role.child_level is original
    assert vars(tdp_map)["child_level"] is original


def test_attributes_of_classes_can_be_replaced() -> None:
    """Properties included."""
    original, model = KvmMmuPage.__dict__["ptep"], BrokenModel()
    model.replace("kvm.page.KvmMmuPage.ptep", property(lambda sp: 5))
    assert KvmMmuPage.__dict__["ptep"] is not original
    model.restore()
    assert KvmMmuPage.__dict__["ptep"] is original


@pytest.mark.parametrize(
    "path", ["kvm.role.nothing", "kvm.nothing.at_all", "nothing", "kvm.page.KvmMmuPage.no"]
)
def test_a_path_that_does_not_exist_is_an_error(path: str) -> None:
    """A violation cannot silently miss."""
    with pytest.raises(LookupError, match="does not exist"):
        BrokenModel().replace(path, None)


def test_a_replacement_that_changes_nothing_is_an_error() -> None:
    """Neither the same function nor an equal constant."""
    with pytest.raises(ValueError, match="changes nothing"):
        BrokenModel().replace("kvm.role.child_level", role.child_level)
    with pytest.raises(ValueError, match="changes nothing"):
        BrokenModel().replace("kvm.role.ACC_ALL", 7)
