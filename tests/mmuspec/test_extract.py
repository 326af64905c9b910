"""Items and statements of a document that has every construct of the real one."""

import pytest

from mmuspec.document import Document, Item, Kind
from mmuspec.extract import extract
from mmuspec.text import digest, fold
from tests.mmuspec.gadget import GADGET


@pytest.fixture(scope="module")
def gadget() -> Document:
    document, complaints = extract(GADGET, "gadget.rst")
    assert [c for c in complaints if c.level > 2] == []
    return document


def item(document: Document, item_id: str) -> Item:
    return next(i for i in document.items if i.id == item_id)


def texts(document: Document, kind: Kind) -> list[list[str]]:
    return [[s.text for s in i.statements] for i in document.items if i.kind is kind]


def of(source: str) -> Document:
    return extract(source, "test.rst")[0]


def test_the_document_is_named(gadget: Document) -> None:
    assert gadget.source.title == "The gadget cache"
    assert gadget.source.lines == len(GADGET.splitlines())


def test_fields_stand_inside_the_definition_of_a_sentence(gadget: Document) -> None:
    assert [f.names for f in gadget.fields] == [
        ("state.level",),
        ("state.kind",),
        ("use_count", "tower_use_count"),
        ("owner",),
    ]
    assert [f.id for f in gadget.fields] == ["state.level", "state.kind", "use_count", "owner"]


def test_a_field_begins_at_its_term_and_its_statements_below_it(gadget: Document) -> None:
    field = item(gadget, "use_count")
    source = GADGET.splitlines()
    assert source[field.line - 1].strip() == "use_count / tower_use_count:"
    assert [(s.line - field.line, s.end_line - field.line) for s in field.statements] == [(1, 1), (1, 2)]
    assert field.end_line == field.line + 2
    assert field.statements[1].text == "tower_use_count is alike (a.b && !c.d) but atomic."


def test_a_full_stop_may_be_forgotten_before_a_new_line(gadget: Document) -> None:
    assert [s.text for s in item(gadget, "state.kind").statements] == [
        "If set, the slot is one of gdt.h's (see below)",
        "If clear, it is not.",
    ]


def test_requirements_are_named_by_their_key(gadget: Document) -> None:
    found = [i for i in gadget.items if i.kind is Kind.REQUIREMENT]
    assert [i.id for i in found] == ["introduction/speed", "introduction/honesty"]
    assert found[0].text == "speed: a lookup takes one step, e.g. one comparison"
    assert (found[0].line, found[0].end_line) == (12, 14)


def test_a_row_of_the_acronym_table_may_go_on(gadget: Document) -> None:
    found = [i for i in gadget.items if i.kind is Kind.ACRONYM]
    assert [i.id for i in found] == ["acronyms/gdt", "acronyms/slt"]
    assert found[1].text == "slt slot (a place for one gadget, or for none)"
    assert found[1].end_line == found[1].line + 1


def test_each_mapping_line_is_an_item_and_its_footnote_a_paragraph(gadget: Document) -> None:
    found = [i for i in gadget.items if i.kind is Kind.MAPPING]
    assert [i.text for i in found] == [
        "empty: nothing",
        "full, hot: (key->)gadget",
        "shared: key->gadget (*)",
    ]
    assert [i.line for i in found] == [found[0].line + n for n in range(3)]
    assert ["(*) the sharer counts the key->gadget pairs if nobody else does"] in texts(
        gadget, Kind.PARAGRAPH
    )


def test_sub_bullets_need_no_blank_line(gadget: Document) -> None:
    assert [t[0] for t in texts(gadget, Kind.BULLET)] == [
        "gadget removal",
        "a true removal (*)",
        "a move",
        "to another slot",
        "out of the tower (*)",
        "nothing at all",
        "find the slot",
        "wake its owner",
        "see Documentation/gadget/locking.rst for the rest",
    ]


def test_every_statement_has_the_lines_its_words_stand_on(gadget: Document) -> None:
    source = GADGET.splitlines()
    for statement in gadget.statements:
        standing = fold(" ".join(source[statement.line - 1 : statement.end_line]))
        assert fold(statement.text.split(": ")[-1])[:20] in standing


def test_digests_are_of_the_words_alone() -> None:
    marked = of("Title\n=====\n\nA ``slot`` is *hot* and :ref:`big <slots>`.\n")
    plain = of("Title\n=====\n\nA slot   is hot\nand big.\n")
    assert [s.digest for s in marked.statements] == [s.digest for s in plain.statements]
    assert plain.statements[0].digest == digest("A slot is hot and big.")
    assert marked.statements[0].text == "A ``slot`` is *hot* and :ref:`big <slots>`."


def test_headings_comments_and_directives_are_in_no_statement() -> None:
    document = of(
        ".. a comment\n   of two lines\n\n.. include:: /etc/passwd\n\n.. raw:: html\n\n   <b>raw</b>\n\n"
        "Title\n=====\n\n.. unknown-directive:: argument\n   :option: value\n\n   its body\n\n"
        ".. _target: elsewhere\n\nOne sentence.\n\n.. note:: A note is prose.\n"
    )
    assert [s.text for s in document.statements] == ["One sentence.", "A note is prose."]


def test_unknown_roles_keep_their_text() -> None:
    document = of("See :c:func:`slot_get()` and :unknown:`that`.\n")
    assert document.statements[0].digest == digest("See slot_get() and that.")


def test_the_same_words_twice_are_two_statements() -> None:
    document = of("First\n=====\n\n- look it up\n\nSecond\n======\n\n- look it up\n")
    assert len({s.id for s in document.statements}) == len(document.statements) == 2
    assert len({s.digest for s in document.statements}) == 1


OLDER = """\
The gadget cache
================

It meets the following requirements:

- speed: a lookup takes one step, e.g. one
         comparison
- honesty:  never return a gadget that was not put in

Acronyms
========

gdt   gadget, turning
slt   slot (a place for one gadget, or for
      none)
key   what a gadget is found by

Slots
=====

 Plain slots:
  empty:        nothing
  shared:       key->gadget

Events:
- gadget removal (see "Slots
  and keys" below)
  - a move
 - find the slot
"""


@pytest.fixture(scope="module")
def older() -> Document:
    """A text file that was never meant for docutils: the same statements all the same."""
    return of(OLDER)


def test_requirements_of_an_older_text(older: Document, gadget: Document) -> None:
    assert texts(older, Kind.REQUIREMENT) == texts(gadget, Kind.REQUIREMENT)


def test_acronyms_without_a_table(older: Document) -> None:
    assert texts(older, Kind.ACRONYM) == [
        ["gdt gadget, turning"],
        ["slt slot (a place for one gadget, or for none)"],
        ["key what a gadget is found by"],
    ]


def test_mappings_without_a_literal_block(older: Document) -> None:
    assert texts(older, Kind.MAPPING) == [["empty: nothing"], ["shared: key->gadget"]]


def test_bullets_right_below_their_text(older: Document) -> None:
    assert texts(older, Kind.BULLET) == [
        ['gadget removal (see "Slots and keys" below)'],
        ["a move"],
        ["find the slot"],
    ]
