"""The results that a script of many parts has so far, kept on disk, so that it goes on where it was stopped."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import joblib

Function = TypeVar("Function", bound=Callable[..., Any])
LIBRARIES = ("numpy", "scipy", "scikit-learn")  # no such script uses torch
PACKAGE = Path(__file__).resolve().parents[2]


def kept(function: Function, folder: Path, *files: Path) -> Function:
    """The same function, but its results are kept in a folder, and read from there when it is called alike again.

    A result is read only by the code that computed it: that of this package, the Python files of the folder where
    `function` is defined, the contents of `files`, and the versions of `LIBRARIES`. After a change of any of these
    everything is computed again.

    Args:
        function: its result must depend on its arguments and on `files` alone; both arguments and result must be
            picklable.
        folder: made if it is missing; delete it to compute everything again.
        files: those that the function reads.
    """
    here = Path(inspect.getfile(function)).resolve().parent
    code = [path for path in sorted(PACKAGE.rglob("*")) if path.suffix in (".py", ".cpp", ".h")]
    texts = [path.read_bytes() for path in (*code, *sorted(here.glob("*.py")), *files)]
    memory: Any = joblib.Memory(folder / joblib.hash((texts, [version(name) for name in LIBRARIES])), verbose=0)
    return memory.cache(function)  # type: ignore[no-any-return]
