"""Metrics of Kronecker products: one small matrix for each side of a tensor instead of a large one for the tensor.

A tensor of order k is multiplied along each side: u ×_1 A_1 ... ×_k A_k is (A_1 ⊗ ... ⊗ A_k) u with u written as one
long row-major vector. The matrices come from the factors L_i, averages of the Gram matrices of the gradients'
unfoldings along side i, kept in at least float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from proxmom.metrics.diagonal import average
from proxmom.metrics.protocol import State
from proxmom.planes import Array, namespace


@dataclass(frozen=True)
class Shampoo:
    """P⁻¹u = u ×_1 L_1^(-1/2k) ×_2 ... ×_k L_k^(-1/2k) for a tensor with k sides longer than 1.

    L_i is the running average of the gradients' Gram matrices along side i, divided by 1 - beta2^t, plus eps times its
    largest eigenvalue on the diagonal: scaling the loss by c > 0 scales P by c and leaves its geometry alone. A vector,
    or a single number, has the full matrix L, the average of g gᵀ, and P = L^(1/2). A factor of zeros counts as I.

    The tensor is cut into blocks with sides of at most `largest_side`, of nearly equal length, and each has factors of
    its own. A block of sides n_1 ... n_k keeps 2(n_1² + ... + n_k²) numbers. Roots are computed with the first gradient
    and then with every `every`-th after it; where that fails, even in float64, the old ones are kept.

    Between two roots P stands still while gradients move on: along directions that no gradient had before, P⁻¹ is up to
    eps^(-1/2) times what it is along the largest. With the defaults and gradients of independent normal numbers the
    longest of steps 2 to 10 was 17 times as long as with every=1 for a 64 x 128 matrix, and 350 times for a vector of
    128 entries. Published versions start with a diagonal method, or take the length of a step from one; here every step
    is Shampoo's, so use every=1, a larger eps, or a learning rate that rises over the first steps.

    Args:
        beta2: averaging coefficient of the factors, in [0, 1); 0.999 as in Anil et al.'s code. A vector's factor is
            nearly singular unless it averages over more gradients than the vector has entries.
        eps: > 0, share of the largest eigenvalue that is added to all; 1e-6 as in Anil et al.'s code, for float32.
        every: a whole number >= 1, steps from one computation of the roots to the next.
        largest_side: a whole number >= 1, longest side of a block; 1024 as in Anil et al.'s code.

    Raises:
        ValueError: for values outside these ranges.

    Source: Gupta, Koren and Singer, ICML 2018; averages, blocks and a relative eps: Anil et al., arXiv 2002.09018.
    """

    beta2: float = 0.999
    eps: float = 1e-6
    every: int = 10
    largest_side: int = 1024
    memory_from_gradient: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self.beta2, self.eps, self.every, self.largest_side)

    def start(self, x: Array) -> State:
        xp, kind = namespace(x), _at_least_float32(x)
        state: dict[str, Any] = {"count": 0}
        for name, (block, axis) in self._factors(x.shape).items():
            n = block[axis].stop - block[axis].start
            state[f"factor_{name}"] = xp.zeros((n, n), dtype=kind, device=x.device)
            state[f"root_{name}"] = xp.eye(n, dtype=kind, device=x.device)
        return state

    def update(self, state: State, gradient: Array) -> State:
        count = state["count"] + 1
        g = namespace(gradient).reshape(_cast(gradient), _sides(gradient.shape))
        new: dict[str, Any] = {"count": count}
        for name, (block, axis) in self._factors(gradient.shape).items():
            factor = average(state[f"factor_{name}"], _gram(g[block], axis), 1 - self.beta2)
            root = state[f"root_{name}"]
            if (count - 1) % self.every == 0:
                root = _inverse_root(factor, 1 - self.beta2**count, 1 / (2 * len(block)), self.eps, root)
            new |= {f"factor_{name}": factor, f"root_{name}": root}
        return new

    def images(self, state: State, vectors: Sequence[Array]) -> list[Array]:
        return [self._image(state, u) for u in vectors]

    def _image(self, state: State, u: Array) -> Array:
        xp = namespace(u)
        image = xp.reshape(xp.astype(u, _at_least_float32(u), copy=True), _sides(u.shape))
        for name, (block, axis) in self._factors(u.shape).items():
            image[block] = _along(state[f"root_{name}"], image[block], axis)
        return xp.astype(xp.reshape(image, u.shape), u.dtype, copy=False)

    def _factors(self, shape: Sequence[int]) -> dict[str, tuple[tuple[slice, ...], int]]:
        """Name of every factor -> the block of the tensor and the side of that block that it belongs to."""
        sides = _sides(shape)
        blocks = itertools.product(*(_cuts(n, self.largest_side) for n in sides))
        return {f"{number}_{axis}": (block, axis) for number, block in enumerate(blocks) for axis in range(len(sides))}


@dataclass(frozen=True)
class SOAP:
    """P = Q (sqrt(v / (1 - beta2^t)) + eps) Qᵀ: Adam's metric in the eigenbasis Q of Shampoo's factors.

    Q = Q_1 ⊗ ... ⊗ Q_k holds for each side i the eigenvectors of L_i, v the running average of the squared entries of
    the rotated gradient Qᵀg. The first gradient gives the first Q, by an exact decomposition. Every `every` gradients
    later Q is refreshed from all gradients before the one at hand: one power iteration L_i Q_i, with columns sorted by
    falling eigenvalue, then orthogonalised by QR; v is sorted with them. Sides of length 1, and those longer than
    `largest_side`, are not rotated. Vectors and single numbers are not either, which is Adam's metric.

    The published code takes no step with the first gradient. Here it is Adam's step, Q = I: in its own eigenbasis the
    first gradient is diagonal, and the rest of v would be rounding noise that P⁻¹ blows up to full size. Afterwards v
    starts again from zero in the first Q, so that from the second gradient on this is the published metric, with t
    counting the gradients in v; Q is new with gradients 2, 2 + every, 2 + 2·every, ...

    Args:
        beta2: averaging coefficient of v and of the factors, in [0, 1).
        eps: > 0, keeps P positive.
        every: a whole number >= 1, steps from one refresh of Q to the next.
        largest_side: a whole number >= 1, longest side that is rotated; it costs 2·largest_side² numbers.

    Raises:
        ValueError: for values outside these ranges.

    Source: Vyas et al., ICLR 2025 (arXiv 2409.11321), whose published defaults these are.
    """

    beta2: float = 0.95
    eps: float = 1e-8
    every: int = 10
    largest_side: int = 10000
    memory_from_gradient: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self.beta2, self.eps, self.every, self.largest_side)

    def start(self, x: Array) -> State:
        xp, kind = namespace(x), _at_least_float32(x)
        state: dict[str, Any] = {"second_moment": xp.zeros_like(x, dtype=kind), "count": 0}
        for axis in self._axes(x.shape):
            n = x.shape[axis]
            state[f"factor_{axis}"] = xp.zeros((n, n), dtype=kind, device=x.device)
            state[f"basis_{axis}"] = xp.eye(n, dtype=kind, device=x.device)
        return state

    def update(self, state: State, gradient: Array) -> State:
        g, count, axes = _cast(gradient), state["count"], self._axes(gradient.shape)
        v = state["second_moment"]
        factors = {axis: state[f"factor_{axis}"] for axis in axes}
        bases = {axis: state[f"basis_{axis}"] for axis in axes}
        if count == 1 and axes:
            bases, v = {axis: _eigenbasis(factors[axis], bases[axis]) for axis in axes}, namespace(v).zeros_like(v)
        elif count and (count - 1) % self.every == 0:
            for axis in axes:
                bases[axis], v = _turned(factors[axis], bases[axis], v, axis)
        rotated = _rotated(bases, g)
        new = {"second_moment": average(v, rotated * rotated, 1 - self.beta2), "count": count + 1}
        for axis in axes:  # after the bases, as published: those do not know the gradient at hand yet
            new[f"factor_{axis}"] = average(factors[axis], _gram(g, axis), 1 - self.beta2)
            new[f"basis_{axis}"] = bases[axis]
        return new

    def images(self, state: State, vectors: Sequence[Array]) -> list[Array]:
        v = state["second_moment"]
        xp = namespace(v)
        bases = {axis: state[f"basis_{axis}"] for axis in self._axes(v.shape)}
        averaged = max(1, state["count"] - 1) if bases else state["count"]  # v starts again in the first basis
        scale = xp.sqrt(v) / (1 - self.beta2**averaged) ** 0.5 + self.eps
        back = {axis: xp.matrix_transpose(basis) for axis, basis in bases.items()}
        return [xp.astype(_rotated(back, _rotated(bases, _cast(u)) / scale), u.dtype, copy=False) for u in vectors]

    def _axes(self, shape: Sequence[int]) -> list[int]:
        """The sides that are rotated."""
        if len(shape) <= 1 or 0 in shape:
            return []
        return [axis for axis, n in enumerate(shape) if 1 < n <= self.largest_side]


def _check(beta2: float, eps: float, every: int, largest_side: int) -> None:
    if not 0 <= beta2 < 1:
        raise ValueError(f"beta2 must be in [0, 1), got {beta2}.")
    if not eps > 0:
        raise ValueError(f"eps must be > 0, got {eps}.")
    for name, value in (("every", every), ("largest_side", largest_side)):
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} must be a whole number >= 1, got {value!r}.")


# --- tensors ---------------------------------------------------------------------------------------------------------


def _at_least_float32(x: Array) -> Any:
    xp = namespace(x)
    return x.dtype if x.dtype == xp.float64 else xp.float32


def _cast(x: Array) -> Array:
    return namespace(x).astype(x, _at_least_float32(x), copy=False)


def _sides(shape: Sequence[int]) -> tuple[int, ...]:
    """The sides that count: a vector or a number written with sides of length 1 is a vector or a number."""
    return tuple(n for n in shape if n != 1) or (1,)


def _cuts(n: int, largest: int) -> list[slice]:
    """A side of length n in as few pieces of at most `largest` as will do, nearly equal; none for an empty side."""
    pieces = -(-n // largest)
    return [slice(n * i // pieces, n * (i + 1) // pieces) for i in range(pieces)]


def _gram(x: Array, axis: int) -> Array:
    """M Mᵀ for the unfolding M of x along one side."""
    xp = namespace(x)
    unfolded = xp.reshape(xp.moveaxis(x, axis, 0), (x.shape[axis], -1))
    return unfolded @ xp.matrix_transpose(unfolded)


def _along(matrix: Array, x: Array, axis: int) -> Array:
    """x ×_axis matrix."""
    xp = namespace(x)
    return xp.moveaxis(xp.tensordot(matrix, x, axes=([1], [axis])), 0, axis)


def _rotated(bases: dict[int, Array], x: Array) -> Array:
    """x in the bases: multiplied by the transposed basis along each of its sides."""
    for axis, basis in bases.items():
        x = _along(namespace(x).matrix_transpose(basis), x, axis)
    return x


# --- factors ---------------------------------------------------------------------------------------------------------


def _scale(factor: Array) -> Array:
    """The largest entry of a factor, by which it is divided so that nothing over- or underflows; 1 if it is zero."""
    xp = namespace(factor)
    size = xp.max(xp.linalg.diagonal(factor))
    return xp.where(size > 0, size, xp.ones_like(size))


def _eigh(matrix: Array) -> tuple[Array, Array] | None:
    """Eigenvalues, rising, and eigenvectors; None if they are not found in float64 either."""
    xp = namespace(matrix)
    for kind in (matrix.dtype, xp.float64):
        try:
            values, vectors = xp.linalg.eigh(xp.astype(matrix, kind, copy=False))
        except xp.linalg.LinAlgError:
            continue
        return xp.astype(values, matrix.dtype, copy=False), xp.astype(vectors, matrix.dtype, copy=False)
    return None


def _finite(new: Array) -> Array:
    """Whether all of it is finite, as an array, so that the choice of new or old does not wait for the device."""
    return namespace(new).all(namespace(new).isfinite(new))


def _inverse_root(factor: Array, correction: float, power: float, eps: float, old: Array) -> Array:
    """(L + eps·λ_max(L)·I)^(-power) of L = factor / correction; the old root if it cannot be had."""
    xp, scale = namespace(factor), _scale(factor)
    found = _eigh(factor / scale)
    if found is None:
        return old
    values, vectors = xp.maximum(found[0], xp.zeros_like(found[0])), found[1]
    largest, one = values[-1], xp.ones_like(scale)
    top = xp.maximum(largest, one)  # it is at least the largest entry, 1
    ridge = xp.where(largest > 0, eps * one, one)  # all eigenvalues zero: the identity
    half = vectors * (values / top + ridge) ** (-power / 2)  # half · halfᵀ is symmetric to the last digit
    root = half @ xp.matrix_transpose(half) * xp.where(largest > 0, scale * top / correction, one) ** -power
    return xp.where(_finite(root), root, old)


def _eigenbasis(factor: Array, old: Array) -> Array:
    """Its eigenvectors as columns, by falling eigenvalue; the old basis if they cannot be had."""
    xp = namespace(factor)
    found = _eigh(factor / _scale(factor))
    if found is None:
        return old
    basis = xp.flip(found[1], axis=1)
    return xp.where(_finite(basis), basis, old)


def _turned(factor: Array, basis: Array, v: Array, axis: int) -> tuple[Array, Array]:
    """The basis after one power iteration, columns sorted, and v sorted with them; both as they were if it fails."""
    xp = namespace(factor)
    product = (factor / _scale(factor)) @ basis
    order = xp.argsort(-xp.sum(basis * product, axis=0))
    turned, _ = xp.linalg.qr(xp.take(product, order, axis=1))
    good = _finite(turned)
    return xp.where(good, turned, basis), xp.where(good, xp.take(v, order, axis=axis), v)
