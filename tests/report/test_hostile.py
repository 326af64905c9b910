"""Text that wants to be more than text, in every place that a report shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from mmuspec import results
from mmuspec.document import Document
from mmuspec.explain import explain
from mmuspec.gaps import Gap, GapKind
from mmuspec.merge import bare
from mmuspec.report import build
from mmuspec.report.build import Aside
from mmuspec.report.code import Code
from mmuspec.report.history import Edition
from mmuspec.report.html import page
from mmuspec.report.links import Links
from mmuspec.report.markdown import summary
from mmuspec.results import Death, Evidence, Proof, Results, StatementResult, compose
from mmuspec.spec import Curated, Spec, Verdict
from mmuspec.text import fold
from mmuspec.visible import visible
from tests.report import scene
from tests.report.tree import Element, read

HOSTILE = (
    """<script>alert(1)</script> </style></title> "quoted" 'it' &amp; {{ 7*7 }} {% raw %} {# no #} """
    "\u202egnp.exe\u202c \u200bzero \x1b[31mred\x07 <!-- --> <img src=x onerror=alert(1)>"
)
MARKUP = """\
Title <script>alert(0)</script>
===============================

Sentence {hostile} ends here.

hostile.field:
  Value of {hostile}

=====  =========
a "b"  <b>c</b>
=====  =========

Block::

  key:    {hostile}
"""


def hostile() -> tuple[Spec, Results, Document]:
    document = scene.document_of(MARKUP.replace("{hostile}", HOSTILE))
    spec = bare(document)
    first = spec.items[0]
    bad_id = f'{first.id}/ " onclick="alert(1)" {HOSTILE}'
    statement = replace(
        first.statements[0],
        id=bad_id,
        curated=Curated(
            claim=HOSTILE, verdict=Verdict.WRONG, why=HOSTILE, kernels=((HOSTILE, Verdict.HOLDS),)
        ),
    )
    spec = replace(
        spec,
        source=replace(spec.source, release=HOSTILE, path=HOSTILE),
        items=(replace(first, statements=(statement, *first.statements[1:])), *spec.items[1:]),
    )
    run = compose(spec, {})
    shown = replace(
        run.statements[0],
        tests=(results.Test(HOSTILE, "failed"), results.Test("ok", HOSTILE)),
        violations=(Proof(HOSTILE, (HOSTILE,)),),
        evidence=(
            Evidence(HOSTILE, HOSTILE, HOSTILE),
            Evidence("live", HOSTILE, f"recordings/{HOSTILE.replace('/', '|')}/<b>/<i>.json[{HOSTILE}]"),
        ),
        deaths=(Death(HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
    )
    return spec, replace(run, statements=(shown, *run.statements[1:]), kernels=(HOSTILE,)), document


def hostile_aside() -> Aside:
    """Gaps, former words and an earlier report that are no better."""
    return Aside(
        editions=(Edition(HOSTILE, {}),),
        gaps=(Gap(HOSTILE, GapKind.FIELD, HOSTILE, HOSTILE, HOSTILE, (HOSTILE,)),),
        code=Code(Path(__file__).parent),
        baseline=Results("", "", (), (StatementResult(HOSTILE, 1, HOSTILE, verdict="wrong"),)),
    )


@pytest.mark.parametrize("with_document", [True, False])
def test_the_page_shows_it_as_text(with_document: bool) -> None:
    spec, run, document = hostile()
    report = build(spec, run, document if with_document else None, aside=hostile_aside())
    html = page(report, Links(Path("a <b>'\""), Path()))
    tree = read(html)

    assert len([*tree.all("script")]) == len([*tree.all("style")]) == 1
    assert not [*tree.all("img"), *tree.all("b", onerror="alert(1)")]
    assert not [e for e in tree.all() if any(name.startswith("on") for name in e.attributes)]
    assert "<script>alert(1)</script>" in tree.one("main").text
    assert "{{ 7*7 }}" in tree.one("main").text
    assert "49" not in tree.one(class_="about").text
    assert visible(html) == html  # nothing hidden is left, attributes included


def test_hidden_characters_are_shown_by_their_code_points() -> None:
    spec, run, document = hostile()
    text = read(page(build(spec, run, document))).one("main").text

    assert "⟨U+202E⟩gnp.exe⟨U+202C⟩ ⟨U+200B⟩zero ⟨U+001B⟩[31mred⟨U+0007⟩" in text


def test_an_id_with_anything_in_it_can_still_be_linked_to() -> None:
    spec, run, document = hostile()
    tree = read(page(build(spec, run, document)))
    card: Element = next(tree.all("a", class_="id"))

    assert tree.one(id=unquote(card.attributes["href"][1:])).fits("div", {"class": "statement"})


def test_markdown_shows_it_as_text() -> None:
    spec, run, document = hostile()
    text = summary(build(spec, run, document, aside=hostile_aside()))

    assert visible(text) == text
    outside_code = "".join(text.split("`")[::2])
    assert "<script" not in outside_code.replace(r"\<", "")
    assert "{{" not in outside_code.replace(r"\{", "")


def test_a_terminal_gets_no_control_characters() -> None:
    spec, run, document = hostile()
    told = explain(spec, run, document, spec.items[0].id)

    assert visible(told) == told
    assert "⟨U+001B⟩[31mred" in fold(told)


def test_lone_surrogates_can_be_written() -> None:
    document = scene.document_of("A\n=\n\nBroken \udc80 here.\n")
    html = page(build(bare(document), None, document))

    assert "Broken ⟨U+DC80⟩ here." in html.encode().decode()


@pytest.mark.parametrize("text", ["plain", "two\nlines\tand a tab", "Überschrift, 内存", "a\u00a0b"])
def test_what_can_be_seen_stays_as_it_is(text: str) -> None:
    assert visible(text) == text
