"""What a metric must have: a frozen object without state, which a backend asks about one tensor at a time.

What a metric remembers of a tensor is a small dictionary that the backend keeps, copies, saves and loads. A metric says
what its matrix P is in one of three ways: `Diagonal`, `Operator`, or, for all tensors of a scope at once, `LowRank`. A
`Norm`, in the place of a metric, has no such matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from proxmom.planes import Array, Scalar

State = Mapping[str, Any]


class _Remembers(Protocol):
    memory_from_gradient: ClassVar[bool]

    def start(self, x: Array) -> State: ...
    def update(self, state: State, gradient: Array) -> State: ...


class Diagonal(_Remembers, Protocol):
    """A metric whose P is diagonal.

    The state is a mapping from plain names to arrays and numbers. Its names may depend on the shape of x, but not on
    the gradients. Arrays are NumPy arrays or torch tensors, and `proxmom.planes.namespace(array)` has the functions for
    either; numbers reach the metric as plain Python numbers. Work without `float(array)`: on a GPU it waits.

    A metric may also say `elementwise: ClassVar[bool] = True` (without it: False): an element's entry of the diagonal
    depends on the gradients of that element alone, and every array of the state has the shape of x. Backends may then
    cut and join tensors as they like. Otherwise it always gets whole tensors in their own shape.

    Attributes:
        memory_from_gradient: whether memory starts as the first gradient (with mass 1), or from zero (with mass 0),
            which `factor` then corrects.

    Methods:
        start(x): the state for a tensor x of any shape, before any gradient. It may use no more than shape, dtype and
            device of x, which may be empty or, in torch, on the meta device.
        update(state, gradient): the state after one more gradient, of x's shape. What it is given stays as it is:
            a backend that undoes a step goes on from the old state.
        diagonal(state, factor): factor times the diagonal of P, an array of x's shape with entries > 0; None for the
            identity (then factor is 1). It is asked for after at least one gradient.
    """

    def diagonal(self, state: State, factor: Scalar) -> Array | None: ...


class Operator(_Remembers, Protocol):
    """A metric whose P is any linear, symmetric, positive definite operator on tensors of one shape.

    State, attributes, `start` and `update` are as for `Diagonal`. It is shown whole tensors in their own shape, one at
    a time. Such a metric has no `diagonal`, so what needs (I + λP)⁻¹, inertia, cannot be had with it.

    Methods:
        images(state, vectors): P⁻¹u for each u of a sequence of arrays of x's shape, as a list of new arrays of x's
            shape and dtype. Division by the factor that corrects the mass of memory is the backend's. It is asked for
            after at least one gradient. The step is the exact minimiser of its model only if P⁻¹ is linear in u,
            symmetric (<v, P⁻¹u> = <u, P⁻¹v>) and positive definite (<u, P⁻¹u> > 0 unless u = 0), whatever the
            gradients were: zero, of low rank, huge or tiny.
    """

    def images(self, state: State, vectors: Sequence[Array]) -> list[Array]: ...


class Expansion(NamedTuple):
    """What a metric of low rank is: identity·I + Σ_ij middle_ij v_i v_jᵀ, which is P⁻¹, over the V vectors v it keeps.

    Args:
        identity: (S,).
        middle: (S, V, V), symmetric, over the kept vectors as they are from now on.
        keeps: (S, V, V + 2), what the kept vectors become, as coefficients over what they were, the last move and the
            change of the gradient.
        numbers: what the metric keeps besides, (S,) each.
    """

    identity: Array
    middle: Array
    keeps: Array
    numbers: Mapping[str, Array]


class LowRank(Protocol):
    """A metric over all tensors of a scope together: P⁻¹ is a multiple of I plus low rank, and it sees no vector.

    It keeps combinations of past moves and changes of the gradient. Each step it is told their inner products, for S
    scopes at once, and answers with coefficients; the backend has the vectors, which may be sharded.

    Attributes:
        memory_from_gradient: must be True: there is no diagonal to correct the mass of memory in.
        kept: how many vectors it keeps, V; they start as zero.
        numbers: what else it keeps, name -> start.

    Methods:
        low_rank(gram, numbers, forecast): its `Expansion` after one more move; gram has the inner products of the kept
            vectors, the last move s and the change of the gradient, (S, V + 2, V + 2), zero for the last two at first
            and where they overflow; numbers are (S,) each; forecast, (S,), is <s, Ps> with P as it was for that move,
            weight decay aside: the bend that it expected of f. Arrays are of any library, see
            `proxmom.planes.namespace`.
    """

    memory_from_gradient: ClassVar[bool]
    numbers: ClassVar[Mapping[str, float]]

    @property
    def kept(self) -> int: ...
    def low_rank(self, gram: Array, numbers: Mapping[str, Array], forecast: Array) -> Expansion: ...


class SeesMove(Protocol):
    """What a metric of either kind has if it learns from moves too, as quasi-Newton metrics do.

    Attributes:
        sees_move: True; a metric without this attribute is never shown a move.

    Methods:
        update(state, gradient, move): as for `Diagonal`, with the last move x_t - x_{t-1}, an array of x's shape, that
            led to where the gradient was taken; zero with the first gradient.
    """

    sees_move: ClassVar[bool]

    def update(self, state: State, gradient: Array, move: Array) -> State: ...


class Norm(Protocol):
    """A norm of moves that is not Euclidean, in the place of a metric; it remembers nothing.

    Attributes:
        form: "hard", a move of each tensor is at most lr long, or "soft", its price is ||z||²/(2·lr).
        calls: how many slopes a step may ask about at most, >= 2; where the host can look it stops once the gap to the
            best step is at rounding level.

    Methods:
        steepest(slope): ||slope||_* of one tensor in its own shape, of shape (), and a steepest direction v of the
            slope's shape: ||v|| <= 1 and <slope, v> = ||slope||_*, and v = 0 for a slope that is zero. It must be a
            norm, the same for every tensor of a shape; `proxmom verify` looks.

    A norm may also have:

    * exact: False where steepest directions are approximate: then the step is the last one asked about, no mixture.
    * elementwise: True where v's elements depend on those of the slope alone, and dual norms of pieces add up.
    * check_shape(shape, name): raises ValueError for a tensor that it cannot measure.
    * recalls: True where memory tells how the last move went, by two more methods: keep(memory, direction), memory with
      that in it, and recall(memory), the direction. Without it backends keep where the last step started.
    * expression(cvxpy, move): the norm of a cvxpy expression of the shape of a tensor, one of three dimensions and more
      as a matrix (first, all others); `proxmom verify` needs it.
    """

    @property
    def form(self) -> str: ...
    @property
    def calls(self) -> int: ...
    def steepest(self, slope: Array) -> tuple[Array, Array]: ...


Metric = Diagonal | Operator | LowRank | Norm
KINDS = {"diagonal": "diagonal", "images": "operator", "low_rank": "low rank", "steepest": "norm"}


def kind_of(metric: Any) -> str:
    """Of which kind a metric is, see `KINDS`: by the one of these methods that it has.

    Raises:
        TypeError: for anything else.
        ValueError: for one of low rank whose memory does not start as the first gradient.
    """
    kinds = [kind for method, kind in KINDS.items() if callable(getattr(metric, method, None))]
    if isinstance(metric, type) or len(kinds) != 1:
        got = f"{metric!r}" if len(kinds) < 2 else f"{metric!r} with several"
        raise TypeError(f"metric must be an object like Euclidean() with one of {', '.join(KINDS)}, got {got}.")
    if kinds[0] == "low rank" and not metric.memory_from_gradient:
        raise ValueError(f"memory_from_gradient must be True in a metric of low rank, got False in {metric!r}.")
    return kinds[0]


def recalls(norm: Any) -> bool:
    """Whether memory tells a norm how the last move went, see `Norm`."""
    return bool(getattr(norm, "recalls", False))


def check_shape(norm: Any, shape: tuple[int, ...], name: str) -> None:
    """ValueError where a norm cannot measure tensors of this shape."""
    if hasattr(norm, "check_shape"):
        norm.check_shape(shape, name)
