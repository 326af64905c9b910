"""`mmu-model walk`: a case a line in, an answer a line out, in order."""

import json
from collections.abc import Iterable
from typing import IO, Any

from mmu_tool.cases import Answer, CaseError, answer


def answer_lines(lines: Iterable[bytes], out: IO[str]) -> list[int]:
    """Answer every line; one that is no case gets `{"id": ..., "error": ...}`.

    Each answer is flushed before the next line is read, so that a program can hold a conversation.

    Returns
    -------
    list of int
        The numbers, from 1, of the lines that were no cases.

    """
    bad = []
    for number, line in enumerate(lines, start=1):
        reply = answer_line(line)
        if "error" in reply:
            bad.append(number)
        out.write(json.dumps(reply) + "\n")
        out.flush()
    return bad


def answer_line(line: bytes) -> Answer:
    """The answer to one line, or its error."""
    case: Any = None
    try:
        case = json.loads(line.decode(), object_pairs_hook=_object)
        return answer(case)
    except (CaseError, RecursionError) as error:
        reason = str(error)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: {error.reason} at byte {error.start}"
    except ValueError as error:
        reason = f"not JSON: {error}"
    return {"id": case.get("id") if isinstance(case, dict) else None, "error": reason}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; json.loads would take the last of two equal keys in silence."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CaseError(f"the key {twice} stands there twice")
    return value
