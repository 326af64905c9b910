"""A process that has imported the package and collected its tests, and forks a child for each mutant.

So most mutants cost no import: a function of the child is given the mutated code, and the tests run.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import marshal
import os
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import CodeType
from typing import Any, Final, NoReturn

import pytest

from mutants.baseline import caches
from mutants.child import Say, end_with_parent, forget, forked, refuse_if_stopped, run_pytest
from mutants.patch import Name, replace
from mutants.project import MutantsError, Project
from mutants.watch import SURVIVED, UNNOTICED, Plan, Watch

UNABLE: Final[dict[str, Any]] = {"unable": True}
"""The answer if the code cannot be put in the place of a running function's."""


class Nest:
    """The process, which ends with the one that begins it.

    Parameters
    ----------
    project :
        Its tests are collected.

    """

    def __init__(self, project: Project) -> None:
        self._pipe, theirs = Pipe()
        if os.fork() == 0:
            self._pipe.close()
            _be_it(project, theirs)
        theirs.close()

    def judge(self, seconds: float, module: CodeType, function: Name, plan: Plan) -> dict[str, Any] | None:
        """What the tests say of a function with the code that it has in a mutated module.

        Parameters
        ----------
        seconds :
            Of processor time, after which the child is ended.
        module :
            The mutated module's code.
        function :
            Whose code is taken from there.
        plan :
            What to run.

        Returns
        -------
        :
            None if the child ended without a word.

        Raises
        ------
        MutantsError
            The process is gone, or work was stopped.

        """
        refuse_if_stopped()
        try:
            self._pipe.send((seconds, marshal.dumps(module), function, plan))
            word: dict[str, Any] | None = self._pipe.recv()
        except (EOFError, OSError):
            refuse_if_stopped()
            raise MutantsError("the process with the tests is gone; is there enough memory?") from None
        refuse_if_stopped()
        return word


def _be_it(project: Project, pipe: Connection) -> NoReturn:
    try:
        end_with_parent()
        forget(project)
        with contextlib.suppress(BaseException):
            run_pytest(project, [project.tests], _Loop(project, pipe))
    finally:
        os._exit(1)


class _Loop:
    """A plugin that answers questions in the place of running the tests."""

    def __init__(self, project: Project, pipe: Connection) -> None:
        self._package = project.package
        self._pipe = pipe

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> NoReturn:
        gc.freeze()  # children leave these objects alone, and so their memory shared
        kept = caches(self._package)
        with contextlib.suppress(EOFError):
            while True:
                seconds, module, function, plan = self._pipe.recv()
                code = marshal.loads(module)  # noqa: S302  from the process that forked this one
                work = functools.partial(_judge, session, kept, code, function, plan)
                self._pipe.send(forked(seconds, work))
        os._exit(0)


def _judge(
    session: pytest.Session, kept: list[Any], module: CodeType, function: Name, plan: Plan, say: Say
) -> None:
    for cache in kept:
        cache.cache_clear()
    if not replace(module, function):
        say(UNABLE)
    watch = Watch(plan, say)
    session.config.pluginmanager.register(watch)
    items = watch.chosen(session.items)
    for item, following in zip(items, [*items[1:], None], strict=True):
        session.ihook.pytest_runtest_protocol(item=item, nextitem=following)
    watch.last_word(SURVIVED, UNNOTICED)
