"""What the document leaves out: read strictly, kept by whoever writes the spec, seen by nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmuspec.errors import Problem
from mmuspec.gaps import NAME, Gap, GapKind, load_gaps
from mmuspec.merge import bare
from mmuspec.specfiles import load_spec, save_spec
from tests.report import scene

ROOT = Path(__file__).parents[2]
GOOD = """\
schema: 1
gaps:
- name: rcu_head
  kind: field
  section: Slots
  says: What it is for.
  where: a.c, f
  kernels: ['6.12']
"""


def written(folder: Path, text: str) -> Path:
    (folder / NAME).write_text(text)
    return folder


def test_a_gap_is_read(tmp_path: Path) -> None:
    assert load_gaps(tmp_path) == ()
    assert load_gaps(written(tmp_path, GOOD)) == (
        Gap("rcu_head", GapKind.FIELD, "Slots", "What it is for.", "a.c, f", ("6.12",)),
    )


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("schema: 1", "schema: 2", rf"{NAME}:1: error: schema 2 is not 1"),
        ("kind: field", "kind: idea", rf"{NAME}:4: error: 'idea' is none of field, behaviour"),
        ("says: What it is for.", "says: ' '", rf"{NAME}:6: error: says is empty"),
        ("  says: What it is for.\n", "", rf"{NAME}:3: error: key 'says' is missing"),
        ("section: Slots", "chapter: Slots", rf"{NAME}:5: error: unknown key 'chapter'"),
        ("kernels: ['6.12']", "kernels: [6.12]", rf"{NAME}:8: error: text expected"),
        ("- name: rcu_head", "- rcu_head\n- name: x", rf"{NAME}:3: error: a mapping expected"),
        ("gaps:", "gaps: [", rf"{NAME}:\d+: error: not YAML"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    with pytest.raises(Problem) as problem:
        load_gaps(written(tmp_path, GOOD.replace(old, new, 1)))
    import re

    assert re.search(complaint, str(problem.value))


def test_a_name_is_given_once(tmp_path: Path) -> None:
    twice = GOOD + GOOD.partition("gaps:\n")[2]
    with pytest.raises(Problem, match="rcu_head is in here twice"):
        load_gaps(written(tmp_path, twice))


def test_regenerating_the_spec_keeps_it_and_reading_the_spec_does_not_see_it(tmp_path: Path) -> None:
    spec = bare(scene.gadget())
    save_spec(spec, tmp_path)
    written(tmp_path, GOOD + "# a word in passing\n")

    save_spec(spec, tmp_path)

    assert (tmp_path / NAME).read_text() == GOOD + "# a word in passing\n"
    assert load_spec(tmp_path) == spec


def test_the_projects_own_gaps_belong_to_sections_and_kernels_that_there_are() -> None:
    spec = load_spec(ROOT / "spec")
    gaps = load_gaps(ROOT / "spec")

    assert {gap.section for gap in gaps} <= {item.section for item in spec.items}
    described = {name for item in spec.items for name in item.names}
    assert not described & {gap.name for gap in gaps if gap.kind is GapKind.FIELD}
    assert {kernel for gap in gaps for kernel in gap.kernels} <= {"6.1", "6.12"}
