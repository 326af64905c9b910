"""Pictures that tests attach: what is taken, what is refused, and their way through a results file."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from mmuspec import results
from mmuspec.attachments import LARGEST, LONGEST_NAME, LONGEST_TEXT, Attachment, Unfit, from_json
from mmuspec.errors import Problem
from mmuspec.results import Attached, Findings
from tests.mmuspec.specs import ids, spec_of

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
PICTURE = Attachment("a page", "image/svg+xml", "one page", SVG)
SPEC = spec_of("Tower\n=====\n\nA slot holds one key.  It may turn.\n")
ONE, TWO = ids(SPEC)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("media_type", "text/html", "'text/html', none of image/svg"),
        ("media_type", "x" * 9999, "none of"),
        ("name", "", "the name .* length of 0"),
        ("name", "n" * (LONGEST_NAME + 1), f"the name .* 1 to {LONGEST_NAME}"),
        ("text", "", "the text .* length of 0"),
        ("text", "t" * (LONGEST_TEXT + 1), "the text"),
        ("content", b"", "the content .* length of 0"),
        ("content", b"c" * (LARGEST + 1), "the content"),
    ],
)
def test_what_cannot_be_shown_is_refused(field: str, value: Any, complaint: str) -> None:
    with pytest.raises(Unfit, match=complaint) as refused:
        Attachment(**{"name": "n", "media_type": "image/png", "text": "t", "content": b"c", field: value})
    assert len(str(refused.value)) < 200


def test_it_is_the_same_after_a_way_through_json() -> None:
    assert from_json(json.loads(json.dumps(PICTURE.as_json()))) == PICTURE


@pytest.mark.parametrize(
    "change",
    [
        {"content": "no base64!"},
        {"content": base64.b64encode(b"<svg/>").decode()},
        {"name": "another"},
        {"id": "0" * 16},
        {"media_type": "application/javascript"},
    ],
)
def test_a_changed_one_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(Unfit):
        from_json({**PICTURE.as_json(), **change})


def run_with(outcome: str, picture: Attachment = PICTURE, nodeid: str = "a") -> results.Results:
    found = Findings(tests={nodeid: results.Test(nodeid, outcome)}, attachments={nodeid: [picture]})
    return results.compose(SPEC, {ONE: found})


def test_only_a_test_that_passed_shows_pictures() -> None:
    assert run_with("passed").statements[0].pictures == (Attached("a", PICTURE.id),)
    assert run_with("failed").statements[0].pictures == ()


def test_shards_merge_their_pictures_and_have_each_once(tmp_path: Path) -> None:
    other = Attachment("another", "image/svg+xml", "two pages", SVG)
    merged = results.merge(
        [run_with("passed"), run_with("passed", nodeid="b"), run_with("passed", other, "c")]
    )

    assert merged.statements[0].pictures == (
        Attached("a", PICTURE.id),
        Attached("b", PICTURE.id),
        Attached("c", other.id),
    )
    assert merged.attachments == tuple(sorted((PICTURE, other), key=lambda each: each.id))
    results.save(merged, tmp_path / "results.json")
    assert results.load([tmp_path / "results.json"]) == merged


@pytest.mark.parametrize(
    "broken",
    [
        [{**PICTURE.as_json(), "media_type": "text/html"}],
        [{**PICTURE.as_json(), "content": "?"}],
        [{"name": "no more than this"}],
        ["a string"],
        {"not": "a list"},
        7,
    ],
)
def test_a_results_file_with_something_else_in_their_place(tmp_path: Path, broken: Any) -> None:
    data = results.as_json(run_with("passed"))
    data["attachments"] = broken
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))

    with pytest.raises(Problem, match=r"results\.json: error: no results file .*; run the tests again"):
        results.load([path])


def test_results_from_before_there_were_pictures_are_read(tmp_path: Path) -> None:
    data = results.as_json(run_with("passed"))
    del data["attachments"]
    for statement in data["statements"]:
        del statement["pictures"]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))

    assert results.load([path]).statements[0].pictures == ()
