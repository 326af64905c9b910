"""What can be done to a file, and which of it is no fair mutant."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mutants import judge
from mutants.baseline import Baseline
from mutants.left_out import KINDS, Sites, left_out
from mutants.mutations import Mutant, mutant, mutants_of, mutated
from mutants.project import Project
from mutants.sample import draw, population


def project(root: Path, source: str) -> Project:
    """A package of one file."""
    package = root / "tiny"
    package.mkdir()
    (package / "it.py").write_text(source, encoding="utf-8")
    (root / "checks").mkdir()
    return Project(root, "tiny", "checks")


def changed_lines(of: Project, mutants: Iterator[Mutant]) -> set[str]:
    before = of.read("tiny/it.py").splitlines()
    after = [mutated(of, mutant).splitlines() for mutant in mutants]
    return {line.strip() for lines in after for line in lines if line not in before}


@pytest.mark.parametrize(
    ("statement", "deleted"),
    [
        ("flush(cpu)", True),
        ("self.count += 1", True),
        ("self.count = 1", True),
        ("table[0] = 1", True),
        ("yield", True),
        ("yield from flush(cpu)", True),
        ("del table[0]", True),
        ("raise", True),
        ("count = 1", False),
        ('"what it does"', False),
        ("return 1", False),
        ("pass", False),
    ],
)
def test_statements_are_left_out_one_by_one(tmp_path: Path, statement: str, deleted: bool) -> None:
    of = project(tmp_path, f"def f(self, cpu, table):\n    {statement}\n")
    deletions = [mutant for mutant in mutants_of(of, "tiny/it.py") if mutant.operator == "DeleteStatement"]
    assert [mutated(of, mutant) for mutant in deletions] == ["def f(self, cpu, table):\n    pass\n"] * deleted


def test_a_mutant_is_made_again_from_its_id(tmp_path: Path) -> None:
    of = project(tmp_path, "def f(a, b):\n    g(a)\n    return a + b - 1 < -b\n")
    everything = list(mutants_of(of, "tiny/it.py"))
    assert len({mutant.id for mutant in everything}) == len(everything) > 30
    assert [mutant(of, one.id) for one in everything] == everything


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("annotation", "def f(a: int | None, b: 'str') -> int | None:\n    c: int | None = a\n"),
        ("type", "Entry = int | None\n"),
        ("type", "x = cast(int | None, y)\n"),
        ("declaration", "class P(Protocol):\n    @property\n    def f(self) -> None: ...\n"),
        ("declaration", "class P:\n    @abstractmethod\n    def f(self, a=1): ...\n"),
        ("declaration", "@dataclass(frozen=True, slots=True)\nclass P:\n    x: int\n"),
        ("caching", "@lru_cache(maxsize=7)\ndef f(): ...\n"),
        ("declaration", "def f(*, a):\n    pass\n"),
        ("text", "def f(x):\n    raise ValueError(f'{x + 1} is wrong')\n"),
        ("text", "class P:\n    def __repr__(self):\n        return str(1 + 1)\n"),
        ("not run", "if TYPE_CHECKING:\n    x = 1\n"),
    ],
)
def test_what_is_no_fair_mutant_is_counted_as_such(tmp_path: Path, kind: str, source: str) -> None:
    assert kind in KINDS
    of = project(tmp_path, source)
    sites = Sites(source)
    kinds = {
        one: left_out(sites.site(one))
        for one in mutants_of(of, "tiny/it.py")
        if one.kind not in ("DeleteStatement", "RemoveDecorator") or kind in ("declaration", "caching")
    }
    assert kinds
    if source.startswith("@dataclass"):
        kinds = {one: found for one, found in kinds.items() if one.operator != "RemoveDecorator"}
    assert set(kinds.values()) == {kind}


@pytest.mark.parametrize(
    "source",
    [
        "def f(a, b=1):\n    return b\n",
        "MASK = 1 << 3\n",
        "def f(x):\n    raise Fault(x - 1)\n",
        "class E(Enum):\n    A = 1\n",
        "@property\ndef f(x): ...\n",
        "if x:\n    y = 1\n",
        "é = 'é' or 1\n",
    ],
)
def test_what_has_a_meaning_is_not_left_out(tmp_path: Path, source: str) -> None:
    of = project(tmp_path, source)
    sites = Sites(source)
    found = [left_out(sites.site(one)) for one in mutants_of(of, "tiny/it.py")]
    assert found and not any(found)


@pytest.mark.parametrize(
    ("original", "never", "others"),
    [("a == b", {"a is b"}, {"a != b", "a <= b"}), ("a | b", {"a + b", "a ^ b"}, {"a & b", "a - b"})],
)
def test_what_cannot_be_told_apart_is_not_exchanged(
    tmp_path: Path, original: str, never: set[str], others: set[str]
) -> None:
    of = project(tmp_path, f"def f(a, b):\n    return {original}\n")
    (place,) = population(of, ["tiny/it.py"]).places
    found = {line.removeprefix("return ") for line in changed_lines(of, iter(place))}
    assert not never & found
    assert others <= found


def test_a_sample_of_the_same_seed_only_grows(tmp_path: Path) -> None:
    of = project(tmp_path, "".join(f"def f{n}(a, b):\n    return a + b * {n}\n" for n in range(20)))
    everything = population(of, ["tiny/it.py"])
    small, large = (list(draw(of, everything, size, seed=3)) for size in (10, 30))
    assert large[:10] == small
    assert list(draw(of, everything, 10, seed=4)) != small
    places = [one.place for one in draw(of, everything, 1000, seed=3)]
    assert len(places) == len(set(places)) == len(everything.places)


def test_what_is_no_python_is_not_drawn(tmp_path: Path) -> None:
    of = project(tmp_path, "def f(*, a):\n    return a\n")
    mutants = list(mutants_of(of, "tiny/it.py"))
    assert mutants
    assert not any(judge.compiled(of, one) for one in mutants)
    assert list(draw(of, population(of, ["tiny/it.py"]), 10, seed=1)) == []


def test_what_cosmic_ray_cannot_change_is_not_drawn(tmp_path: Path) -> None:
    """An exception with a dot in its name; those beside it are drawn."""
    of = project(tmp_path, "try:\n    pass\nexcept (OSError, zlib.error):\n    pass\n")
    drawn = [
        one for one in draw(of, population(of, ["tiny/it.py"]), 10, seed=1) if "Exception" in one.operator
    ]
    assert [one.start for one in drawn] == [(3, 8)]


def test_what_uses_a_constant_is_asked_first(tmp_path: Path) -> None:
    """Then what executes something of its file, then the rest, each the quickest first."""
    of = project(tmp_path, "LIMIT = 3\n\n\ndef f(x):\n    return x\n")
    (tmp_path / "tiny" / "other.py").write_text(
        "from tiny.it import LIMIT\n\ndef g(x):\n    return x < LIMIT\n", encoding="utf-8"
    )
    seconds = {"t::rest": 1.0, "t::slow": 9.0, "t::quick": 2.0, "t::near": 5.0}
    bits = {test: 1 << number for number, test in enumerate(seconds, 1)}
    lines = {
        "tiny/it.py": {1: 1, 5: bits["t::near"] | bits["t::slow"]},
        "tiny/other.py": {1: 1, 4: bits["t::slow"] | bits["t::quick"]},
    }
    constant = next(one for one in mutants_of(of, "tiny/it.py") if one.start[0] == 1)

    order, everywhere = judge.tests_for(of, Baseline(seconds, lines), constant)

    assert everywhere
    assert order == ["t::slow", "t::quick", "t::near", "t::rest"]
