"""Norms that are not Euclidean, in the place of a metric: steepest descent in them is sign descent, or Muon's step.

The step minimises the planes' maximum over the moves z that are at most lr long in the norm ("hard"), or adds
||z||²/(2·lr) ("soft"). No inner product knows ||Σ w_k s_k||_*, so here the solver does ask about vectors: `steepest`, a
fixed number of times a step. Memory is a true average that starts empty, whatever the rule.

Steepest descent in a norm: J. Bernstein and L. Newhouse, "Old Optimizer, New Norm: An Anthology", 2024, arXiv
2409.20325. The model of planes in it is this project's, derived in `theory/17_norms.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, ClassVar

from proxmom.planes import Array, namespace

FORMS = ("hard", "soft")
POLARS = ("exact", "newton-schulz")
SCALES = (None, "original", "match_rms_adamw")
FAINT = 2.0**-100  # memory of an element that moved by less than the others: this times its share of their move

# The quintic of K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024: five rounds bring
# every singular value that is not tiny to between 0.7 and 1.2, and no closer to one.
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
LEAST = 1e-7  # of the Frobenius norm that Muon divides by


def _check_among(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


@dataclass(frozen=True)
class LInf:
    """The maximum norm: a steepest direction is the sign of the slope, as in Signum and Lion.

    Args:
        form: "hard": no element moves by more than lr, as in Signum; "soft": they move by lr·||slope||_1.

    Raises:
        ValueError: for another form.
    """

    form: str = "hard"
    calls: ClassVar[int] = 60

    def __post_init__(self) -> None:
        _check_among("form", self.form, FORMS)

    @property
    def elementwise(self) -> bool:
        """Whether a direction's elements depend on those of the slope alone, and dual norms of pieces add up."""
        return self.form == "hard"

    @property
    def recalls(self) -> bool:
        """Whether memory tells the direction of the last move: an element of size `FAINT` or less how far it went."""
        return self.form == "hard"

    def steepest(self, slope: Array) -> tuple[Array, Array]:
        """||slope||_1 and its sign."""
        xp = namespace(slope)
        return xp.sum(xp.abs(slope)), xp.sign(slope)

    def keep(self, memory: Array, direction: Array) -> Array:
        """Memory in which `recall` finds the direction: where that is no sign, memory is zero up to rounding.

        Args:
            memory, direction: of one shape, any.
        """
        xp = namespace(memory)
        return xp.where(xp.abs(direction) < 1, FAINT * direction, direction * xp.clip(xp.abs(memory), min=FAINT))

    def recall(self, memory: Array) -> Array:
        """The direction of the last move."""
        return namespace(memory).clip(memory / FAINT, -1.0, 1.0)

    def expression(self, cvxpy: Any, move: Any) -> Any:
        """The norm of a cvxpy expression `move` of any shape."""
        return cvxpy.norm_inf(move)


@dataclass(frozen=True)
class Spectral:
    """The largest singular value of a matrix: a steepest direction is U Vᵀ of the slope U Σ Vᵀ, as in Muon.

    Tensors of three and more dimensions are matrices of shape (first, all others), as convolutions are in Muon.

    Args:
        form: "hard": no singular value of the move is above lr, as in Muon; "soft": above lr·(sum of the slope's).
        polar: how U Vᵀ is found: "exact" by a singular value decomposition, or "newton-schulz" by Muon's five
            rounds of matrix products, which leave singular values between 0.7 and 1.2. Then five slopes are tried, and
            the step is Muon's for the last.
        scale: what every move is multiplied by, by torch.optim.Muon's names for it: None, 1; "original",
            sqrt(max(1, rows/columns)); "match_rms_adamw", 0.2·sqrt(max(rows, columns)).

    Raises:
        ValueError: for other values.
    """

    form: str = "hard"
    polar: str = "exact"
    scale: str | None = None
    elementwise: ClassVar[bool] = False
    recalls: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_among("form", self.form, FORMS)
        _check_among("polar", self.polar, POLARS)
        _check_among("scale", self.scale, SCALES)

    @property
    def exact(self) -> bool:
        """Whether `steepest` is what it says."""
        return self.polar == "exact"

    @property
    def calls(self) -> int:
        """How many slopes are tried at most in one step."""
        return 60 if self.exact else 5

    def check_shape(self, shape: tuple[int, ...], name: str) -> None:
        """ValueError for what is no matrix.

        Args:
            shape: of a tensor, any; fewer than two dimensions are refused.
            name: what the message calls it.
        """
        if len(shape) < 2:
            raise ValueError(
                f"{name} must have two or more dimensions with Spectral, got shape {tuple(shape)}. Give vectors to an "
                "optimizer in another metric; proxmom.torch.AMMuon does."
            )

    def steepest(self, slope: Array) -> tuple[Array, Array]:
        """The sum of the singular values and U Vᵀ, each times the scale; U Vᵀ without what is zero up to rounding."""
        xp = namespace(slope)
        matrix = xp.reshape(slope, (slope.shape[0], -1))
        scale = self._scale(slope.shape)
        direction = _newton_schulz(matrix, xp) if self.polar == "newton-schulz" else _polar(matrix, xp)
        return scale * xp.sum(matrix * direction), scale * xp.reshape(direction, slope.shape)

    def _scale(self, shape: tuple[int, ...]) -> float:
        rows, columns = shape[0], prod(shape[1:])
        if self.scale == "original":
            return sqrt(max(1.0, rows / max(columns, 1)))
        return 0.2 * sqrt(max(rows, columns)) if self.scale == "match_rms_adamw" else 1.0

    def expression(self, cvxpy: Any, move: Any) -> Any:
        """The norm of a cvxpy expression `move` of a matrix's shape."""
        return cvxpy.sigma_max(move) / self._scale(move.shape)


def _polar(matrix: Array, xp: Any) -> Array:
    u, values, v = xp.linalg.svd(matrix, full_matrices=False)
    if not values.shape[0]:
        return matrix
    least = max(matrix.shape) * xp.finfo(matrix.dtype).eps * values[:1]
    return (u * xp.astype(values > least, matrix.dtype)) @ v


def _newton_schulz(matrix: Array, xp: Any) -> Array:
    tall = matrix.shape[0] > matrix.shape[1]
    m = xp.matrix_transpose(matrix) if tall else matrix
    m = m / xp.clip(xp.sqrt(xp.sum(m * m)), min=LEAST)
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        gram = m @ xp.matrix_transpose(m)
        m = a * m + (b * gram + c * (gram @ gram)) @ m
    return xp.matrix_transpose(m) if tall else m
