"""The NumPy backend: `minimize` with SciPy's conventions, and the stateful `Optimizer`. Readable first."""

from proxmom.numpy.as_scipy import scipy_method
from proxmom.numpy.minimize import minimize
from proxmom.numpy.optimizer import Optimizer
from proxmom.numpy.runs import Runs

__all__ = ["Optimizer", "Runs", "minimize", "scipy_method"]
