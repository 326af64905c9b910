"""`mmu_lock`: a read-write lock that knows who holds it, and how."""

from types import TracebackType
from typing import Final

from mmu_model.kvm.errors import KvmBug


class RwLock:
    """Many readers or one writer; taking it when it is not free is a bug, for nobody else runs meanwhile.

    Attributes
    ----------
    read, write :
        Context managers that hold it.
    readers :
        How many hold it for reading.
    writer :
        Whether somebody holds it for writing.

    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.readers = 0
        self.writer = False
        self.read: Final = _Read(self)
        self.write: Final = _Write(self)

    def assert_held_write(self) -> None:
        """`lockdep_assert_held_write`.

        Raises
        ------
        KvmBug
            Nobody holds it for writing.

        """
        if not self.writer:
            raise KvmBug(f"{self.name} is not held for write")

    def assert_held_read(self) -> None:
        """`lockdep_assert_held_read`; raises KvmBug as :meth:`assert_held_write` does."""
        if not self.readers:
            raise KvmBug(f"{self.name} is not held for read")


class _Read:
    def __init__(self, lock: RwLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if self._lock.writer:
            raise KvmBug(f"{self._lock.name} is held for write: taking it for read would wait for ever")
        self._lock.readers += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._lock.readers -= 1


class _Write:
    def __init__(self, lock: RwLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if self._lock.writer or self._lock.readers:
            raise KvmBug(f"{self._lock.name} is held: taking it for write would wait for ever")
        self._lock.writer = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._lock.writer = False
