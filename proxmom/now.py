"""`Now`: all that a rule may look at when it names its planes.

Every scalar here is an array (S,) with one entry per scope (one entry for a whole model, one per tensor where each
tensor has a model of its own), every vector a list of coefficients (B,) or (S, B). A rule need not care.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

from proxmom.memories import Average, Displacement, Memory, Position, Previous, mass_name
from proxmom.planes import Array, Plane, Scalar, Vector, namespace

HEIGHTS = ("linearised", "previous value", "cutting plane", "aggregated")


class NoInnerProduct(ValueError):
    """A rule or step size asked for an inner product where moves are measured in a norm."""


@lru_cache
def _units(count: int, xp: Any, dtype: Any, where: Any) -> Array:
    return xp.eye(count, dtype=dtype, device=where)


class Now:
    """The state of the world at one step, as a rule sees it.

    Args:
        names: the B named vectors, first "gradient", then "memory", then what the rule declares.
        dual: inner products <u, P⁻¹v> of the named vectors, (S, B, B); None in a norm, which has none.
        last_move: <u, x_t - x_{t-1}> of each named vector u, (S, B).
        lr: step size, (S,); the mean over its tensors where a scope has several.
        step: how many steps were taken before this one, (S,).
        mass: the mass that memory carries, in [0, 1], (S,).
        normalised: whether the rule keeps memory as a true average.
        loss, previous_loss: (S,) or None.
        memory_height: height of the aggregated plane, (S,), or None where it is not tracked.
        memories: the further memories that the rule declares, by name.
        scalars: the scalars that rule and step size keep from step to step, name -> (S,).
        observed: the numbers that this step was given, name -> (S,).
        rule: the rule's name, for messages.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        *,
        dual: Array | None,
        last_move: Array,
        lr: Array,
        step: Array,
        mass: Array,
        normalised: bool,
        loss: Array | None = None,
        previous_loss: Array | None = None,
        memory_height: Array | None = None,
        memories: Mapping[str, Memory] | None = None,
        scalars: Mapping[str, Array] | None = None,
        observed: Mapping[str, Array] | None = None,
        rule: str = "the rule",
    ) -> None:
        self._dual, self._last_move, self._mass, self._normalised = dual, last_move, mass, normalised
        self._loss, self._previous_loss, self._memory_height = loss, previous_loss, memory_height
        self._memories, self.scalars = memories or {}, scalars or {}
        self._names, self._rule, self._observed = names, rule, observed or {}
        self.lr, self.step = lr, step

    def vector(self, name: str) -> Vector:
        """A named vector: "gradient", "memory", or a further one declared in `memories`; ValueError for any other."""
        if name not in self._names:
            raise ValueError(
                f"vector must be one of {', '.join(self._names)}, got {name!r}. Declare it in {self._rule}.memories."
            )
        return Vector(self._unit(self._names.index(name)))

    @property
    def gradient(self) -> Vector:
        """g, the gradient at x."""
        return self.vector("gradient")

    @property
    def memory(self) -> Vector:
        """d, the direction of the last step."""
        return self.vector("memory")

    @property
    def zero(self) -> Vector:
        """The zero vector, the slope of a lower bound."""
        return Vector(0 * self._unit(0), is_zero=True)

    def dot(self, u: Vector, v: Vector) -> Array:
        """<u, P⁻¹v>, (S,), of any u and v.

        Raises:
            NoInnerProduct: in a norm.
        """
        if self._dual is None:
            raise NoInnerProduct(
                f"{self._rule} asks for inner products, now.dot(u, v), and a norm has none. Use a metric, or a rule "
                "that does without."
            )
        image = (self._dual @ v.coefficients[..., None])[..., 0]
        return namespace(image).sum(u.coefficients * image, axis=-1)

    def dot_last_move(self, u: Vector) -> Array:
        """<u, x_t - x_{t-1}>, (S,); 0 where nothing has moved yet.

        Where the metric is a diagonal, as today's metric and memory say; else as the move was.
        """
        return namespace(self._last_move).sum(u.coefficients * self._last_move, axis=-1)

    def recall(self, name: str) -> Array:
        """A scalar that rule or step size keeps from step to step, (S,), as the last step's `remember` left it.

        Raises:
            ValueError: for a name that is not declared in `scalars`.
        """
        if name not in self.scalars:
            raise ValueError(
                f"scalar must be one of {', '.join(self.scalars) or '(none)'}, got {name!r}. "
                f"Declare it: scalars = {{{name!r}: 0.0}} in {self._rule} or its step size."
            )
        return self.scalars[name]

    def observed(self, name: str) -> Array:
        """A number that was measured outside and given with this step, (S,).

        Raises:
            ValueError: for a name that is not declared in `observed`.
        """
        if name not in self._observed:
            raise ValueError(
                f"observed must be one of {', '.join(self._observed) or '(none)'}, got {name!r}. "
                f"Declare it: observed = ({name!r},) in {self._rule} or its step size."
            )
        return self._observed[name]

    def mass(self, name: str) -> Array:
        """The sum of the coefficients of all gradients in a named vector, (S,): how much of an average it is.

        1 for the gradient and for averages that started as one; it grows from 0 in an average that started as zero,
        and is 0 for x and x - x₀.

        Raises:
            ValueError: for an unknown name.
        """
        self.vector(name)
        return self._mass_after(name, self.step)

    def _mass_after(self, name: str, steps: Array) -> Array:
        """The mass of a vector after a number of steps, (S,); zero where that is negative."""
        if name == "memory":
            return self._mass
        if name == "gradient":
            return namespace(steps).astype(steps >= 0, steps.dtype)
        if mass_name(name) in self.scalars:
            return self.scalars[mass_name(name)]
        kind, xp = self._memories[name], namespace(steps)
        if isinstance(kind, Position | Displacement):
            return 0 * steps
        if isinstance(kind, Previous):
            return xp.where(steps > 0, self._mass_after(kind.of, steps - 1), float(kind.start == "gradient"))
        assert isinstance(kind, Average)
        return 1 + 0 * steps if kind.start == "gradient" else 1 - (1 - kind.coefficient) ** xp.maximum(steps, 0 * steps)

    @property
    def gradient_plane(self) -> Plane:
        """The tangent plane at x: slope g, height 0."""
        return Plane(self.gradient, 0.0)

    def memory_plane(self, height: str | Scalar = "linearised") -> Plane:
        """The plane with slope d and the named height (one of `HEIGHTS`), or any height given as a scalar."""
        if not isinstance(height, str):
            return Plane(self.memory, height)
        if height == "linearised":
            return Plane(self.memory, self.rise)
        if height == "aggregated":
            return Plane(self.memory, self.memory_height)
        fall = self.previous_loss - self.loss
        return Plane(self.memory, fall if height == "previous value" else fall + self.dot_last_move(self.memory))

    def floor(self, lower_bound: Scalar) -> Plane:
        """The plane of a lower bound f >= lower_bound: slope 0, height lower_bound - f(x)."""
        return Plane(self.zero, lower_bound - self.loss)

    @property
    def rise(self) -> Array:
        """<g, x_{t-1} - x_t>, (S,): f(x_{t-1}) - f(x_t) to first order, on the current batch; 0 at the first step."""
        return -self.dot_last_move(self.gradient)

    def weight(self, beta: Scalar) -> Scalar:
        """The mixture weight that means "weight beta on memory" under the rule's mass convention."""
        return beta * self._mass / (beta * self._mass + 1 - beta) if self._normalised else beta

    @property
    def loss(self) -> Array:
        """f(x), (S,)."""
        return self._loss if self._loss is not None else self._no_loss()

    @property
    def previous_loss(self) -> Array:
        """The loss of the last step taken, (S,); at the first step the present one."""
        return self._previous_loss if self._previous_loss is not None else self._no_loss()

    @property
    def memory_height(self) -> Array:
        """Height of the aggregated plane, (S,): the running combination of past gradient planes at x, minus f(x)."""
        return self._memory_height if self._memory_height is not None else self._no_loss()

    def _unit(self, index: int) -> Array:
        like = self._last_move
        return _units(len(self._names), namespace(like), like.dtype, like.device)[index, :]

    def _no_loss(self) -> NoReturn:
        raise ValueError(
            f"{self._rule} looks at the loss: say so in the class, needs_loss = True, "
            "and call step(loss=...) or step(closure)."
        )
