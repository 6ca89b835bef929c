"""Metrics that are not element-wise, for the tests of those: in NumPy and torch alike, and as plain as can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from proxmom.planes import namespace


@dataclass(frozen=True)
class Full:
    """AdaGrad's full matrix, for each tensor; eps is relative. It counts its gradients, and can do without memory."""

    memory_from_gradient: ClassVar[bool] = False

    def start(self, x: Any) -> Any:
        n, xp = namespace(x).reshape(x, (-1,)).shape[0], namespace(x)
        return {"outer": xp.zeros((n, n), dtype=x.dtype, device=x.device), "count": 0}

    def update(self, state: Any, gradient: Any) -> Any:
        assert type(state["count"]) is int
        flat = namespace(gradient).reshape(gradient, (-1,))
        return {"outer": state["outer"] + flat[:, None] * flat[None, :], "count": state["count"] + 1}

    def images(self, state: Any, vectors: Any) -> Any:
        xp = namespace(state["outer"])
        values, basis = xp.linalg.eigh(state["outer"] / state["count"])
        size = values[-1] if len(values) else 1.0
        root = (values.clip(0) + 1e-2 * size) ** 0.5
        return [xp.reshape(basis @ ((basis.T @ xp.reshape(v, (-1,))) / root), v.shape) for v in vectors]


@dataclass(frozen=True)
class Normed:
    """P = the root mean square of the tensor's gradients: a diagonal that depends on the whole tensor."""

    memory_from_gradient: ClassVar[bool] = True

    def start(self, x: Any) -> Any:
        xp = namespace(x)
        return {"square": xp.zeros((), dtype=x.dtype, device=x.device), "like": xp.zeros_like(x)}

    def update(self, state: Any, gradient: Any) -> Any:
        xp = namespace(gradient)
        square = state["square"] + xp.mean(gradient**2) if 0 not in gradient.shape else state["square"]
        return {"square": square, "like": gradient}

    def diagonal(self, state: Any, factor: Any) -> Any:
        return namespace(state["like"]).ones_like(state["like"]) * state["square"] ** 0.5 * factor


@dataclass(frozen=True)
class Secants:
    """A diagonal that sees the last move: 1 plus the sum of its squares."""

    memory_from_gradient: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    sees_move: ClassVar[bool] = True

    def start(self, x: Any) -> Any:
        return {"p": namespace(x).ones_like(x)}

    def update(self, state: Any, gradient: Any, move: Any) -> Any:
        return {"p": state["p"] + move * move}

    def diagonal(self, state: Any, factor: Any) -> Any:
        return state["p"] * factor


@dataclass(frozen=True)
class Turned:
    """An operator that sees the last move: I plus its outer product."""

    memory_from_gradient: ClassVar[bool] = True
    sees_move: ClassVar[bool] = True

    def start(self, x: Any) -> Any:
        return {"last": namespace(x).zeros_like(x)}

    def update(self, state: Any, gradient: Any, move: Any) -> Any:
        return {"last": move}

    def images(self, state: Any, vectors: Any) -> Any:
        last, xp = state["last"], namespace(state["last"])
        return [v + last * xp.sum(last * v) for v in vectors]
