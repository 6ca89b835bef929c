"""Numbers that are measured outside and given with each step: what a rule says of them, and what it is given.

A rule, or a step size, declares them by name, `observed = ("noise",)`, and reads them with `now.observed("noise")`;
the step is given `step(..., observed={"noise": s})`. They are treated as the loss is: needed at every step, looked at
before anything changes, and a step with one that is not finite is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp, isfinite, log
from typing import Any


@dataclass(frozen=True)
class Observed:
    """What a rule says of a number that it wants to be given.

    Args:
        meaning: what it is, for the message where it is missing, e.g. "the variance of the batch's gradients".
        typical: (low, high), finite and low < high: where checks of the rule draw it from, evenly in the logarithm
            where both are positive. No step refuses what lies outside.

    Raises:
        ValueError: for other ranges.
    """

    meaning: str = ""
    typical: tuple[float, float] = (0.1, 10.0)

    def __post_init__(self) -> None:
        low, high = self.typical
        if not (isfinite(low) and isfinite(high) and low < high):
            raise ValueError(f"typical must be two finite numbers, the lower first, got {self.typical}.")

    def at(self, share: float) -> float:
        """The number that lies so far, in [0, 1], between low and high."""
        low, high = self.typical
        if low > 0:
            return exp(log(low) + share * (log(high) - log(low)))
        return low + share * (high - low)


def declared(observed: Any) -> dict[str, Observed]:
    """What a class declares, names or a mapping of names to words or `Observed`, by name.

    Raises:
        ValueError: for names that are no identifiers.
        TypeError: for anything else.
    """
    if isinstance(observed, str) or not isinstance(observed, Iterable):
        remedy = f" One name is a tuple too: observed = ({observed!r},)." if isinstance(observed, str) else ""
        raise TypeError(f"observed must be names, or a mapping of names to what they mean, got {observed!r}.{remedy}")
    pairs = observed.items() if isinstance(observed, Mapping) else ((name, "") for name in observed)
    found = {name: Observed(told) if isinstance(told, str) else told for name, told in pairs}
    for name, told in found.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"observed must have names that are identifiers, got {name!r}.")
        if not isinstance(told, Observed):
            raise TypeError(f"observed must map {name!r} to words or to Observed(...), got {told!r}.")
    return found


def check_given(who: str, wanted: Mapping[str, Observed], given: Mapping[str, Any] | None) -> None:
    """Raise unless a step was given exactly what is wanted; values are not looked at.

    Raises:
        ValueError: for names that are missing or that nobody has declared.
        TypeError: where `given` is no mapping.
    """
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise TypeError(f"observed must map names to numbers, got {type(given).__name__}.")
    for name, told in wanted.items():
        if name not in given:
            meaning = f", {told.meaning}" if told.meaning else ""
            raise ValueError(f"{who} looks at {name!r}{meaning}: call step(..., observed={{{name!r}: ...}}).")
    for name in given:
        if name not in wanted:
            raise ValueError(
                f"observed must be of what {who} declares, {', '.join(wanted) or '(nothing)'}, got {name!r}. Leave it "
                f"out, or declare it in the class: observed = ({name!r},)."
            )


def sampled(wanted: Mapping[str, Observed], random: Any) -> dict[str, float]:
    """One number for each name from where it typically lies; random: a NumPy generator."""
    return {name: told.at(float(random.uniform())) for name, told in wanted.items()}


def usual(wanted: Mapping[str, Observed]) -> dict[str, float]:
    """For each name the number in the middle of where it typically lies."""
    return {name: told.at(0.5) for name, told in wanted.items()}
