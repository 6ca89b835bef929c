"""What a script of many parts has found so far, kept on disk, so that it goes on where it was stopped."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import joblib

Function = TypeVar("Function", bound=Callable[..., Any])
PACKAGE = Path(__file__).resolve().parents[2]


def kept(function: Function, folder: Path) -> Function:
    """The same function, whose results are kept in a folder and read from there when it is called alike again.

    Only the code that found a result takes it for its own: that of this package, and of the folder that `function`
    stands in. After any change of either everything is computed again.

    Args:
        function: of arguments that decide its result, and that can be pickled, as the result can.
        folder: made where it is missing; delete it to compute everything again.
    """
    here = Path(inspect.getfile(function)).resolve().parent
    code = [path.read_bytes() for path in (*sorted(PACKAGE.rglob("*.py")), *sorted(here.glob("*.py")))]
    memory: Any = joblib.Memory(folder / joblib.hash(code), verbose=0)
    return memory.cache(function)  # type: ignore[no-any-return]
