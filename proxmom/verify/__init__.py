"""Rules against an independent convex solver: `check_rule` for one setting, `check_settings` for a table of them."""

from proxmom.verify.cases import Trial
from proxmom.verify.check import Report, check_rule
from proxmom.verify.settings import Setting, check_settings, table

__all__ = ["Report", "Setting", "Trial", "check_rule", "check_settings", "table"]
