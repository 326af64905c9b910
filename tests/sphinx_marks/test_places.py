"""Marks find their places in trees as Sphinx makes them."""

from __future__ import annotations

from itertools import pairwise

from docutils import nodes
from docutils.core import publish_doctree
from hypothesis import given
from hypothesis import strategies as st

from mmuspec.sphinx.places import put


class Here(nodes.inline):
    """A mark that can be seen in the text of a tree."""

    def astext(self) -> str:
        return "⟨*⟩"


def read(source: str) -> nodes.document:
    settings = {"report_level": 5, "smart_quotes": True, "input_encoding": "unicode"}
    return publish_doctree(source, settings_overrides=settings)


def marked(source: str, *words: str) -> str:
    tree = read(source)
    put(tree, [(each, Here()) for each in words])
    return tree.astext()


def test_behind_the_sentence_and_what_closes_it() -> None:
    assert marked("One page. It is old (very). Done", "One page.", "It is old (very).", "Done") == (
        "One page.⟨*⟩ It is old (very).⟨*⟩ Done⟨*⟩"
    )


def test_behind_markup_and_the_full_stop_after_it() -> None:
    source = "It is called ``spt``. See *here*, or **there**"

    assert marked(source, "It is called spt.", "See here, or there") == (
        "It is called spt.⟨*⟩ See here, or there⟨*⟩"
    )


def test_typographic_quotes_are_no_obstacle() -> None:
    assert (
        marked("It is 'struct kvm'...  \"Yes\" -- it is.", "It is 'struct kvm'...", '"Yes" -- it is.').count(
            "⟨*⟩"
        )
        == 2
    )


def test_a_row_of_a_table_is_marked_in_its_last_cell() -> None:
    source = "=== =========\npfn host page\ngfn guest one\n=== =========\n"

    written = marked(source, "pfn host page", "gfn guest one")

    assert written.split("\n\n")[-4:] == ["pfn", "host page⟨*⟩", "gfn", "guest one⟨*⟩"]


def test_lines_of_a_literal_block_are_marked_below_it() -> None:
    tree = read("So::\n\n  a: b\n  c: d\n\nThen.")

    assert put(tree, [(each, Here(names=[each])) for each in ("So:", "a: b", "c: d", "Then.")]) == 4

    (block,) = tree.findall(nodes.literal_block)
    assert block.astext() == "a: b\nc: d"
    below = block.next_node(nodes.paragraph, descend=False, siblings=True)
    assert below is not None and below["classes"] == ["mmuspec-marks"]
    assert [each["names"] for each in below.findall(Here)] == [["a: b"], ["c: d"]]


def test_a_heading_that_reads_the_same_is_left_alone() -> None:
    tree = read("Title\n=====\n\nLevels\n------\n\nLevels.\n")

    assert put(tree, [("Levels.", Here())]) == 1

    (mark,) = tree.findall(Here)
    assert isinstance(mark.parent, nodes.paragraph)


def test_the_same_words_twice_are_marked_twice() -> None:
    assert marked("Same.\n\nSame.\n\nSame.", "Same.", "Same.", "Same.") == "Same.⟨*⟩\n\nSame.⟨*⟩\n\nSame.⟨*⟩"


def test_words_that_are_not_there_get_no_mark_and_cost_none() -> None:
    tree = read("One.  Two.  Three.")

    assert put(tree, [(each, Here()) for each in ("One.", "Nowhere.", "", "...", "Three.")]) == 2
    assert tree.astext().replace("  ", " ") == "One.⟨*⟩ Two. Three.⟨*⟩"


def test_words_far_away_are_not_taken_for_the_next() -> None:
    far = "word " * 1000

    assert marked(f"One.  {far} Two.  Three.", "Two.").count("⟨*⟩") == 0


SENTENCES = st.lists(
    st.text("abc ``*'\"(.", min_size=1, max_size=12).filter(lambda text: any(c.isalpha() for c in text)),
    min_size=1,
    max_size=6,
)


@given(SENTENCES)
def test_no_word_is_lost_moved_or_changed(words: list[str]) -> None:
    source = "\n\n".join(words)
    tree, before = read(source), read(source)
    texts = [block.astext() for block in before.findall(nodes.paragraph)]

    put(tree, [(each, Here()) for each in texts])

    assert tree.astext().replace("⟨*⟩", "") == before.astext()
    for mark in tree.findall(Here):
        assert not isinstance(mark.parent, nodes.Inline)
    for one, other in pairwise(tree.findall(nodes.Text)):
        assert one is not other
