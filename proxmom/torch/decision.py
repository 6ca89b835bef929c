"""The scalars of a step on one device: pure functions of a few numbers for each unit.

`numbers` is what the first pass over memory needs, `decide` what follows from its sums. `recording` runs them: recorded
where they can be, else as they stand here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxmom.metrics.protocol import recalls
from proxmom.planes import Array, namespace
from proxmom.step import MEMORY, Inputs, Products, Scalars, Scope, Step

SCALARS = ("step", "last_lr", "slope_weight", "missing", "loss", "memory_height", "skipped")
STEP, LAST_LR, SLOPE_WEIGHT, MISSING, LOSS, MEMORY_HEIGHT, SKIPPED = range(len(SCALARS))

PER_SCOPE = ("weights", "beta", "sound")  # what `decide` returns one of for each scope

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """All that stays the same from step to step.

    step: what is taken; columns: the names of the scalars of a unit, `SCALARS`, those of rule and step size, those of
    the metric; decays: whether a group has weight decay; diagonal: whether the passes want to know P at two places.
    """

    step: Step
    columns: tuple[str, ...]
    decays: bool
    diagonal: bool = False

    @cached_property
    def with_x(self) -> bool:
        """Whether products with x are wanted."""
        return self.decays and self.step.method.decay != "coupled"

    @property
    def rule_scalars(self) -> dict[str, int]:
        """Where the scalars of rule and step size stand."""
        return {name: len(SCALARS) + i for i, name in enumerate(self.step.method.scalars)}

    def metric_scalars(self, rows: Array) -> dict[str, Array]:
        """Those of the metric, (U, 1) each."""
        return metric_scalars(self.columns, len(self.step.method.scalars), rows)


@dataclass(frozen=True)
class Measured:
    """What the passes have found, beside the sums of element-wise metrics.

    products: of other metrics, see `Products`; metric_scalars: what those of the metric become, (U, 1) each, where that
    is known only now; inputs: what `Inputs` holds besides, for norms.
    """

    products: Products | None = None
    metric_scalars: Arrays | None = None
    inputs: Arrays = field(default_factory=dict)


def metric_scalars(columns: Sequence[str], of_rule: int, rows: Array) -> dict[str, Array]:
    """The columns behind `SCALARS` and those of rule and step size, so many, (U, 1) each."""
    first = len(SCALARS) + of_rule
    return {name: rows[:, i, None] for i, name in enumerate(columns) if i >= first}


def scalars_of(kind: Kind, scope: Scope, rows: Array, loss: Array | None) -> Scalars:
    """What the last step left; the last loss is that of the oldest unit, before the first step today's."""
    steps = rows[:, STEP]
    oldest = -scope.least(-steps)
    seen = loss is not None
    return Scalars(
        step=oldest,
        last_lr=rows[:, LAST_LR],
        slope_weight=rows[:, SLOPE_WEIGHT],
        missing=rows[:, MISSING],
        loss=namespace(rows).where(oldest > 0, scope.oldest(rows[:, LOSS], steps), loss) if seen else None,
        memory_height=scope.oldest(rows[:, MEMORY_HEIGHT], steps) if seen else None,
        rule_scalars={name: scope.oldest(rows[:, i], steps) for name, i in kind.rule_scalars.items()},
    )


def numbers(kind: Kind, scope: Scope, rows: Array) -> dict[str, Array]:
    """What the first pass needs: the metric's factor for the mass of memory, and P where v is 0 and where it is 1."""
    method, found = kind.step.method, {}
    if method.mass_in_metric:
        found["factor"] = kind.step.factor(rows[:, MISSING])
    if kind.diagonal and method.metric.start(rows[:, :0]):
        count = rows[:, kind.columns.index("count")] + 1
        zero = namespace(rows).zeros_like(count)
        for name, v in (("at_zero", zero), ("at_one", zero + 1)):
            found[name] = method.metric.diagonal({"second_moment": v, "count": count}, found.get("factor", 1.0))
    return found


