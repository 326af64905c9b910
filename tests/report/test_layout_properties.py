"""Whatever the document looks like, each of its statements is placed once, with its own words."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mmuspec.merge import bare
from mmuspec.report import build
from mmuspec.report.html import page
from mmuspec.text import fold
from tests.report import scene
from tests.report.test_html import own_words
from tests.report.tree import read

word = st.sampled_from("slot tower. key: i.e. (hot) 512 *warm* ``cold`` a.b: (*) key->x, <b>".split())
phrase = st.lists(word, min_size=1, max_size=6).map(" ".join)
sentence = phrase.map(lambda words: words + ".")
paragraph = st.lists(sentence, min_size=1, max_size=3).map("\n".join)
bullets = st.lists(phrase, min_size=1, max_size=3).map(lambda rows: "\n".join(f"- {row}" for row in rows))
field = st.tuples(st.sampled_from(["role.level:", "gfn / pfn:", "spt"]), paragraph).map(
    lambda pair: pair[0] + "\n" + "\n".join("  " + row for row in pair[1].split("\n"))
)
mapping = st.lists(phrase, min_size=1, max_size=3).map(
    lambda rows: (
        "::\n\n" + "\n".join(f"  k{n}:    {row}" for n, row in enumerate(rows)) + "\n\n  (*) or so\n  not"
    )
)
option = phrase.map(lambda text: f":name: {text}")
columns = st.lists(phrase, min_size=2, max_size=3).map(lambda rows: "\n".join(f"abc   {row}" for row in rows))
heading = st.sampled_from(["One", "Two"]).map(lambda title: f"{title}\n===")
block = st.one_of(paragraph, bullets, field, mapping, option, columns, heading)
text = st.lists(block, max_size=6).map(lambda blocks: "\n\n".join(blocks) + "\n")


@settings(max_examples=150, deadline=None)
@given(text)
def test_every_statement_is_placed_once_with_its_words(source: str) -> None:
    document = scene.document_of(source)
    spec = bare(document)
    report = build(spec, None, document)
    placed = [dossier.id for chapter in report.chapters for dossier in chapter.dossiers]

    assert placed == scene.statement_ids(spec)
    assert not [chapter for chapter in report.chapters if chapter.wordless]
    assert report.notices[1:] == ()
    tree = read(page(report))
    shown: dict[str, str] = {}
    for part in tree.one(class_="document").all(class_="statement"):
        name = part.attributes.get("id", next(reversed(shown), ""))
        shown[name] = fold(shown.get(name, "") + " " + own_words(part))
    assert [*shown] == placed
    for dossier in report.dossiers:
        assert dossier.text is not None
        bare_words = [dossier.text, shown[dossier.id]]
        assert len({text.translate(MARKS).replace(" ", "") for text in bare_words}) == 1


MARKS = str.maketrans("", "", "*`\\")
