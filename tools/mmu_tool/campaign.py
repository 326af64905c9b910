"""Long work in pieces: on all cores or on a cluster, in any order, to be stopped and taken up again.

A piece is a call of one function with one item; items and results are plain data, so that they can be sent to
other processes and machines and be written down.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

Item = TypeVar("Item")
Result = dict[str, Any]
Workers = Callable[[], AbstractContextManager[Executor]]
"""Makes those who do the work; they are sent home when the context ends."""

_RESTARTS: Final = 3
SCHEDULER_TIMEOUT = "5s"


class CampaignError(Exception):
    """The campaign cannot go on; the message says why and what to do."""


def all_cores() -> Executor:
    """One process for each core."""
    return ProcessPoolExecutor(os.cpu_count(), initializer=_leave_interrupts_to_the_parent)


def cluster(address: str) -> Workers:
    """The workers of a Dask cluster.

    Raises
    ------
    CampaignError
        Dask is not installed, or there is no scheduler at that address.

    """
    try:
        distributed = import_module("distributed")
    except ImportError:
        raise CampaignError("a scheduler needs Dask: pip install 'kvm-mmu-conformance[cluster]'") from None
    try:
        client = distributed.Client(address, timeout=SCHEDULER_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CampaignError(f"no Dask scheduler at {address}: {error}") from None

    @contextmanager
    def workers() -> Iterator[Executor]:
        # The client is closed with the executor: it has threads that would go on looking for the scheduler.
        with client, client.get_executor(pure=False) as executor:
            yield executor

    return workers


def results(
    function: Callable[[Item], Result], items: Sequence[Item], make_executor: Workers
) -> Iterator[tuple[Item, Result]]:
    """The result of each item, in the order in which they are ready.

    A process that dies takes its pool along; the items without a result then go to a new one. A cluster sees
    to its lost workers itself.

    Raises
    ------
    CampaignError
        Processes keep dying.

    """
    waiting = set(items)
    for _ in range(1 + _RESTARTS):
        with make_executor() as executor:
            futures = {executor.submit(function, item): item for item in items if item in waiting}
            try:
                for future in as_completed(futures):
                    item = futures[future]
                    result = future.result()
                    waiting.discard(item)
                    yield item, result
            except BrokenProcessPool:
                continue
            finally:
                _cancel(futures)
        return
    raise CampaignError(f"worker processes died {1 + _RESTARTS} times; is there enough memory?")


def _cancel(futures: dict[Future[Result], Any]) -> None:
    for future in futures:
        future.cancel()


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Checkpoint(Generic[Item]):
    """A file of the results so far: a line that says of what, then a line for each item.

    Parameters
    ----------
    path :
        The file. It is made with the first result.
    what :
        What the campaign is, in full: results of anything else are of no use to it and are replaced.

    Raises
    ------
    CampaignError
        The file is no checkpoint, or cannot be read.

    """

    def __init__(self, path: Path, what: dict[str, Any]) -> None:
        self._path = path
        self._head = json.dumps({"checkpoint": what}, sort_keys=True)
        self.done: dict[Any, Result] = {}
        self._begun = False
        self._load()

    def _load(self) -> None:
        try:
            head, *lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise CampaignError(f"{self._path}: error: cannot be read as a checkpoint: {error}") from None
        if not head.startswith('{"checkpoint"'):
            raise CampaignError(
                f"{self._path}: error: is no checkpoint; name another file or remove this one"
            )
        if head != self._head:
            return
        for line in lines:
            try:
                item, result = json.loads(line)
            except ValueError:
                break  # a line torn by a crash: what is behind it is not there either
            self.done[item] = result

    def add(self, item: Item, result: Result) -> None:
        """Write a result down."""
        self.done[item] = result
        if not self._begun:
            self._rewrite()
            self._begun = True
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([item, result]) + "\n")

    def remove(self) -> None:
        """The campaign is over."""
        self._path.unlink(missing_ok=True)

    def _rewrite(self) -> None:
        """Begin the file anew, without what was torn or foreign."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(self._path.name + ".new")
        lines = [self._head, *(json.dumps(pair) for pair in self.done.items())]
        beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        beside.replace(self._path)
