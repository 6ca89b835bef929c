"""What a script of many parts has found so far, kept on disk, so that it goes on where it was stopped."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import joblib

Function = TypeVar("Function", bound=Callable[..., Any])
LIBRARIES = ("numpy", "scipy", "scikit-learn")  # torch is in no such script
PACKAGE = Path(__file__).resolve().parents[2]


def kept(function: Function, folder: Path, *files: Path) -> Function:
    """The same function, whose results are kept in a folder and read from there when it is called alike again.

    Only the code that found a result takes it for its own: that of this package and of what it depends on, of the
    folder that `function` stands in, and `files`. After any change of these everything is computed again.

    Args:
        function: of arguments that decide its result, with `files`, and that can be pickled, as the result can.
        folder: made where it is missing; delete it to compute everything again.
        files: what it reads.
    """
    here = Path(inspect.getfile(function)).resolve().parent
    code = [path for path in sorted(PACKAGE.rglob("*")) if path.suffix in (".py", ".cpp", ".h")]
    texts = [path.read_bytes() for path in (*code, *sorted(here.glob("*.py")), *files)]
    memory: Any = joblib.Memory(folder / joblib.hash((texts, [version(name) for name in LIBRARIES])), verbose=0)
    return memory.cache(function)  # type: ignore[no-any-return]
