"""What a tape means, by NumPy's own functions: what the fast players are compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from proxmom.tape.record import Tape
from proxmom.tape.trace import FOLDS, SCOPE


def play(tape: Tape, arrays: Mapping[str, Any], scope_of: Any) -> dict[str, Any]:
    """What the recorded function returns for these arrays, (U, *shape) or (S, *shape) of float64 each.

    Args:
        tape: of `record`.
        arrays: what is given, by name.
        scope_of: (U,) of integers in [0, S), the scope of each unit.
    """
    units, scopes = len(scope_of), int(max(scope_of, default=-1)) + 1
    given = [column for name in tape.given for column in _columns(arrays[name])]
    registers: list[Any] = [*tape.constants, *([None] * (tape.registers - len(tape.constants)))]
    returned: list[Any] = [None] * sum(math.prod(shape) for _, _, shape in tape.returned.values())
    for step in tape.instructions:
        read = [registers[source] for source in step.sources]
        if step.name == "store":
            returned[step.column] = read[0] + np.zeros(scopes if step.per == SCOPE else units)
        elif step.name == "load":
            registers[step.target] = given[step.column]
        elif step.name == "spread":
            registers[step.target] = read[0][scope_of]
        elif step.name in ("total", "least"):
            start, at = (np.zeros(scopes), np.add) if step.name == "total" else (np.full(scopes, np.inf), np.minimum)
            at.at(start, scope_of, read[0])
            registers[step.target] = start
        else:
            registers[step.target] = 1.0 * FOLDS[step.name](*read)
    return {
        name: np.reshape(np.stack(returned[first : first + math.prod(shape)], axis=1), (-1, *shape))
        for name, (first, _, shape) in tape.returned.items()
    }


def _columns(array: Any) -> list[Any]:
    whole = np.asarray(array, dtype=np.float64)
    return list(whole.reshape(len(whole), -1).T)
