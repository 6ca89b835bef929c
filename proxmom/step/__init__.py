"""One step, written once for all backends: inner products -> planes -> weights -> coefficients of the new direction.

A backend keeps the arrays. For each of its T tensors it measures inner products of the named vectors (`Products`), asks
`Step.take` what to do, and then combines and moves (`Outcome`). Everything here has the size of the model of planes:
T tensors, S scopes (one for the whole model, or one per tensor), B named vectors, K planes.
"""

from proxmom.step.method import DECAYS, Method
from proxmom.step.records import MEMORY, Glance, Inputs, Narrowing, Outcome, Products, Scalars, Scope, Solution
from proxmom.step.take import Step, observe

__all__ = [
    "DECAYS",
    "MEMORY",
    "Glance",
    "Inputs",
    "Method",
    "Narrowing",
    "Outcome",
    "Products",
    "Scalars",
    "Scope",
    "Solution",
    "Step",
    "observe",
]
