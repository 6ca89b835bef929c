"""What `minimize` decides, whatever holds the arrays: which steps stand, how long the next try is, when a run ends.

Everything here is written over numbers of one evaluation: values of f, lengths and slopes. They are Python floats for
one problem, and NumPy arrays (N,) for N problems at once. A backend works them out, and carries out what is decided.
"""

from proxmom.guard.criteria import Criteria, message
from proxmom.guard.curved import CurvedJudge, cubic
from proxmom.guard.judge import Judge, Way

__all__ = ["Criteria", "CurvedJudge", "Judge", "Way", "cubic", "message"]
