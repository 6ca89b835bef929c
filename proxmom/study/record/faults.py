"""Whose fault a failure was: the method's, which is a result, or the machine's, which says nothing of the method."""

from __future__ import annotations

import re
from collections.abc import Iterator

FAILED, ABORTED = "failed", "aborted"

# By name: torch is not imported here, and its errors are RuntimeErrors.
_OF_TORCH = ("OutOfMemoryError", "AcceleratorError", "DistBackendError")
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory|No space left", re.IGNORECASE)
_FROM_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGBUS", "SIGXCPU", "SIGXFSZ")


def status_of(error: BaseException) -> str:
    """ "aborted" if the machine was at fault (disk, memory, device, connection), else "failed".

    An error counts as what it was raised from: a ValueError that wraps an OSError is the machine's.
    """
    return ABORTED if any(map(_of_the_machine, _causes(error))) else FAILED


def status_of_process(exit_codes: str) -> str:
    """The same of a run that ended its process; exit_codes as joblib words them: "SIGKILL(-9)", "EXIT(3)"."""
    by_itself = bool(exit_codes) and not any(name in exit_codes for name in _FROM_OUTSIDE)
    return FAILED if by_itself else ABORTED


def described(error: BaseException) -> str:
    """The error as one line: its type and its text."""
    return f"{type(error).__name__}: {error}"


def _of_the_machine(error: BaseException) -> bool:
    if isinstance(error, OSError | MemoryError):
        return True
    if any(kind.__name__ in _OF_TORCH for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised `from`."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__
