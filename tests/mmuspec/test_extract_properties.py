"""Whatever the text: extraction never raises, and never loses a word."""

import re
from collections import Counter
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmuspec.extract import extract

WORD = re.compile(r"[^\W_]+")
words = st.sampled_from(
    "slot gadget tower key owner use_count i.e. etc. a.b (hot) 512 cr0 *warm* ``cold``".split()
)
line = st.lists(words, min_size=1, max_size=8).map(" ".join)
sentence = line.map(lambda text: text + ".")
paragraph = st.lists(sentence, min_size=1, max_size=3).map("\n".join)
bullets = st.lists(line, min_size=1, max_size=3).map(lambda texts: "\n".join(f"- {text}" for text in texts))
nested = bullets.map(lambda text: "- first\n" + "\n".join("  " + row for row in text.split("\n")))
field = st.tuples(st.sampled_from(["role.a", "spt", "x / y"]), paragraph).map(
    lambda pair: f"{pair[0]}:\n" + "\n".join("    " + row for row in pair[1].split("\n"))
)
literal = line.map(lambda text: f"As follows::\n\n  {text}\n  more")
heading = line.map(lambda text: f"{text}\n{'=' * (len(text) + 1)}")
block = st.one_of(paragraph, bullets, nested, field, literal)
documents = st.lists(st.one_of(block, heading), min_size=1, max_size=8).map("\n\n".join)
# Characters that reStructuredText means something by, so that random text is often markup.
markup = st.text(st.sampled_from("ab1 .:-*`|_=+\\<>()[]\n\t#~\"'!&/"), max_size=300)


def headings(source: str) -> Counter[str]:
    rows = source.split("\n")
    titles = [row for row, below in pairwise(rows) if below and set(below) == {"="}]
    return Counter(WORD.findall(" ".join(titles)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents)
def test_every_word_is_in_exactly_one_statement(source: str) -> None:
    document, _ = extract(source, "random.rst")
    found = Counter(WORD.findall(" ".join(s.text for s in document.statements)))
    names = Counter(WORD.findall(" ".join(name for item in document.fields for name in item.names)))
    assert found + names + headings(source) == Counter(WORD.findall(source))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(markup, st.text(max_size=200), st.lists(markup, max_size=4).map("\n\n".join)))
def test_extraction_never_raises_and_is_sound(source: str) -> None:
    document, _ = extract(source, "random.rst")
    total = max(1, len(source.splitlines()))
    assert len({s.id for s in document.statements}) == len(document.statements)
    assert len({i.id for i in document.items}) == len(document.items)
    for statement in document.statements:
        assert 1 <= statement.line <= statement.end_line <= total
        assert statement.text


def test_nesting_without_end_is_survived() -> None:
    for source in (
        "- " * 3000 + "x",
        "\n".join(" " * n + "x\n" for n in range(400)),
        "*" * 10000,
        "(" * 5000,
    ):
        document, _ = extract(source, "deep.rst")
        assert document.source.lines == len(source.splitlines())


@st.composite
def ragged(draw: st.DrawFn) -> str:
    """Lines that are indented, marked and ended any way, each word of its own kind: nothing is a heading."""
    rows = []
    for number in range(draw(st.integers(1, 14))):
        indent = " " * draw(st.sampled_from([0, 0, 0, 1, 2, 2, 3, 4, 4, 6, 9])) + draw(
            st.sampled_from(["", "", "\t"])
        )
        mark = draw(
            st.sampled_from(
                ["", "", "", "- ", "* ", "-   ", "1. ", "#. ", "(*) ", "| ", "``", "*", ":", ">>> ", "> "]
            )
        )
        text = " ".join(f"w{number}x{n}" for n in range(draw(st.integers(1, 4))))
        text = text.replace(" ", draw(st.sampled_from([" ", " ", "  ", "_ ", ": ", ".  "])))
        end = draw(st.sampled_from(["", "", ".", ":", "::", ",", "``", "*", "_", "|", " -"]))
        rows.append(indent + mark + text + end + "\n" * draw(st.integers(0, 1)))
    return "\n".join(rows)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ragged())
def test_no_word_of_ragged_text_is_lost_or_doubled(source: str) -> None:
    document, _ = extract(source, "ragged.rst")
    unique = re.compile(r"w\d+x\d+")
    found = Counter(unique.findall(" ".join(s.text for s in document.statements)))
    names = Counter(unique.findall(" ".join(name for item in document.fields for name in item.names)))
    assert found + names == Counter(unique.findall(source))
