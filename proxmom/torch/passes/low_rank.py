"""The two passes for a metric of low rank: plain inner products in, coefficients out, one metric for each scope.

Parameters are cut into blocks of columns whose rows fit in cache: the named vectors, the kept ones, the last move and
the change of the gradient. Nothing is gathered of sharded parameters, only inner products add up.

Kept pairs are of one set of parameters. One that is new has kept nothing and disturbs nobody; where one stays away, or
comes back, the products of pairs would be of other functions, so the metric starts anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxmom.metrics import Expansion
from proxmom.planes import Array, namespace
from proxmom.step import Products, Scope
from proxmom.step import low_rank as ranks
from proxmom.torch.decision import LAST_LR, SLOPE_WEIGHT, STEP
from proxmom.torch.layout import MEMBERS, PREVIOUS_GRADIENT, PREVIOUS_X, Layout, Part, working
from proxmom.torch.memory import as_tensor
from proxmom.torch.passes import Motion, Numbers, Settings
from proxmom.torch.passes.arithmetic import decayed, each, following, named, rounded
from proxmom.torch.passes.blocks import DEVICE_BLOCK, HOST_BLOCK

LEAST = 1 << 10  # columns of a block


class LowRankPasses:
    """See `Passes`."""

    name = "low rank"
    by_kernels = False

    def __init__(self, layout: Layout, settings: Settings) -> None:
        self._settings = settings
        self._metric = settings.metric
        self._named, self._kept = 2 + len(settings.memories), settings.metric.kept
        self._rows = self._named + self._kept + 2
        width = max((HOST_BLOCK if layout.on_host else DEVICE_BLOCK) // self._rows, LEAST)
        self._blocks = [
            (i, slice(a, a + width)) for i, part in enumerate(layout.parts) for a in range(0, part.count, width)
        ]
        sizes = torch.bincount(
            torch.tensor([part.unit for part in layout.parts], device="cpu"), minlength=len(layout.groups)
        )
        self._sizes = layout.array(sizes.to(layout.scalar_rows))
        rows = [] if layout.membership is None else layout.membership[0].tolist()
        scopes = ({layout.groups[unit] for unit, here in enumerate(row) if here} for row in rows)
        self._together = [sorted(groups) for groups in scopes if len(groups) > 1]
        self.scalars: Mapping[str, Array] | None = None
        self.release()

    def release(self) -> None:
        self._gradients: list[Tensor] = []
        self._xs: list[Tensor] = []

    def check_rates(self, groups: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        """ValueError where groups of one scope differ in a rate: its metric is one, and so is the length of a step."""
        for together in self._together:
            first = groups[together[0]]
            for name, other in ((name, groups[index]) for name in names for index in together[1:]):
                if first[name] is not other[name] and first[name] != other[name]:
                    raise ValueError(
                        f"{name} must be one for all groups of a model with {type(self._metric).__name__}, got "
                        f"{first[name]} and {other[name]}. Use scope='group'."
                    )

    # --- measure -----------------------------------------------------------------------------------------------------

    def measure(self, layout: Layout, numbers: Numbers) -> Tensor:
        """Sums over each unit, (U, N² + B): plain products of all N rows, and if asked for of the named with x."""
        self._gradients, self._xs = layout.rows_of_gradients(), layout.xs()
        self._coupled = None if numbers.coupled is None else as_tensor(numbers.coupled)
        self._moved = layout.scalar_rows[:, LAST_LR] > 0
        total = layout.scalar_rows.new_zeros((len(layout.groups), self._rows**2 + self._named))
        for i, at in self._blocks:
            part = layout.parts[i]
            x, vectors, pair = self._seen(i, part, at)
            rows = total.new_empty((self._rows, x.numel()))
            for row, vector in enumerate(vectors):
                rows[row] = vector
            rows[self._named : -2] = part.kept[:, at]  # type: ignore[index]
            rows[-2], rows[-1] = pair
            total[part.unit, : self._rows**2] += (rows @ rows.T).view(-1)
            if numbers.with_x:
                total[part.unit, self._rows**2 :] += rows[: self._named] @ x.to(total.dtype)
        return total

    def _seen(self, i: int, part: Part, at: slice) -> tuple[Tensor, list[Tensor], tuple[Tensor, Tensor]]:
        """Of one block x, the named vectors, the last move and the change of the gradient."""
        dtype = working(part.dtype)
        x, g = self._xs[i][at].to(dtype), self._gradients[i][at].to(dtype)
        g = g if self._settings.sign > 0 else -g
        if self._coupled is not None:
            g = decayed(g, self._coupled[part.unit].to(dtype), x)
        moved = self._moved[part.unit]
        move = torch.where(moved, x - part.vectors[PREVIOUS_X][at], 0.0)
        turn = torch.where(moved, g - part.vectors[PREVIOUS_GRADIENT][at], 0.0)
        return x, named(self._settings.memories, g, [memory[at] for memory in part.memories], x), (move, turn)

    def products(self, layout: Layout, sums: Array, *, with_x: bool) -> Products:
        """The products in the metric, and what the next step needs to know of it."""
        xp, scope = namespace(sums), layout.scope
        gram = xp.reshape(sums[:, : self._rows**2], (len(layout.groups), self._rows, self._rows))
        steps = layout.rows.T[STEP]
        numbers = {name: scope.oldest(value[:, 0], steps) for name, value in layout.metric_scalars().items()}
        anew = self._starts_anew(layout, numbers.pop(MEMBERS))
        with np.errstate(all="ignore"):
            pairs = scope.total(gram)[:, -2:]
        usable = xp.all(xp.reshape(xp.isfinite(pairs), (len(anew), -1)), axis=-1)
        here = self._usable(anew, usable)
        both = here[:, :, None] & here[:, None, :]
        gram = xp.where(scope.spread(xp.astype(both, gram.dtype)) > 0, gram, 0.0)  # what is not finite, too
        starts = {name: 0 * value + self._metric.numbers[name] for name, value in numbers.items()}
        numbers = {name: xp.where(anew, starts[name], value) for name, value in numbers.items()}
        decay = sums[:, self._rows**2 :] if with_x else None
        with np.errstate(all="ignore"):  # what is not finite is seen by whoever asks
            reach = layout.rows[:, LAST_LR] * layout.rows[:, SLOPE_WEIGHT]
            products, seen = ranks.see(self._metric, gram, numbers, scope, reach, decay)
        keeps = xp.where(here[:, None, self._named :], seen.metric.keeps, 0.0)
        told = Expansion(seen.metric.identity, seen.metric.middle, keeps, {})
        with np.errstate(all="ignore"):
            self._told = Told(scope, told, seen.cross, usable)
        members = {MEMBERS: scope.total(self._sizes)}
        self.scalars = {
            name: scope.spread(value)[:, None] for name, value in ({**seen.metric.numbers, **members}).items()
        }
        return products

    def _usable(self, anew: Array, usable: Array) -> Array:
        """Which rows count, (S, N): a pair that overflows is none; of another set of parameters none at all."""
        xp = namespace(anew)
        true = anew | ~anew
        turn = usable & ~anew
        return xp.stack([true] * self._named + [~anew] * self._kept + [usable, turn], axis=-1)

    def _starts_anew(self, layout: Layout, members: Array) -> Array:
        """Where the parameters that have stepped before are not those that took the last step together, (S,)."""
        scope, column = layout.scope, layout.rows.T
        xp = namespace(column)
        old = column[STEP] > 0
        moves = xp.astype(column[LAST_LR] > 0, column.dtype)  # 0 where others have moved without it
        stayed = moves < scope.spread(-scope.least(-moves))
        absent = scope.total(xp.astype(old & stayed, column.dtype)) > 0
        return absent | (scope.total(xp.where(old, self._sizes, 0.0)) != members)

    # --- move --------------------------------------------------------------------------------------------------------

    def move(self, layout: Layout, numbers: Numbers, motion: Motion) -> None:
        told = self._told
        image = told.images(motion.direction)
        coefficients = (image, motion.direction, motion.scale, motion.shrink, told.identity)
        per_unit = [each(values) for values in coefficients]
        combinations = {name: each(parts) for name, parts in motion.combinations.items()}
        learned = [_changes(keeps) for keeps in as_tensor(told.keeps).cpu()]  # the only time that a step waits
        usable = as_tensor(told.usable)
        for i, at in self._blocks:
            part = layout.parts[i]
            unit = part.unit
            x, vectors, pair = self._seen(i, part, at)
            pair = tuple(torch.where(usable[unit] > 0, row, 0.0) for row in pair)  # type: ignore[assignment]
            back, direction, scale, shrink, identity = (values[unit] for values in per_unit)
            ours = {name: rows[unit] for name, rows in combinations.items()}
            after = following(self._settings.memories, vectors, ours)
            memory = sum((c * v for c, v in zip(direction, vectors, strict=True)), start=torch.zeros_like(x))
            step = identity * memory + _over(back, part, at, pair)
            moved = shrink * x - scale * step
            if self._settings.stochastic_rounding:
                moved = rounded(moved, part.dtype)
            for kept_rows, new in self._learned(learned[unit], part, at, pair):
                _store(part.kept, (kept_rows, at), new, motion.sound)  # type: ignore[arg-type]
            _store(part.vectors[PREVIOUS_GRADIENT], at, vectors[0], motion.sound)
            for row, value in zip(part.memories, [memory, *after], strict=True):
                _store(row, at, value, motion.sound)
            _store(part.vectors[PREVIOUS_X], at, x, motion.sound)
            _store(self._xs[i], at, moved, motion.sound)

    def _learned(
        self, changes: tuple[list[int], list[int], Tensor], part: Part, at: slice, pair: tuple[Tensor, Tensor]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """The kept rows that change, and what they become; nearly all stay, and only what counts is read."""
        rows, used, keeps = changes
        if rows:
            keeps = keeps.to(pair[0])
            new = keeps[:, used] @ part.kept[used, at] + keeps[:, -2:] @ torch.stack(pair)  # type: ignore[index]
            yield rows, new


class Told:
    """What the metric says of one step, for each unit: identity (U,), keeps (U, V, V + 2), usable (U,), and images."""

    def __init__(self, scope: Scope, metric: Expansion, cross: Array, usable: Array) -> None:
        xp = namespace(cross)
        self.identity = scope.spread(metric.identity)
        self.keeps = scope.spread(metric.keeps)
        self.usable = scope.spread(xp.astype(usable, cross.dtype))
        self._over = scope.spread((cross @ metric.middle) @ metric.keeps)

    def images(self, direction: Array) -> Array:
        """Of P⁻¹ of combinations (U, B), what is no multiple of them: over kept vectors, move and turn, (U, V + 2)."""
        return (direction[:, None, :] @ self._over)[:, 0, :]


def _over(coefficients: Any, part: Part, at: slice, pair: tuple[Tensor, Tensor]) -> Tensor:
    """The combination of kept vectors, last move and change of the gradient with these coefficients."""
    row = torch.as_tensor(coefficients, dtype=pair[0].dtype, device=pair[0].device)
    found: Tensor = row[:-2] @ part.kept[:, at] + row[-2] * pair[0] + row[-1] * pair[1]  # type: ignore[index]
    return found


def _changes(keeps: Tensor) -> tuple[list[int], list[int], Tensor]:
    """Of a unit's keeps (V, V + 2), on the host: the rows that change, the old ones that count, the coefficients."""
    old = keeps[:, :-2]
    rows = (old != torch.eye(len(old), dtype=old.dtype, device=old.device)).any(dim=1).nonzero()[:, 0].tolist()
    used = (old[rows] != 0).any(dim=0).nonzero()[:, 0].tolist()
    return rows, used, keeps[rows]


def _store(target: Tensor, at: Any, value: Tensor | None, sound: Tensor | None) -> None:
    if value is None:
        return
    target[at] = value.to(target.dtype) if sound is None else torch.where(sound, value.to(target.dtype), target[at])
