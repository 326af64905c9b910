"""In what way words changed: the first class that applies."""

import pytest

from mmuspec.wording import BLOCKING, ORDER, change_class

BEFORE = "The slot holds 3 keys if cr0.wp is set and may be read by the owner."


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (BEFORE.replace("3", "4"), "number"),
        (BEFORE.replace("3 keys", "three keys"), "number"),
        (BEFORE.replace("3 keys if", "4 keys unless"), "number"),
        (BEFORE.replace("holds", "does not hold"), "negation"),
        (BEFORE.replace("holds", "never holds"), "negation"),
        (BEFORE.replace("may be", "may not be"), "negation"),
        (BEFORE.replace("may", "must"), "modal"),
        (BEFORE.replace("if", "when"), "condition"),
        (BEFORE.replace("holds", "only holds"), "modal"),
        (BEFORE.replace("cr0.wp", "cr4.smep"), "identifier"),
        (BEFORE.replace("cr0.wp", "cr0.pg"), "identifier"),
        (BEFORE.replace("the owner", "mmu_lock"), "identifier"),
        (BEFORE.replace("the owner", "vcpu->arch"), "identifier"),
        (BEFORE.replace("the owner", "the reader"), "wording"),
        (BEFORE.replace("holds", "keeps"), "wording"),
        (BEFORE.replace("set and may", "set, and may"), "wording"),
    ],
)
def test_the_first_class_counts(after: str, expected: str) -> None:
    assert change_class(BEFORE, after) == expected
    assert change_class(after, BEFORE) == expected


def test_a_digit_inside_a_setting_is_a_number() -> None:
    assert change_class("set to CR4.LA57=1 there", "set to CR4.LA57=0 there") == "number"


def test_order_of_words_counts_as_wording() -> None:
    assert change_class("a before b", "b before a") == "wording"


def test_same_words_are_markup() -> None:
    assert change_class("a ``slot``", "a slot", same_words=True) == "markup"


def test_all_but_markup_blocks() -> None:
    assert set(ORDER) - {"markup"} == BLOCKING
