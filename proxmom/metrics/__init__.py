"""The metrics. A metric measures a move: ||z||²_P = <z, P z>; the step asks it for P⁻¹ of the gradient and of memory.

Diagonal ones are element-wise formulas, operators see a whole tensor, those of low rank the inner products of past
moves, and norms are not Euclidean; `protocol` says what one of your own needs.
"""

from __future__ import annotations

from typing import Any

from proxmom.metrics.diagonal import AdaGrad, Adam, Euclidean
from proxmom.metrics.kronecker import SOAP, Shampoo
from proxmom.metrics.norms import LInf, Spectral
from proxmom.metrics.protocol import Diagonal, Expansion, LowRank, Metric, Norm, Operator, SeesMove, State, kind_of
from proxmom.metrics.quasi_newton import QuasiNewton

__all__ = [
    "METRICS",
    "SOAP",
    "AdaGrad",
    "Adam",
    "Diagonal",
    "Euclidean",
    "Expansion",
    "LInf",
    "LowRank",
    "Metric",
    "Norm",
    "Operator",
    "QuasiNewton",
    "SeesMove",
    "Shampoo",
    "Spectral",
    "State",
    "kind_of",
]

METRICS: dict[str, Any] = {
    metric.__name__: metric for metric in (Euclidean, Adam, AdaGrad, Shampoo, SOAP, QuasiNewton, LInf, Spectral)
}
