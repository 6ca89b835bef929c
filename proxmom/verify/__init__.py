"""Rules against an independent convex solver, and against each other.

`check_rule` judges one setting, `check_settings` a table of them; `check_same` says whether two rules are one;
`sample_state` gives the states in which all of them look.
"""

from proxmom.verify.cases import Trial
from proxmom.verify.check import Report, check_rule
from proxmom.verify.same import Difference, Sameness, check_same
from proxmom.verify.settings import Setting, check_settings, table
from proxmom.verify.states import Shown, State, sample_state

__all__ = [
    "Difference",
    "Report",
    "Sameness",
    "Setting",
    "Shown",
    "State",
    "Trial",
    "check_rule",
    "check_same",
    "check_settings",
    "sample_state",
    "table",
]
