"""The map at the head of the package: its example runs, and it names every module."""

import doctest
import pkgutil

from mmu_model import hardware


def test_the_example_is_true() -> None:
    outcome = doctest.testmod(hardware)
    assert outcome.attempted
    assert not outcome.failed


def test_the_map_names_every_module() -> None:
    assert hardware.__doc__
    missing = [name for _, name, _ in pkgutil.iter_modules(hardware.__path__) if name not in hardware.__doc__]
    assert missing == []
