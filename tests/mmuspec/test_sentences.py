"""Where sentences end, and where they only seem to."""

import pytest

from mmuspec.sentences import sentences


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    "whole",
    [
        "a slot, i.e. a place, is used",
        "slots, e.g. the small ones, are used",
        "small, large, etc. are sizes of slots",
        "see gadget.c and slot_tmpl.h for more",
        "valid for a.b && !c.d alone",
        "level 1.5 is no level",
        "see mmu.[ch] and the rest",
        "it is done (see slot.c. There is more) and then ends",
        "1. is no sentence of its own",
        "wait ... then go on",
        "key->gadget (i.e. a pair) counts",
    ],
)
def test_one_sentence_stays_whole(whole: str) -> None:
    assert cut(whole) == [whole]
    assert cut(whole + ".") == [whole + "."]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("One sentence.", "Another one."),
        ("It ends here.", "slots begin in lower case."),
        ("See state.level.", "use_count is a counter."),
        ("1=small, 2=large, etc.", "The rest follows."),
        ("Is it so?", "It is!"),
        ('They call it "hot."', "Others do not."),
        ("It is one (of two).", "The other is not."),
        ("The count is 3.", "4 is too many."),
        ("Ends without a stop (as\nsome do)", "If so, this begins."),
        ("A file called slot.h.", "Then another."),
    ],
)
def test_two_sentences_are_two(first: str, second: str) -> None:
    assert cut(f"{first}\n{second}") == [first, second]


def test_a_line_break_may_stand_anywhere() -> None:
    assert cut("One\nsentence,\ni.e.\none.  Two\nhere.") == ["One\nsentence,\ni.e.\none.", "Two\nhere."]


@pytest.mark.parametrize("blank", ["", " ", "\n \t\n"])
def test_blank_text_has_no_sentence(blank: str) -> None:
    assert sentences(blank) == []
