"""A rule of one's own, with two memories beside the direction of the last step."""

from dataclasses import dataclass

from proxmom import Plane, mix
from proxmom.memories import Average


@dataclass(frozen=True)
class TwoSpeeds:
    """The gradient plane, and the planes of a fast and of a slow average, each mixed with it."""

    beta_max: float = 0.9
    fast: float = 0.1
    slow: float = 0.02

    @property
    def memories(self):
        return {name: Average(getattr(self, name), start="gradient") for name in ("fast", "slow")}

    def planes(self, now):
        current, share = now.gradient_plane, now.weight(self.beta_max)
        averages = [Plane(now.vector(name), now.rise) for name in self.memories]
        return current, *(mix(current, average, share) for average in averages)


@dataclass(frozen=True)
class Descent:
    """Gradient descent, written once more."""

    def planes(self, now):
        return now.gradient_plane
