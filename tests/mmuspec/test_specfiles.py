"""The spec on disk: written whole, read with care."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmuspec import folder
from mmuspec.errors import Problem
from mmuspec.spec import Curated, Mmu, Since, Spec, Verdict
from mmuspec.specfiles import is_canonical, load_spec, save_spec
from tests.mmuspec.gadget import GADGET
from tests.mmuspec.specs import merged, spec_of


def full_spec() -> Spec:
    """Every key there is, in use."""
    spec = merged(spec_of(GADGET), GADGET.replace("It is small.", ""), GADGET).spec
    item, *others = spec.items
    said = Curated(
        claim='Long: "quoted", with a colon: and {braces}, ' + "many words " * 20,
        verdict=Verdict.SCOPED,
        why="gadget.c slot_get()",
        mmu=(Mmu.SHADOW, Mmu.TDP),
        kernels=(("6.1", Verdict.WRONG), ("6.12", Verdict.HOLDS)),
        since=Since.CHANGED,
    )
    first = replace(item.statements[0], curated=said)
    return replace(spec, items=(replace(item, statements=(first, *item.statements[1:])), *others))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_spec(full_spec(), tmp_path / "spec")
    return tmp_path / "spec"


def test_what_is_written_is_read(saved: Path) -> None:
    assert load_spec(saved) == full_spec()


def test_one_file_a_section_and_one_for_the_obsolete(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [
        "acronyms.yaml",
        "events.yaml",
        "introduction.yaml",
        "obsolete.yaml",
        "slots.yaml",
    ]


def test_writing_again_changes_no_byte(saved: Path) -> None:
    before = {path: path.read_bytes() for path in saved.iterdir()}
    save_spec(load_spec(saved), saved)
    assert {path: path.read_bytes() for path in saved.iterdir()} == before


def test_no_text_of_the_document_is_in_it(saved: Path) -> None:
    words = "".join(path.read_text() for path in saved.iterdir())
    assert "a lookup takes one step" not in words


def test_a_section_that_is_gone_takes_its_file_along(saved: Path) -> None:
    spec = load_spec(saved)
    save_spec(replace(spec, items=tuple(i for i in spec.items if i.section != "Events")), saved)
    assert not (saved / "events.yaml").exists()


def test_this_repositorys_spec_is_as_the_tool_writes_it() -> None:
    """So a regenerated spec differs only where the document did. Mended by: mmuspec regen"""
    spec = Path(__file__).parents[2] / "spec"
    assert is_canonical(load_spec(spec), spec)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: paragraph", "kind: [", "not YAML"),
        ("kind: paragraph", "kind: essay", "'essay' is none of field"),
        ("verdict: scoped", "verdict: perhaps", "'perhaps' is none of holds"),
        ("verdict: scoped", "verdict: true", "verdict: text expected, bool found"),
        ("    line: 7", "    line: seven", "line: a number expected, text found"),
        ("    line: 7", "    line: 7\n    colour: red", "unknown key 'colour'"),
        ("    line: 7\n", "", "key 'line' is missing"),
        ("mmu: [shadow, tdp]", "mmu: [shadow, 7]", "text expected, a number found"),
        ("mmu: [shadow, tdp]", "mmu: shadow", "mmu: a list expected, text found"),
        ("'6.1': wrong", "6.1: wrong", "quote the release"),
        ("'6.1': wrong", "'6.1': maybe", "'maybe' is none of"),
        ("schema: 1", "schema: 2", "schema 2 is not 1"),
        ("schema: 1", "schema: !!python/object/apply:os.system ['true']", "not YAML"),
        ("since: changed", "since: ever", "'ever' is none of new, changed"),
    ],
)
def test_bad_files_are_refused_with_file_and_line(saved: Path, old: str, new: str, message: str) -> None:
    path = saved / "introduction.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(Problem) as caught:
        load_spec(saved)
    assert message in str(caught.value)
    where, line, rest = str(caught.value).split(":", 2)
    assert Path(where) == path
    offending = new.strip().split("\n")[-1].split(":")[0] or "- id"
    assert int(line) > 0 and rest.startswith(" error: ")
    if "missing" not in message and "not YAML" not in message:
        assert offending in path.read_text().splitlines()[int(line) - 1]


def test_a_waiver_needs_a_reason(saved: Path) -> None:
    path = saved / "introduction.yaml"
    text = path.read_text().replace("verdict: scoped", "verdict: untestable")
    path.write_text(text[: text.index("    why: ")] + text[text.index("    mmu: ") :])
    with pytest.raises(Problem, match="needs a reason"):
        load_spec(saved)


def test_an_id_given_twice_is_refused_where_it_stands(saved: Path) -> None:
    path = saved / "slots.yaml"
    text = path.read_text()
    path.write_text(text.replace("- id: owner/points", "- id: use_count/counts-users"))
    with pytest.raises(Problem, match=r"slots\.yaml:\d+: error: duplicate id use_count/counts-users"):
        load_spec(saved)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"just text", b"\xff\xfe", b"a: 1\n---\nb: 2\n", b"- " * 5000]
)
def test_a_file_that_is_something_else(saved: Path, content: bytes) -> None:
    (saved / "slots.yaml").write_bytes(content)
    with pytest.raises(Problem, match=r"slots\.yaml"):
        load_spec(saved)


def test_files_of_different_documents(saved: Path) -> None:
    path = saved / "slots.yaml"
    path.write_text(path.read_text().replace("lines: ", "lines: 1", 1))
    with pytest.raises(Problem, match="made from another document"):
        load_spec(saved)


def test_a_missing_or_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no spec folder"):
        load_spec(tmp_path / "nowhere")
    with pytest.raises(Problem, match=r"no \*\.yaml file"):
        load_spec(tmp_path)


def test_an_interrupted_write_leaves_what_was_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    calls: list[Path] = []
    real = Path.open

    def interrupted(path: Path, mode: str = "r", **kwargs: Any) -> Any:
        opened = real(path, mode, **kwargs)
        if mode != "xb":
            return opened
        calls.append(path)
        if len(calls) == 3:
            opened.close()
            raise KeyboardInterrupt  # the file is there, and nobody has been told
        return opened

    monkeypatch.setattr(Path, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_spec(spec_of(GADGET + "\nMore.\n"), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Problem, match="cannot be written"):
        folder.write(tmp_path / "file" / "out.html", "text")
