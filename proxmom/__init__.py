"""proxmom: momentum optimizers as exact proximal steps on a model of planes.

A momentum optimizer is (which planes model the loss) × (which metric measures a move) × (where the arrays live), and
one small exact solver joins them. Rules, metrics and norms are here, and the backends in `proxmom.numpy` and
`proxmom.torch`.
"""

from __future__ import annotations

import importlib
from typing import Any

from proxmom.metrics import SOAP, AdaGrad, Adam, Euclidean, LInf, QuasiNewton, Shampoo, Spectral
from proxmom.planes import Plane, mix
from proxmom.rules import (
    AdaptiveMemory,
    ConjugateMemory,
    GradientDescent,
    HeavyBall,
    MoMo,
    Polyak,
    SteadyMemory,
    TruncatedMemory,
)
from proxmom.secant import Secant
from proxmom.stepsize import Alignment

__version__ = "0.1.0"
__all__ = [
    "SOAP",
    "AdaGrad",
    "Adam",
    "AdaptiveMemory",
    "Alignment",
    "ConjugateMemory",
    "Euclidean",
    "GradientDescent",
    "HeavyBall",
    "LInf",
    "MoMo",
    "Plane",
    "Polyak",
    "QuasiNewton",
    "Secant",
    "Shampoo",
    "Spectral",
    "SteadyMemory",
    "TruncatedMemory",
    "mix",
]


def __getattr__(name: str) -> Any:
    """Backends are imported when they are first asked for, so that `import proxmom` stays light."""
    if name in ("kernels", "numpy", "testing", "torch", "verify"):
        return importlib.import_module(f"proxmom.{name}")
    raise AttributeError(f"module 'proxmom' has no attribute {name!r}")
