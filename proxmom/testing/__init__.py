"""Does an optimizer live well inside torch? `check_optimizer` asks some forty questions of any optimizer class.

Each row of the table is one habit of torch or of those who train with it: saving and loading, late gradients, layouts,
half precision, schedulers, scalers, copies. `ROWS` lists them, each with one sentence.
"""

from proxmom.testing.check import check_optimizer
from proxmom.testing.report import Report, Result, side_by_side
from proxmom.testing.row import Row
from proxmom.testing.table import ROWS

__all__ = ["ROWS", "Report", "Result", "Row", "check_optimizer", "side_by_side"]
