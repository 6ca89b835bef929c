"""A metric of one's own."""

from dataclasses import dataclass

from proxmom.planes import namespace


@dataclass(frozen=True)
class Scale:
    """P = the root of the sum of all squared gradients, coordinate by coordinate, but at least eps."""

    eps: float = 1e-3
    memory_from_gradient = True
    elementwise = True

    def start(self, x):
        return {"total": namespace(x).zeros_like(x)}

    def update(self, state, gradient):
        return {"total": state["total"] + gradient * gradient}

    def diagonal(self, state, factor):
        xp = namespace(state["total"])
        return (xp.sqrt(state["total"]) + self.eps) * factor
