"""Who is compared: every metric of `proxmom.metrics.METRICS`, norms apart, some with several settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxmom.metrics import METRICS, kind_of

VECTOR = "one vector"  # what NumPy steps
_FULL = "of a vector with n entries it keeps two n x n matrices: here {tensors} tensors of state, {size}."


@dataclass(frozen=True)
class Contender:
    """A metric by name, with settings.

    Args:
        name: in `METRICS`.
        keywords: other settings than its own defaults.
        left_out: set -> why it is not measured there.
        alike: sets where no step differs from the others, since nothing there is refreshed.
        only: the one set where it is measured; None for all.
    """

    name: str
    keywords: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    alike: tuple[str, ...] = ()
    only: str | None = None

    @property
    def label(self) -> str:
        """As it is written in code, e.g. Shampoo(every=1)."""
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.keywords.items())})"

    @property
    def metric(self) -> Any:
        """A new object."""
        return METRICS[self.name](**self.keywords)

    @property
    def scope(self) -> str:
        """A metric of low rank is one for all tensors; any other is measured with a model for each."""
        return "model" if kind_of(self.metric) == "low rank" else "tensor"

    def cycle(self, where: str) -> int:
        """Steps from one refresh to the next in a set; 1 where all steps are alike."""
        return 1 if where in self.alike else int(getattr(self.metric, "every", 1))


_TOO_LARGE = {
    "many-small": _FULL.format(tensors="2002", size="16 GB"),
    VECTOR: "blocks of a vector have sides of up to 1024: here some 2050 tensors of state, 1.6 GB.",
}
SETTINGS: dict[str, tuple[Contender, ...]] = {
    "Shampoo": (
        Contender("Shampoo", left_out=_TOO_LARGE),
        Contender("Shampoo", {"every": 1}, left_out=_TOO_LARGE),
        Contender("Shampoo", {"largest_side": 32}, only=VECTOR),
        Contender("Shampoo", {"largest_side": 32, "every": 1}, only=VECTOR),
    ),
    "SOAP": (Contender("SOAP", alike=("many-small", VECTOR)),),  # vectors are not rotated
    "QuasiNewton": (Contender("QuasiNewton", {"pairs": 10}), Contender("QuasiNewton", {"pairs": 20})),
}


def contenders(where: str) -> list[Contender]:
    """All that are in the table of a set; a metric without an entry in `SETTINGS` is there with its defaults."""
    names = [name for name, metric in METRICS.items() if not hasattr(metric, "steepest")]
    everybody = (one for name in names for one in SETTINGS.get(name, (Contender(name),)))
    return [one for one in everybody if one.only in (None, where)]


def race(
    where: str, prepare: Callable[[Contender], tuple[Callable[[], list[float]], dict[str, Any]]]
) -> tuple[list[dict[str, Any]], dict[str, Callable[[], list[float]]]]:
    """A row for each contender, and the turns of those that can be measured.

    Args:
        where: the set.
        prepare: makes a contender's turn, which returns the seconds of each step of a whole cycle, and its figures.
    """
    rows, turns = [], {}
    for one in contenders(where):
        row = {"label": one.label, "metric": one.name, "scope": one.scope, "reason": one.left_out.get(where)}
        if row["reason"] is None:
            try:
                turns[one.label], figures = prepare(one)
                row |= figures
            except Exception as error:  # whatever is wrong with one contender, the others are measured
                row["reason"] = in_one_line(error)
        rows.append(row)
    return rows, turns


def in_one_line(error: Exception) -> str:
    """An error as a reason."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