def decide(
    kind: Kind,
    scope: Scope,
    rows: Array,
    sums: Array,
    lr: Array,
    decay: Array,
    loss: Array | None = None,
    measured: Measured = Measured(),
    observed: Array | None = None,
) -> tuple[dict[str, Array], Any]:
    """What a step does to each unit, and its `Solution`.

    Args:
        kind, scope: of the layout; rows: the scalars of the units, (U, C); sums: what was measured, see `Passes`; lr,
            decay: of the groups, for each unit, (U,); loss: (S,) or None; measured: see there;
            observed: what the step was given, (S, N), or None where nothing is declared.

    Returns:
        name -> array. direction (U, B), scale (U,), shrink (U,) and combinations (U, B) as in `Motion`; rows (U, C),
        the scalars after the step; weights (S, K) of the planes and beta (S,); sound (S,), whether all is finite.
    """
    method, xp = kind.step.method, namespace(rows)
    decoupled = 0 * decay if method.decay == "coupled" else decay
    products = measured.products or _products(kind, sums)
    scalars = scalars_of(kind, scope, rows, loss)
    seen = {} if observed is None else {name: observed[:, i] for i, name in enumerate(method.observed)}
    outcome = kind.step.take(Inputs(products, scalars, scope, lr, decoupled, loss, observed=seen, **measured.inputs))
    solution, lr = outcome.solution, outcome.lr
    proximal = method.decay == "proximal"
    shrink = 1 / (1 + lr * decoupled) if proximal else 1 - lr * decoupled
    scale = lr * scope.spread(solution.slope_weight) * (shrink if proximal else 1)
    decided = solution.gap if solution.quadratic is None else solution.quadratic
    # a pair that overflows is left out of the products of a metric of low rank
    per_unit = [products.dual if method.measures == "low rank" else sums]
    per_scope = [solution.linear, decided, *(each for each in (loss, observed) if each is not None)]
    if method.remembers:
        per_scope += [*outcome.scalars.rule_scalars.values(), *outcome.combinations.values()]
    if method.step_size is not None:
        per_unit.append(xp.astype(lr, xp.float32))  # as it will multiply arrays
    found = {
        "direction": spread_vectors(scope, solution.direction),
        "scale": scale,
        "shrink": shrink,
        "rows": _rows_after(kind, scope, rows, outcome.scalars, measured.metric_scalars),
        "weights": solution.weights,
        "beta": solution.beta,
        "sound": _finite(xp, per_scope) & (scope.least(0.0 + _finite(xp, per_unit)) > 0),
    }
    found |= {f"combination {name}": spread_vectors(scope, parts) for name, parts in outcome.combinations.items()}
    return found, solution


def _finite(xp: Any, parts: list[Array]) -> Array:
    """Whether all of each row of all parts is finite."""
    flat = xp.concat([xp.reshape(part, (part.shape[0], -1)) for part in parts], axis=1)
    return xp.all(xp.isfinite(flat), axis=1)


def spread_vectors(scope: Scope, coefficients: Array) -> Array:
    """Each unit's copy of its scope's coefficients, (S, B) -> (U, B)."""
    columns = [scope.spread(coefficients[:, b]) for b in range(coefficients.shape[1])]
    return namespace(coefficients).stack(columns, axis=-1)


def _products(kind: Kind, sums: Array) -> Products:
    """See `Passes` for the columns, and `_places`."""
    method = kind.step.method
    count, inertia = len(method.names), method.inertia
    if method.measures == "norm":
        rest = sums[:, count:] if kind.with_x else None
        where = "last" if recalls(method.metric) else "move"
        return Products(None, None, None, rest, **{where: sums[:, :count]})
    pairs = count * (count + 1) // 2
    places = _places(count, sums.device if isinstance(sums, Tensor) else None)
    metric, pulled = sums[:, :pairs][:, places], sums[:, pairs : 2 * pairs][:, places]
    rest = 2 * pairs
    return Products(
        dual=metric + inertia * pulled if inertia else metric,
        metric=metric,
        pull=pulled[:, :, MEMORY] if inertia else None,
        decay=sums[:, rest : rest + count] if kind.with_x else None,
        move=sums[:, rest + count :] if method.measures == "operator" else None,
    )


@lru_cache
def _places(count: int, device: torch.device | None) -> Any:
    """Where entry (i, j) of a symmetric matrix stands among the entries on and above its diagonal, (B, B)."""
    pairs = {pair: at for at, pair in enumerate(combinations_with_replacement(range(count), 2))}
    rows = np.array([[pairs[min(i, j), max(i, j)] for j in range(count)] for i in range(count)])
    return rows if device is None else torch.from_numpy(rows).to(device)


def _rows_after(kind: Kind, scope: Scope, rows: Array, left: Scalars, of_metric: Arrays | None) -> Array:
    """The scalars of all units after this step."""
    loss, height = rows[:, LOSS], rows[:, MEMORY_HEIGHT]
    if kind.step.method.facts.needs_loss:
        loss, height = scope.spread(left.loss), scope.spread(left.memory_height)
    columns = [rows[:, STEP] + 1, left.last_lr, left.slope_weight, left.missing, loss, height, rows[:, SKIPPED]]
    columns += [scope.spread(left.rule_scalars[name]) for name in kind.rule_scalars]
    before = kind.metric_scalars(rows)
    if of_metric is None:
        metric, empty = kind.step.method.metric, rows[:, :0]
        of_metric = metric.update({**metric.start(empty), **before}, empty)
    return namespace(rows).stack([*columns, *(of_metric[name][:, 0] for name in before)], axis=1)
