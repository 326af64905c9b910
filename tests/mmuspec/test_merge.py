"""Which statement is which, from one revision of a document to the next."""

from mmuspec.spec import Since, Spec
from tests.mmuspec.specs import claims, ids, merged, spec_of

BEFORE = """\
Tower
=====

Slots
-----

A slot holds one gadget at any time.  Nobody owns a slot for long.

The tower has three levels of slots.

- look up the slot

Fields
------

The slot has these fields:
  keys:
    An array of 64 keys, one for each gadget.  Used to find the gadget.
  use_count:
    Counts the users of the slot.
"""


def assert_all_kept(before: Spec, after: Spec) -> None:
    """No curated word is lost, and none has come to another id."""
    kept = claims(after)
    assert {i: kept.get(i) for i in claims(before)} == claims(before)
    everything = [s.id for s in after.everything()]
    assert len(set(everything)) == len(everything)


def since(spec: Spec, statement_id: str) -> Since | None:
    found = spec.find(statement_id)
    assert found is not None
    return found.curated.since


def test_nothing_changed() -> None:
    before = spec_of(BEFORE)
    result = merged(before, BEFORE, release="1")
    assert result.spec == before
    assert not (result.added or result.removed or result.moved or result.changed)


def test_lines_shift_and_nothing_else() -> None:
    before = spec_of(BEFORE)
    result = merged(before, ".. a comment\n\n" + BEFORE)
    assert ids(result.spec) == ids(before)
    assert [s.line for s in result.spec.statements()] == [s.line + 2 for s in before.statements()]
    assert not (result.added or result.removed or result.moved or result.changed)


def test_moved_within_its_section() -> None:
    before = spec_of(BEFORE)
    after = BEFORE.replace("The tower has three levels of slots.\n\n", "").replace(
        "A slot holds", "The tower has three levels of slots.\n\nA slot holds"
    )
    result = merged(before, after)
    assert_all_kept(before, result.spec)
    assert len(result.moved) == 1
    assert "tower" in result.moved[0]
    assert not (result.added or result.removed or result.changed)


def test_moved_to_another_section() -> None:
    before = spec_of(BEFORE)
    after = BEFORE.replace("- look up the slot\n\n", "") + "\n- look up the slot\n"
    result = merged(before, after)
    assert_all_kept(before, result.spec)
    assert [i.split("/")[0] for i in result.moved] == ["slots"]
    assert not (result.added or result.removed or result.changed)


def test_reworded_keeps_id_and_claim() -> None:
    before = spec_of(BEFORE)
    after = BEFORE.replace("holds one gadget at any time", "holds at most one gadget at any time")
    result = merged(before, after, BEFORE)
    (change,) = result.changed
    assert change.before == "A slot holds one gadget at any time."
    assert change.after == "A slot holds at most one gadget at any time."
    assert since(result.spec, change.id) is Since.CHANGED
    assert_all_kept(before, result.spec)
    assert ids(result.spec) == ids(before)


def test_the_former_wording_is_kept_with_its_claim() -> None:
    before = spec_of(BEFORE)
    after = BEFORE.replace("three levels", "four levels")
    result = merged(before, after, BEFORE)
    (former,) = result.spec.obsolete
    assert former.replaced_by == result.changed[0].id
    assert former.statement.id.startswith(former.replaced_by + "~")
    assert former.statement.curated.claim == claims(before)[former.replaced_by]
    assert former.release == "1"


def test_one_sentence_split_in_two() -> None:
    before = spec_of(BEFORE)
    after = BEFORE.replace(
        "The tower has three levels of slots.", "The tower has three levels.  Each level has slots."
    )
    result = merged(before, after, BEFORE)
    assert len(result.changed) == len(result.added) == 1
    assert since(result.spec, result.added[0]) is Since.NEW
    assert not result.removed
    assert_all_kept(before, result.spec)


