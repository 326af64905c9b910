"""Pictures in the page: once each, where they belong, within their room, and harmless whatever they are."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from mmuspec.attachments import Attachment
from mmuspec.explain import explain
from mmuspec.report import Report, build, html
from mmuspec.report.anchors import Anchors
from mmuspec.report.pictures import MOST, Gallery
from mmuspec.results import Attached, Evidence, Results, StatementResult
from mmuspec.results import Test as Ran
from tests.report import scene

DOCUMENT = scene.gadget()
SPEC = scene.gadget_spec(DOCUMENT)
HOSTILE = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def picture(name: str, content: bytes = b"<svg/>") -> Attachment:
    return Attachment(name, "image/svg+xml", f"{name} in words", content)


def reported(shown: dict[str, list[Attachment]]) -> Report:
    """A report where a test of these statements that passed attached these pictures."""
    run = scene.gadget_run(SPEC)
    statements = tuple(
        replace(s, pictures=tuple(Attached(passed(s), p.id) for p in shown.get(s.id, [])))
        for s in run.statements
    )
    attached = tuple({p.id: p for some in shown.values() for p in some}.values())
    return build(SPEC, replace(run, statements=statements, attachments=attached), DOCUMENT)


def passed(statement: StatementResult) -> str:
    return next((test.nodeid for test in statement.tests if test.outcome == "passed"), "")


class Images(HTMLParser):
    """The images, links to pictures and scripts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {values["id"] or ""} if "id" in values else set()
        self.scripts += tag == "script"
        if tag == "img":
            self.images.append(values)
        if tag == "a" and values.get("class") == "picture":
            self.links.append(values["href"] or "")


ONE, TWO = scene.find(SPEC, "state.level", 0), scene.find(SPEC, "state.level", 1)


def test_a_picture_of_several_statements_is_in_the_page_once() -> None:
    page = Images(html.page(reported({ONE: [picture("levels")], TWO: [picture("levels"), picture("sizes")]})))

    assert [image["alt"] for image in page.images] == ["levels; in words below", "sizes; in words below"]
    assert page.links == ["#picture%3A1", "#picture%3A1", "#picture%3A2"]
    assert {"picture:1", "picture:2"} <= page.ids
    for image in page.images:
        assert image["loading"] == "lazy"
        kind, _, content = str(image["src"]).partition(",")
        assert (kind, base64.b64decode(content)) == ("data:image/svg+xml;base64", b"<svg/>")


def test_the_terminal_names_them() -> None:
    run = scene.gadget_run(SPEC)
    one = picture("levels")
    statements = tuple(
        replace(s, pictures=(Attached(passed(s), one.id),)) if s.id == ONE else s for s in run.statements
    )
    known = replace(run, statements=statements, attachments=(one,))

    told = explain(SPEC, known, DOCUMENT, ONE)

    assert "\nPictures\n  levels: conformance/test_gadget.py::test_level\n" in told
    assert "Pictures" not in explain(SPEC, known, DOCUMENT, TWO)


def test_without_pictures_there_is_no_gallery() -> None:
    assert "page:pictures" not in html.page(reported({}))


def test_a_hostile_picture_is_an_image_and_nothing_else() -> None:
    """A script in an SVG that is shown as an image does not run (SVG integration, secure static mode)."""
    name = "<img src=x onerror=alert(1)>\u202e\"'"
    text = html.page(reported({ONE: [picture(name, HOSTILE)]}))
    page = Images(text)

    assert len(page.images) == 1 and set(page.images[0]) == {"src", "alt", "loading", "decoding"}
    assert page.scripts == 1
    assert "<script>alert" not in text and "\u202e" not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and policy[1].endswith("; img-src data:") and "default-src &#39;none&#39;" in policy[1]


def statement(*pictures: tuple[str, Attachment], live: tuple[str, ...] = ()) -> StatementResult:
    nodeids = {nodeid for nodeid, _ in pictures}
    return StatementResult(
        "s/one",
        1,
        "S",
        tests=tuple(Ran(nodeid, "passed") for nodeid in sorted(nodeids)),
        evidence=tuple(Evidence("live", "6.12", nodeid) for nodeid in live),
        pictures=tuple(Attached(nodeid, each.id) for nodeid, each in pictures),
    )


def gallery(*pictures: Attachment) -> Gallery:
    return Gallery(Results("6.12", "0" * 64, attachments=pictures), Anchors())


def test_of_the_cases_of_one_test_one_is_shown() -> None:
    one, two, three = picture("one"), picture("two"), picture("three")

    shown = gallery(one, two, three).of(
        statement(("t.py::test_a[6.1]", one), ("t.py::test_a[6.12]", two), ("t.py::test_b", three))
    )

    assert [each.name for each in shown] == ["two", "three"]


def test_recorded_pictures_come_after_those_made_for_the_statement() -> None:
    made, recorded = picture("made"), picture("recorded")

    shown = gallery(made, recorded).of(
        statement(("a.py::test_live", recorded), ("b.py::test_it", made), live=("a.py::test_live",))
    )

    assert [each.name for each in shown] == ["made", "recorded"]


def test_there_are_never_many_for_one_statement() -> None:
    many = [picture(str(number)) for number in range(MOST + 2)]

    shown = gallery(*many).of(statement(*((f"t.py::test_{n}", each) for n, each in enumerate(many))))

    assert len(shown) == MOST


def test_a_test_that_failed_shows_nothing() -> None:
    one = picture("one")
    failed = replace(statement(("t.py::test_a", one)), tests=(Ran("t.py::test_a", "failed"),))

    assert gallery(one).of(failed) == ()


def test_what_has_no_room_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmuspec.report.pictures.ROOM", 3000)
    large, small = picture("large", b"<svg>" + b" " * 5000 + b"</svg>"), picture("small")

    report = reported({ONE: [large], TWO: [small]})

    assert [each.name for each in report.pictures] == ["small"]
    assert "Pictures left out to keep the page small: 1." in report.notices


def test_a_statement_called_like_a_picture_keeps_its_anchor() -> None:
    anchors = Anchors()
    anchors.give("picture:1")
    one = picture("one")

    (shown,) = Gallery(Results("6.12", "0" * 64, attachments=(one,)), anchors).of(
        statement(("t.py::test_a", one))
    )

    assert shown.anchor != "picture:1"


def test_a_reference_to_nothing_is_no_picture() -> None:
    assert gallery().of(statement(("t.py::test_a", picture("not there")))) == ()
