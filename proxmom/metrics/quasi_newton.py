"""`QuasiNewton`: the curvature that the last moves have shown, as a metric that is the identity plus low rank.

Nothing here has the size of the parameters: the metric is told inner products, and answers with coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from proxmom.metrics.protocol import Expansion
from proxmom.planes import Array, namespace


@dataclass(frozen=True)
class QuasiNewton:
    """P⁻¹ is L-BFGS's approximation of the inverse Hessian, from the last `pairs` moves and changes of the gradient.

    One metric for all tensors of a scope; lr is 1 once curvature was seen. Where no pair says otherwise P⁻¹ is γI, and
    γ follows how long steps should have been, see `scale`. A pair s, y is kept where <s, y> > `curvature`·||s||·||y||,
    so P is positive definite on every f. With pairs, P⁻¹y = s for the last of them: completing the last move before the
    next has no effect, and adaptive memory has weight zero (`theory/16_quasi_newton.py`). Gradients should be exact:
    noise in their differences becomes noise in P.

    Args:
        pairs: >= 1; memory and time of a step grow with it, by two vectors each.
        curvature: in (0, 1), cosine between s and y above which a pair is kept.
        follows: whether γ follows; else it is <s, y>/<y, y> of the newest pair, as L-BFGS has it.

    Raises:
        ValueError: for other values.

    Source: Nocedal, Math. Comp. 35 (1980); the compact form is Byrd, Nocedal and Schnabel's, Math. Prog. 63 (1994).
    Oren and Luenberger, Management Science 20 (1974), scale all of P⁻¹, and not γ alone, by a like ratio.
    """

    pairs: int = 20
    curvature: float = 1e-10
    follows: bool = True
    memory_from_gradient: ClassVar[bool] = True
    numbers: ClassVar[Mapping[str, float]] = {"pairs": 0.0, "identity": 1.0}

    def __post_init__(self) -> None:
        if not (isinstance(self.pairs, int) and self.pairs >= 1):
            raise ValueError(f"pairs must be an integer >= 1, got {self.pairs!r}.")
        if not 0 < self.curvature < 1:
            raise ValueError(f"curvature must be in (0, 1), got {self.curvature}.")

    @property
    def kept(self) -> int:
        """How many vectors are kept: moves first, then the changes of the gradient."""
        return 2 * self.pairs

    def accept(
        self, pairs: Any, identity: Any, ss: Array, sy: Array, yy: Array, forecast: Array
    ) -> tuple[Array, Array]:
        """Whether a pair is to be kept, and γ after it.

        Args:
            pairs, identity: as of `scale`.
            ss, sy, yy, forecast: as of `scale`, of any value, (S,) each, or () for one.
        """
        xp = namespace(ss)
        least = xp.finfo(ss.dtype).smallest_normal
        # compared as square roots: products of four lengths over- and underflow
        kept = (sy > self.curvature * xp.sqrt(ss) * xp.sqrt(yy)) & (sy > least) & (yy > least)
        kept = kept & (sy < xp.inf) & (yy < xp.inf) & (ss < xp.inf)
        safe = (xp.where(kept, product, 1.0) for product in (ss, sy, yy, forecast))
        return kept, xp.where(kept, self.scale(pairs, identity, *safe), identity)

    def scale(self, pairs: Any, identity: Any, ss: Any, sy: Any, yy: Any, forecast: Any) -> Any:
        """γ after a pair that is kept; numbers, or arrays of one shape.

        It starts as <s, y>/<y, y>, and stays that of the newest pair unless it `follows`: where the bend <s, y> of the
        last move was less than P had forecast, the move ended short of the least f along it, and γ grows; else it
        shrinks; by the root of the ratio of the two, within <s, y>/<y, y> and <s, s>/<s, y>. So bends are forecast
        right on average (`theory/16_quasi_newton.py`).

        Args:
            pairs: how many were kept before. identity: γ before.
            ss, sy, yy: <s, s>, <s, y> and <y, y>, the last two > 0. forecast: <s, Ps>, with P as it was for that move.
        """
        if not self.follows:
            return sy / yy
        xp = namespace(ss)
        told = (pairs > 0) & (forecast > 0) & (forecast < xp.inf)  # where x decays besides, it may be anything
        followed = identity * xp.sqrt(xp.where(told, forecast, sy) / sy)
        longest = xp.minimum(followed, ss / sy)  # 0 where ss underflows
        return xp.where(pairs > 0, xp.maximum(longest, sy / yy), sy / yy)

    def low_rank(self, gram: Array, numbers: Mapping[str, Array], forecast: Array) -> Expansion:
        """P⁻¹ after one more move.

        Args:
            gram: inner products of the kept vectors, the last move s and the change of the gradient y,
                (S, V + 2, V + 2).
            numbers: "pairs", how many were kept so far, and "identity", γ, (S,) each.
            forecast: <s, Ps>, with P as it was for the last move, (S,).
        """
        xp, m, count = namespace(gram), self.pairs, numbers["pairs"]
        products = gram[:, -2, -2], gram[:, -2, -1], gram[:, -1, -1], forecast
        accepted, identity = self.accept(count, numbers["identity"], *products)
        slots = xp.arange(m, dtype=gram.dtype, device=gram.device)
        taken = accepted[:, None] & (slots == (count % m)[:, None])
        count = count + xp.astype(accepted, count.dtype)
        keeps = _keeps(xp.astype(taken, gram.dtype))
        age = (count[:, None] - 1 - slots) % m  # 0 for the newest
        middle = _compact(*_taken_in(gram, taken), age, slots < count[:, None], identity)
        return Expansion(identity, middle, keeps, {"pairs": count, "identity": identity})


@lru_cache
def _eye(count: int, xp: Any, dtype: Any, where: Any) -> Array:
    return xp.eye(count, dtype=dtype, device=where)


def _taken_in(gram: Array, taken: Array) -> tuple[Array, Array]:
    """<s_i, y_j> and <y_i, y_j> of the kept pairs, (S, m, m) each, once the slots `taken`, (S, m), have the last pair.

    By choosing, for the products of a pair that is not kept may be NaN.
    """
    xp, m = namespace(gram), taken.shape[1]
    turns = xp.where(taken[:, None, :], gram[:, :, -1:], gram[:, :, m:-2])
    row = taken[:, :, None]
    return xp.where(row, turns[:, -2:-1, :], turns[:, :m, :]), xp.where(row, turns[:, -1:, :], turns[:, m:-2, :])


def _keeps(taken: Array) -> Array:
    """`Expansion.keeps` of a ring of pairs, where the slots `taken`, (S, m) of 0 and 1, get the new one."""
    xp = namespace(taken)
    eye = _eye(taken.shape[1], xp, taken.dtype, taken.device)
    left, none, new = (1 - taken)[:, :, None] * eye, 0 * (taken[:, :, None] * eye), taken[:, :, None]
    moves = xp.concat([left, none, new, 0 * new], axis=-1)
    turns = xp.concat([none, left, 0 * new, new], axis=-1)
    return xp.concat([moves, turns], axis=1)


def _compact(cross: Array, turns: Array, age: Array, used: Array, identity: Array) -> Array:
    """middle of `Expansion`, from <s_i, y_j> and <y_i, y_j>, (S, m, m) each, in any order of age, and γ, (S,).

    With R_ij = <s_i, y_j> where j is no older than i, and D its diagonal:
    P⁻¹ = γI + S R⁻ᵀ(D + γ YᵀY)R⁻¹ Sᵀ - γ S R⁻ᵀ Yᵀ - γ Y R⁻¹ Sᵀ. Pairs are scaled to <s, y> = 1 first, because their
    lengths may differ by any factor.
    """
    xp = namespace(cross)
    eye = _eye(cross.shape[1], xp, cross.dtype, cross.device)
    both = used[:, :, None] & used[:, None, :]
    own = xp.where(used, xp.sum(cross * eye, axis=-1), 1.0)
    unit = xp.where(used, xp.sqrt(1 / own), 0.0)
    turns = xp.where(both, turns, 0.0) * unit[:, :, None] * unit[:, None, :]
    # upper triangular in the order of age; slots without a pair have a row of the identity
    later = both & (age[:, None, :] <= age[:, :, None])
    r = xp.where(later, cross * unit[:, :, None] * unit[:, None, :], 0.0)
    r = r * (1 - eye) + eye
    gamma = identity[:, None, None]
    inverse = xp.linalg.solve(r, 0 * r + eye) * unit[:, None, :]
    moves = xp.matrix_transpose(inverse) @ (eye + gamma * turns) @ inverse
    mixed = -gamma * xp.matrix_transpose(inverse) * unit[:, None, :]
    upper = xp.concat([moves, mixed], axis=-1)
    lower = xp.concat([xp.matrix_transpose(mixed), 0 * mixed], axis=-1)
    return xp.concat([upper, lower], axis=1)
