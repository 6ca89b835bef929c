"""What `minimize` returns: SciPy's result, which shows of long arrays no more than their shapes."""

from __future__ import annotations

import numpy as np
from scipy.optimize import OptimizeResult

from proxmom.notebook import html_of


class Result(OptimizeResult):  # type: ignore[misc]
    """As scipy.optimize.OptimizeResult; `history`, a value for each step, is shown by its shapes."""

    def __repr__(self) -> str:
        short = dict(self)
        if "history" in short:
            short["history"] = ", ".join(f"{name} {np.shape(values)}" for name, values in self["history"].items())
        return repr(OptimizeResult(short))

    def _repr_html_(self) -> str:
        return html_of(repr(self))
