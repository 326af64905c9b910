"""Random edits of random documents: no curated word is lost, no id given twice, and once is enough."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.mmuspec.specs import claims, merged, spec_of

nouns = st.sampled_from("slot gadget tower key owner level pair door lamp mast".split())
verbs = st.sampled_from("holds finds drops wakes turns keeps locks frees".split())
sentence = st.tuples(nouns, verbs, nouns, st.sampled_from(["twice", "alone", "at once", "never"])).map(
    lambda w: f"The {w[0]} {w[1]} the {w[2]} {w[3]}."
)
paragraph = st.lists(sentence, min_size=1, max_size=3).map(" ".join)
bullet = sentence.map(lambda text: f"- {text}")
field = st.tuples(nouns, paragraph).map(lambda pair: f"{pair[0]}_count:\n    {pair[1]}")
section = st.tuples(nouns, st.lists(st.one_of(paragraph, bullet, field), min_size=1, max_size=4)).map(
    lambda pair: f"{pair[0]}\n-------\n\n" + "\n\n".join(pair[1])
)
sections = st.lists(section, min_size=1, max_size=4)
COMMON = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def text(parts: list[str]) -> str:
    return "Title\n=====\n\n" + "\n\n".join(parts) + "\n"


@st.composite
def histories(draw: st.DrawFn) -> list[str]:
    """A document and some revisions of it: blocks dropped, added, shuffled, words replaced."""
    parts = draw(sections)
    history = [text(parts)]
    for _ in range(draw(st.integers(1, 3))):
        parts = draw(st.permutations(parts)) if draw(st.booleans()) else list(parts)
        parts += draw(st.lists(section, max_size=1))
        parts = [part for part in parts if draw(st.integers(0, 5))] or parts[:1]
        parts = [part.replace(draw(verbs), draw(verbs)) for part in parts]
        history.append(text(parts))
    return history


@COMMON
@given(histories())
def test_no_curated_word_is_lost_and_no_id_given_twice(history: list[str]) -> None:
    spec = spec_of(history[0])
    for revision in history[1:]:
        before = claims(spec)
        spec = merged(spec, revision, *history).spec
        after = claims(spec)
        everything = [s.id for s in spec.everything()]
        assert len(set(everything)) == len(everything)
        assert len({item.id for item in spec.items}) == len(spec.items)
        assert set(before.values()) <= set(after.values())
        assert set(before) - {i for i in before if "~" in i} <= set(after)


@COMMON
@given(histories())
def test_regenerating_twice_changes_nothing(history: list[str]) -> None:
    spec = spec_of(history[0])
    for revision in history[1:]:
        spec = merged(spec, revision, *history).spec
        again = merged(spec, revision, *history)
        assert again.spec == spec
        assert not (again.added or again.removed or again.moved or again.changed)


@COMMON
@given(histories())
def test_there_and_back_again(history: list[str]) -> None:
    spec = spec_of(history[0])
    there = spec
    for revision in history[1:]:
        there = merged(there, revision, *history).spec
    back = merged(there, history[0], *history, release="1").spec
    wanted = claims(spec)
    assert {s.id: s.curated.claim for s in back.everything() if s.id in wanted} == wanted
