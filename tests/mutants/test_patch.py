"""Other code in the place of a function's, in a package that is imported already."""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType

import pytest

from mutants.child import forked
from mutants.patch import function_at, replace

SOURCE = """\
import functools

TABLE = {"one": lambda: 1}


def plain():
    def inner():
        return 1

    return inner()


@functools.cache
def cached():
    return 1


class Base:
    def method(self):
        return 1

    @property
    def shown(self):
        return 1


class Derived(Base):
    def method(self):
        return super().method()


def generator():
    yield 1
"""


@pytest.fixture
def module(tmp_path: Path) -> Iterator[ModuleType]:
    """A module that has been imported, and forgotten again afterwards."""
    module = ModuleType("patched")
    module.__file__ = str(tmp_path / "patched.py")
    exec(code(module, SOURCE), module.__dict__)
    sys.modules["patched"] = module
    yield module
    del sys.modules["patched"]


def code(module: ModuleType, source: str) -> CodeType:
    return compile(source, str(module.__file__), "exec")


def line_of(text: str, nth: int = 0) -> int:
    return [number for number, line in enumerate(SOURCE.splitlines(), 1) if text in line][nth]


@pytest.mark.parametrize(
    ("line", "function"),
    [
        (line_of("return 1", 0), "plain"),
        (line_of("return inner()"), "plain"),
        (line_of("return 1", 1), "cached"),
        (line_of("return 1", 2), "Base.method"),
        (line_of("return 1", 3), "Base.shown"),
        (line_of("yield"), "generator"),
    ],
)
def test_the_outermost_function_around_a_line_is_found_and_replaced(
    module: ModuleType, line: int, function: str
) -> None:
    found = function_at(SOURCE, line)
    assert found is not None
    assert found[0] == function
    lines = SOURCE.splitlines()
    lines[line - 1] = lines[line - 1].replace("inner()", "1").replace("1", "2")

    before = value(module, function)
    assert replace(code(module, "\n".join(lines)), found)
    module.cached.cache_clear()

    assert (before, value(module, function)) == (1, 2)


def test_a_function_that_needs_other_variables_around_it_is_not_replaced(module: ModuleType) -> None:
    """``super()`` takes the class from around the function."""
    found = function_at(SOURCE, line_of("super()"))
    assert found is not None

    assert not replace(code(module, SOURCE.replace("super().method()", "2")), found)
    assert module.Derived().method() == 1


def value(module: ModuleType, function: str) -> object:
    """What comes of a call."""
    match function:
        case "Base.method":
            return module.Base().method()
        case "Base.shown":
            return module.Base().shown
        case "generator":
            return next(module.generator())
    return getattr(module, function)()


@pytest.mark.parametrize("text", ["TABLE", "import functools", "def plain", "@functools", "class Base"])
def test_what_an_import_executes_is_in_no_function(text: str) -> None:
    assert function_at(SOURCE, line_of(text)) is None


def test_a_function_that_is_not_there_cannot_be_replaced(module: ModuleType) -> None:
    assert not replace(code(module, "def other(): pass"), ("other", 1))
    assert not replace(code(module, ""), ("plain", line_of("def plain")))


def test_a_child_says_its_word_and_no_child_goes_on_for_ever() -> None:
    assert forked(10, lambda say: say({"word": 1})) == {"word": 1}
    assert forked(10, lambda say: 1 / 0) is None
    assert forked(0.1, lambda say: functools.reduce(lambda a, _: a, iter(int, 1))) is None
