"""`Pairs`: the metric of `QuasiNewton` over rows, for many problems at once; the host never waits for it.

What `QuasiNewton` says of inner products, Nocedal's recursion says of vectors: P⁻¹g by products of two vectors at a
time. It needs no matrix of all inner products, which for thousands of small problems would cost more than the vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxmom.guard.numbers import Number, Truth, where
from proxmom.metrics import QuasiNewton
from proxmom.torch.full_batch.rows import Rows, dot
from proxmom.torch.full_batch.steps import plain


class Pairs:
    """The last pairs s, y of each problem, scaled to <s, y> = 1; P⁻¹ is positive definite.

    Args:
        metric: how many pairs, and which of them are kept.
        like: rows of the vectors.
        count: N, or None for one problem.

    Source: Nocedal, Math. Comp. 35 (1980).
    """

    def __init__(self, metric: QuasiNewton, like: Rows, count: int | None) -> None:
        self._metric, self._like = metric, like
        self.moves: list[Tensor] = []  # (pairs, N, n), allocated when there is something to keep
        self.turns: list[Tensor] = []
        self.seen: Any = 0 if count is None else np.zeros(count, dtype=np.int64)
        self.identity: Number = 1.0 if count is None else np.ones(count)

    @property
    def curved(self) -> Truth:
        """Whether P is no longer the identity."""
        return self.seen > 0

    def forget(self, here: Truth) -> None:
        """P is the identity again, of the problems where it is true."""
        self.seen = where(here, 0, self.seen)

    def see(self, move: Rows, turn: Rows, products: tuple[Number, ...], here: Truth) -> None:
        """One more pair, of the problems where it is true; products: <s, s>, <s, y>, <y, y> and <s, Ps>."""
        sy = products[1]
        with np.errstate(all="ignore"):
            accepted, identity = self._metric.accept(self.seen, self.identity, *map(np.asarray, products))
            taken = here & accepted
            self.identity = where(taken, plain(identity), self.identity)
            unit = where(taken, 1 / np.sqrt(where(taken, sy, 1.0)), 1.0)
        if not np.any(taken):
            return
        if not self.moves:
            self.moves, self.turns = self._room(), self._room()
        slot = self.seen % self._metric.pairs
        for kept, new in zip((*self.moves, *self.turns), (*move, *turn), strict=True):
            if isinstance(slot, np.ndarray):
                rows, slots, units = np.flatnonzero(taken), slot[taken], unit[taken]
                at = torch.as_tensor(rows).to(new.device)
                scale = torch.as_tensor(units).to(new.device, new.dtype)
                kept[torch.as_tensor(slots).to(new.device), at] = new[at] * scale[:, None]
            else:
                torch.mul(new, float(unit), out=kept[slot])
        self.seen = self.seen + taken

    def _room(self) -> list[Tensor]:
        """For one vector of each pair."""
        pairs = self._metric.pairs
        try:
            return [part.new_zeros((pairs, *part.shape)) for part in self._like]
        except RuntimeError as error:
            size = sum(part.numel() for part in self._like)
            raise MemoryError(
                f"{pairs} pairs of vectors of {size} numbers must fit in memory: {error}\n"
                "Keep fewer: metric=QuasiNewton(pairs=10), say."
            ) from error

    def image(self, g: Rows, here: Truth) -> Rows:
        """P⁻¹g of the problems where it is true, and g of the others."""
        if not isinstance(self.seen, np.ndarray):
            if not self.seen:
                return g
            slots = [(self.seen - 1 - k) % self._metric.pairs for k in range(min(self.seen, self._metric.pairs))]
            if len(g) > 1:
                return self._recursion(g, [self._at(slot) for slot in slots], self.identity)
            # one problem's vectors are often short, and then calls cost most: so without views for every product
            moves, turns = (kept[0][:, 0].unbind() for kept in (self.moves, self.turns))
            found = self._recursion([g[0][0]], [([moves[slot]], [turns[slot]]) for slot in slots], self.identity)
            return [found[0][None]]
        wanted = here & self.curved
        if not wanted.any():
            return g
        rows = np.flatnonzero(wanted)
        at = torch.as_tensor(rows).to(g[0].device)
        few = [part[at] for part in g]
        seen, m, count = self.seen[rows], self._metric.pairs, len(self.seen)
        ages = np.arange(min(int(seen.max()), m))[:, None]
        places = torch.as_tensor((seen - 1 - ages) % m * count + rows).to(at.device)
        there = torch.as_tensor(ages < seen).to(at.device)
        pairs = [self._gathered(place, mask) for place, mask in zip(places, there, strict=True)]
        few = self._recursion(few, pairs, torch.as_tensor(self.identity[rows]).to(at.device)[:, None])
        return [part.index_copy(0, at, new) for part, new in zip(g, few, strict=True)]

    def _at(self, slot: int) -> tuple[Rows, Rows]:
        return [part[slot] for part in self.moves], [part[slot] for part in self.turns]

    def _gathered(self, place: Tensor, mask: Tensor) -> tuple[Rows, Rows]:
        """A pair of each of some problems; zeros where there is none of this age."""

        def rows(parts: list[Tensor]) -> Rows:
            return [part.flatten(0, 1).index_select(0, place) * mask[:, None].to(part.dtype) for part in parts]

        return rows(self.moves), rows(self.turns)

    @staticmethod
    def _recursion(g: Rows, pairs: list[tuple[Rows, Rows]], identity: Any) -> Rows:
        """Nocedal's: through the pairs from the newest to the oldest, and back."""
        q, shares = [part.clone() for part in g], []
        for move, turn in pairs:
            share = _inner(move, q)
            for part, row in zip(q, turn, strict=True):
                part.addcmul_(row, _as(share, part), value=-1)
            shares.append(share)
        for part in q:
            part.mul_(identity if isinstance(identity, float) else identity.to(part.dtype))
        for (move, turn), share in zip(reversed(pairs), reversed(shares), strict=True):
            rest = share - _inner(turn, q)
            for part, row in zip(q, move, strict=True):
                part.addcmul_(row, _as(rest, part))
        return q


def _inner(one: Rows, other: Rows) -> Tensor:
    """<one, other>, () or (N, 1): in the precision of the vectors, as a direction need not be more precise."""
    if len(one) == 1:
        u, v = one[0], other[0]
        if u.dim() == 1:
            return torch.dot(u, v)
        return torch.dot(u[0], v[0]) if u.shape[0] == 1 else (u * v).sum(dim=-1, keepdim=True)
    return dot(one, other)[:, None]


def _as(share: Tensor, part: Tensor) -> Tensor:
    return share if share.dtype == part.dtype else share.to(part.dtype)
