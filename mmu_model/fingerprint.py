"""A digest of everything that can be reached from an object, suspended generators included.

Two equal digests mean equal states: same values, same objects shared in the same places, every generator at the
same instruction with the same locals and the same half-done work. Unequal digests may still mean equal states
(the order in which a set was filled can show); that costs time and hides nothing.
"""

import gc
import hashlib
import io
import pickle
from types import CellType, CodeType, FrameType, FunctionType, GeneratorType, ModuleType
from typing import Any


def fingerprint(state: Any) -> bytes:
    """The digest.

    Raises
    ------
    TypeError
        Something that can be reached has a state that cannot be read: an open file, a socket.

    """
    out = io.BytesIO()
    _Pickler(out, protocol=5).dump(state)
    return hashlib.blake2b(out.getbuffer(), digest_size=16).digest()


class _Pickler(pickle.Pickler):
    """Writes what no pickler can read back, as nobody wants to."""

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, GeneratorType):
            return object, (), _generator(thing)
        if isinstance(thing, FunctionType):
            return object, (), (thing.__qualname__, *(_contents(c) for c in thing.__closure__ or ()))
        if isinstance(thing, CellType):
            return object, (), _contents(thing)
        if isinstance(thing, ModuleType):
            return object, (), thing.__name__
        return NotImplemented


def _contents(cell: CellType) -> Any:
    """What a closure refers to, if it is set yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _generator(generator: Any) -> tuple[Any, ...]:
    """Where it stands, its locals, and what lies on its stack: iterators of loops, context managers."""
    frame = generator.gi_frame
    if frame is None:
        return (generator.__qualname__,)
    named = frame.f_locals
    elsewhere = {id(frame.f_globals), id(frame.f_builtins), id(named)}
    held = [
        thing
        for thing in gc.get_referents(generator)
        if not isinstance(thing, CodeType | FrameType | FunctionType) and id(thing) not in elsewhere
    ]
    return generator.__qualname__, frame.f_lasti, dict(named), held
