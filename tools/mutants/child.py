"""Work in a process of its own, forked from this one; what it has to say goes through a pipe.

The child of a process that has the libraries loaded but not the model imports the model and its tests anew, with a
mutated module in the place of one of them; no source is changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final, NoReturn

import numpy as np  # noqa: F401  loaded here, so that no child has to
import pytest
import yaml  # noqa: F401

from mutants.project import MutantsError, Project

_MEMORY: Final = 4 << 30
_PR_SET_PDEATHSIG: Final = 1
Say = Callable[[dict[str, Any]], NoReturn]
"""Tells the parent the last word, and ends."""

_under_way: set[int] = set()
_stopped: list[bool] = []


class Mutated(importlib.machinery.SourceFileLoader):
    """Puts other code in the place of a module's; put first into ``sys.meta_path``."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        super().__init__(name, str(path))
        self._code = code

    def find_spec(
        self, fullname: str, path: object, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The mutated module, if it is that one."""
        if fullname != self.name:
            return None
        folder = [str(Path(self.path).parent)] if Path(self.path).name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            fullname, self.path, loader=self, submodule_search_locations=folder
        )

    def get_code(self, fullname: str) -> CodeType:
        """The other code."""
        return self._code


def in_child(project: Project, seconds: float, work: Callable[[Say], object]) -> dict[str, Any] | None:
    """What `work` says in a child of this process.

    Parameters
    ----------
    project :
        Its package and tests are forgotten in the child, to be imported anew.
    seconds :
        Of processor time, after which the child is ended.
    work :
        Is handed the function to speak with. It must not return.

    Returns
    -------
    :
        None if the child ended without a word.

    Raises
    ------
    MutantsError
        The child was ended by :func:`stop`.

    """

    def anew(say: Say) -> object:
        forget(project)
        return work(say)

    refuse_if_stopped()
    word = forked(seconds, anew)
    refuse_if_stopped()
    return word


def forked(seconds: float, work: Callable[[Say], object]) -> dict[str, Any] | None:
    """What `work` says in a child that has `seconds` of processor time, and is otherwise as this process is."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work(seconds, work, writing)
    os.close(writing)
    _under_way.add(child)
    try:
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
    except BaseException:
        stop()
        raise
    finally:
        os.waitpid(child, 0)
        _under_way.discard(child)
    return json.loads(said) if said else None


def stop(*_: object) -> None:
    """End what is under way, and whatever would be begun; a handler of signals."""
    _stopped.append(True)
    for child in _under_way:
        os.kill(child, signal.SIGKILL)


def refuse_if_stopped() -> None:
    """Nothing is begun, and nothing has come of what was under way, once :func:`stop` was called."""
    if _stopped:
        raise MutantsError("stopped")


def end_with_parent() -> None:
    """This process is not to go on when the one that forked it has been ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def forget(project: Project) -> None:
    """Be a process that has not imported the package and its tests yet, and that nobody hears."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    for name in [name for name in sys.modules if name.split(".")[0] in (project.package, project.tests)]:
        del sys.modules[name]
    sys.path.insert(0, str(project.root))
    sys.dont_write_bytecode = False  # of what is not mutated, and not beside the sources
    sys.pycache_prefix = str(project.root / "build" / "pycache")
    os.chdir(project.root)


def _work(seconds: float, work: Callable[[Say], object], writing: int) -> NoReturn:
    def say(word: dict[str, Any]) -> NoReturn:
        os.write(writing, json.dumps(word).encode())
        os._exit(0)

    try:
        end_with_parent()
        spent = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent + seconds) + 1,) * 2)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        with contextlib.suppress(BaseException):
            work(say)
    finally:
        os._exit(1)


def run_pytest(project: Project, files: list[str], plugin: object) -> int:
    """Run the tests of some files, seen by a plugin; nothing is written."""
    options = ["--rootdir", str(project.root), "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return pytest.main([*options, *files], plugins=[plugin])


def spoken(word: dict[str, Any] | None, what: str) -> dict[str, Any]:
    """The word, which has to be there."""
    if word is None:
        raise MutantsError(f"{what} ended without a word; is there enough memory?")
    return word
