"""What `check` and `diff` say of a document."""

from mmuspec.drift import of_documents, of_spec, with_known_ids
from tests.mmuspec.specs import document, ids, spec_of

OLD = "Tower\n=====\n\nA slot holds 3 keys.  It may turn.\n\n- one\n- two\n"


def texts(source: str) -> dict[str, str]:
    return {s.digest: s.text for s in document(source).statements}


def test_in_step() -> None:
    drift = of_spec(spec_of(OLD), document(OLD), texts(OLD).get, {})
    assert not drift and not drift.blocks
    assert drift.as_json() == {"added": [], "removed": [], "moved": [], "changed": []}


def test_each_change_has_its_class_and_both_texts() -> None:
    new = (
        OLD.replace("3 keys", "4 keys")
        .replace("may turn", "must turn")
        .replace("- two\n", "- three\n- four\n")
    )
    drift = of_documents(document(OLD), document(new))
    data = drift.as_json()
    assert [(c["class"], c["before"], c["after"]) for c in data["changed"]] == [
        ("number", "A slot holds 3 keys.", "A slot holds 4 keys."),
        ("modal", "It may turn.", "It must turn."),
    ]
    assert len(data["added"]) == 2 and len(data["removed"]) == 1
    assert drift.blocks


def test_changed_markup_is_said_and_does_not_block() -> None:
    new = OLD.replace("slot", "``slot``")
    by_document = of_documents(document(OLD), document(new))
    by_spec = of_spec(spec_of(OLD), document(new), texts(OLD).get, texts(OLD))
    for drift in (by_document, by_spec):
        assert [(c.kind, c.before, c.after) for c in drift.changed] == [
            ("markup", "A slot holds 3 keys.", "A ``slot`` holds 3 keys.")
        ]
        assert drift and not drift.blocks


def test_shifted_lines_are_no_drift() -> None:
    assert not of_spec(spec_of(OLD), document("\n\n" + OLD), texts(OLD).get, {})


def test_old_words_that_are_not_at_hand_block() -> None:
    drift = of_spec(spec_of(OLD), document(OLD.replace("3 keys", "4 keys")), lambda _: None, {})
    assert drift.blocks
    assert drift.wordless == drift.removed
    assert not drift.changed


def test_a_spec_edited_by_hand_is_not_the_spec_of_its_document() -> None:
    from dataclasses import replace

    spec = spec_of(OLD)
    item = spec.items[0]
    shifted = replace(item, statements=(replace(item.statements[0], line=99), *item.statements[1:]))
    drift = of_spec(replace(spec, items=(shifted, *spec.items[1:])), document(OLD), texts(OLD).get, {})
    assert drift.moved == (item.statements[0].id,)
    assert drift.blocks


def test_a_document_gets_the_ids_of_the_spec() -> None:
    spec = spec_of(OLD.replace("- one", "- zero\n- one"))
    named = with_known_ids(document(OLD), spec, texts(OLD).get)
    assert {s.id for s in named.statements} <= set(ids(spec))


def test_another_page_does_not() -> None:
    other = document(OLD.replace("Tower", "Other"))
    assert with_known_ids(other, spec_of(OLD), texts(OLD).get) == other
