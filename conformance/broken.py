"""A model to be broken on purpose, and put right again."""

import inspect
import sys
from collections.abc import Callable, Generator, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

PACKAGE = "mmu_model"

_MISSING = object()


class BrokenModel:
    """What a violation is handed.

    Things are named by their path below `mmu_model`: ``kvm.role.root_quadrant`` is a function,
    ``kvm.page.KvmMmuPage.ptep`` an attribute of a class.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def replace(self, path: str, new: Any) -> None:
        """Put `new` in the place of what is at `path`, in every module of the model that holds it.

        Raises
        ------
        LookupError
            There is nothing at the path.
        ValueError
            What is there is `new` already, so that nothing would change.

        """
        owner, name, old = _find(path)
        if new is old or (not callable(old) and new == old):
            raise ValueError(f"{path} is {new!r} already: the replacement changes nothing")
        holders = _holders(old, owner) if isinstance(owner, ModuleType) else [(owner, name)]
        for holder, attribute in holders:
            self._set(holder, attribute, new)

    def wrap(self, path: str, change: Callable[[Any], Any]) -> None:
        """Replace what is at `path` by what `change` makes of it; raises as :meth:`replace` does."""
        self.replace(path, change(_find(path)[2]))

    def restore(self) -> None:
        """Undo everything, last change first."""
        while self._undo:
            self._undo.pop()()

    def _set(self, holder: Any, attribute: str, new: Any) -> None:
        old = inspect.getattr_static(holder, attribute)
        setattr(holder, attribute, new)
        self._undo.append(lambda: setattr(holder, attribute, old))


def nothing(result: Any = None) -> Callable[..., Any]:
    """An operation that could be overtaken, which does nothing and returns `result`."""

    def wrong(*_: Any, **__: Any) -> Generator[None, None, Any]:
        yield from ()
        return result

    return wrong


def _find(path: str) -> tuple[Any, str, Any]:
    """Who holds what is at the path, by which name, and what it is."""
    parts = path.split(".")
    owner: Any = None
    for length in range(len(parts) - 1, 0, -1):
        try:
            owner = import_module(".".join([PACKAGE, *parts[:length]]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:-1]:
            owner = inspect.getattr_static(owner, name, _MISSING)
        break
    found = _MISSING if owner is None else inspect.getattr_static(owner, parts[-1], _MISSING)
    if found is _MISSING:
        raise LookupError(f"{PACKAGE}.{path} does not exist: there is nothing to replace")
    return owner, parts[-1], found


def _holders(thing: Any, owner: ModuleType) -> Iterator[tuple[ModuleType, str]]:
    """Every module of the model that has the thing under some name, the one that defines it included.

    A constant is only replaced where it is defined and where it was imported under its own name from there.
    """
    modules = [m for n, m in sys.modules.items() if n == PACKAGE or n.startswith(f"{PACKAGE}.")]
    names = [name for name, value in vars(owner).items() if value is thing]
    for module in modules:
        for name, value in list(vars(module).items()):
            if value is thing and (callable(thing) or name in names):
                yield module, name
