"""The published schemas: valid themselves, true of what is written, and complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from mmuspec import results
from mmuspec.attachments import Attachment
from mmuspec.cli import main
from mmuspec.report import build, write
from mmuspec.results import Death, Evidence, Findings
from mmuspec.schema import NAMES, schema
from tests.report import scene

SPEC = scene.gadget_spec(scene.gadget())
ID = scene.find(SPEC, "state.level", 0)
FULL = results.compose(
    SPEC,
    {
        ID: Findings(
            tests={"t.py::test_a[6.1]": results.Test("t.py::test_a[6.1]", "passed", refutes=True)},
            violations={"broken": {"t.py::test_a[6.1]"}},
            evidence={Evidence("live", "6.1", "somewhere")},
            deaths={Death("broken", "t.py::test_a[6.1]", "t.py:7", "assert 1 == 2")},
            attachments={"t.py::test_a[6.1]": [Attachment("a", "image/png", "b", b"c")]},
        )
    },
    {"broken": "violations.py:3"},
)


def validate(name: str, data: Any, *, strictly: bool = False) -> None:
    found = schema(name)
    Draft202012Validator.check_schema(found)
    if strictly:
        close(found)
    Draft202012Validator(found).validate(data)


def close(part: Any) -> None:
    """Forbid what the schema does not name."""
    if isinstance(part, dict):
        if "properties" in part and "type" in part:
            part.setdefault("additionalProperties", False)
        for each in part.values():
            close(each)
    elif isinstance(part, list):
        for each in part:
            close(each)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_prints_it_and_it_is_a_schema(name: str) -> None:
    result = CliRunner().invoke(main, ["schema", name])

    assert result.exit_code == 0
    assert json.loads(result.stdout) == schema(name)
    Draft202012Validator.check_schema(json.loads(result.stdout))


def test_a_schema_that_there_is_not() -> None:
    result = CliRunner().invoke(main, ["schema", "nonsense"])

    assert result.exit_code == 2 and "Traceback" not in result.output


def test_results_with_everything_in_them_are_described_key_by_key() -> None:
    data = json.loads(json.dumps(results.as_json(FULL)))

    validate("results", data, strictly=True)
    statement = next(each for each in data["statements"] if each["id"] == ID)
    assert all(statement.values()) and all(data.values())  # nothing was there only in name


def test_the_report_is_described_key_by_key(tmp_path: Path) -> None:
    write(build(SPEC, FULL, scene.gadget()), tmp_path)

    validate("report", json.loads((tmp_path / "report.json").read_text()), strictly=True)


def test_what_is_loaded_is_what_the_schema_allows() -> None:
    """Each required key left out is refused by the schema and by the reader."""
    found = schema("results")
    for name in found["required"]:
        data = json.loads(json.dumps(results.as_json(FULL)))
        del data[name]
        with pytest.raises(ValidationError):
            validate("results", data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["schema"], 2),
        (["document", "sha256"], "short"),
        (["totals", "splendid"], 1),
        (["totals", "proven"], -1),
        (["statements", 0, "status"], "splendid"),
        (["statements", 0, "verdict"], "maybe"),
        (["statements", 0, "tests"], None),
        (["attachments", 0, "media_type"], "text/html"),
    ],
)
def test_something_else_is_refused(path: list[Any], value: Any) -> None:
    data = json.loads(json.dumps(results.as_json(FULL)))
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    with pytest.raises(ValidationError):
        validate("results", data)


def test_a_report_has_no_pictures() -> None:
    with pytest.raises(ValidationError):
        validate("report", json.loads(json.dumps(results.as_json(FULL))))