def test_two_sentences_merged_into_one() -> None:
    before = spec_of(BEFORE)
    after = BEFORE.replace("at any time.  Nobody owns", "at any time and nobody owns")
    result = merged(before, after, BEFORE)
    assert len(result.changed) == len(result.removed) == 1
    assert not result.added
    assert_all_kept(before, result.spec)


def test_a_renamed_field_keeps_its_ids() -> None:
    before = spec_of(BEFORE)
    after = BEFORE.replace("keys:", "shadowed_keys:").replace("64 keys, one", "64 shadowed keys, one")
    result = merged(before, after, BEFORE)
    field = next(item for item in result.spec.items if item.names == ("shadowed_keys",))
    assert field.id == "keys"
    assert all(s.id.startswith("keys/") for s in field.statements)
    assert not (result.added or result.removed)
    assert_all_kept(before, result.spec)


def test_a_field_joined_with_another() -> None:
    before = spec_of(BEFORE)
    after = BEFORE.replace("  use_count:", "  use_count / tower_use_count:").replace(
        "users of the slot.\n", "users of the slot.\n    tower_use_count is alike.\n"
    )
    result = merged(before, after)
    field = next(item for item in result.spec.items if "use_count" in item.names)
    assert field.id == "use_count"
    assert field.names == ("use_count", "tower_use_count")
    assert len(result.added) == 1
    assert not result.removed
    assert_all_kept(before, result.spec)


TWICE = "A\n=\n\n- look it up\n- use it\n\nB\n=\n\n- look it up\n- drop it\n"


def test_the_same_sentence_twice_keeps_both_ids_apart() -> None:
    before = spec_of(TWICE)
    assert ids(merged(before, TWICE).spec) == ids(before)
    only_second = merged(before, TWICE.replace("- look it up\n- use it", "- use it"))
    assert only_second.removed == [ids(before)[0]]
    assert ids(only_second.spec) == ids(before)[1:]


def test_removed_goes_to_the_obsolete_and_comes_back() -> None:
    before = spec_of(BEFORE)
    without = BEFORE.replace("  Nobody owns a slot for long.", "")
    gone = merged(before, without, BEFORE)
    assert len(gone.removed) == 1
    assert [o.statement.id for o in gone.spec.obsolete] == gone.removed
    assert_all_kept(before, gone.spec)
    back = merged(gone.spec, BEFORE, without, release="1")
    assert back.returned == gone.removed
    assert back.spec == before


def test_there_and_back_again_is_where_it_was() -> None:
    before = spec_of(BEFORE)
    other = (
        BEFORE.replace("one gadget", "at most one gadget")
        .replace("keys:", "shadowed_keys:")
        .replace("- look up the slot\n\n", "")
        .replace("Used to find the gadget.", "")
    )
    there = merged(before, other, BEFORE)
    back = merged(there.spec, BEFORE, BEFORE, other, release="1")
    assert back.spec.items == before.items
    assert set(claims(there.spec).values()) <= set(claims(back.spec).values())
    assert merged(back.spec, other, BEFORE, other).spec == there.spec


def test_a_new_statement_is_never_one_that_is_still_there() -> None:
    before = spec_of(BEFORE)
    after = BEFORE.replace("time.  Nobody", "time.  A slot holds one gadget at most times.  Nobody")
    result = merged(before, after, BEFORE)
    assert len(result.added) == 1
    assert not result.changed
    assert_all_kept(before, result.spec)


def test_without_the_old_words_nothing_is_guessed() -> None:
    before = spec_of(BEFORE)
    result = merged(before, BEFORE.replace("three levels", "four levels"))
    assert len(result.wordless) == len(result.added) == len(result.removed) == 1
    assert not result.changed
    assert_all_kept(before, result.spec)


def test_an_entirely_different_sentence_does_not_inherit_the_id() -> None:
    before = spec_of(BEFORE)
    result = merged(before, BEFORE.replace("The tower has three levels of slots.", "Wind is air."), BEFORE)
    assert len(result.added) == len(result.removed) == 1
    assert not result.changed
