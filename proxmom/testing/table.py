"""The table: all rows, in the order in which they are shown."""

from __future__ import annotations

from proxmom.testing import rows_cost, rows_groups, rows_kinds, rows_precision, rows_state, rows_step
from proxmom.testing.row import Row

PARTS = (rows_step, rows_groups, rows_state, rows_precision, rows_kinds, rows_cost)
ROWS: dict[str, Row] = {row.name: row for part in PARTS for row in vars(part).values() if isinstance(row, Row)}
