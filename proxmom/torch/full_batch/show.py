"""A bar on stderr while `minimize` runs."""

from __future__ import annotations

import sys
import time
from typing import Any

import click
import numpy as np

from proxmom.torch.full_batch.descent import Descent

EVERY = 0.1  # seconds between looks at the numbers


class Bar:
    """How many of max_iter steps were tried, with f and the gradient, or how many problems go on; a context manager."""

    def __init__(self, shown: bool, max_iter: int) -> None:
        self._bar: Any = None
        self._done, self._last = 0, 0.0
        if shown:
            self._bar = click.progressbar(
                length=max_iter, label="minimize", item_show_func=lambda said: said, show_pos=True, file=sys.stderr
            )

    def __enter__(self) -> Bar:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)

    def show(self, descent: Descent) -> None:
        """How far it is."""
        over = not np.any(descent.going)
        if self._bar is None or (time.monotonic() - self._last < EVERY and not over):
            return
        done = int(np.max(descent.tried))
        if descent.count is None:
            share = descent.here.size / descent.first_size if descent.first_size else 0.0
            said = f"f {descent.here.told:.6g}, gradient {share:.1e} of the first"
        else:
            said = f"{int(np.sum(descent.going))} of {descent.count} go on"
        self._bar.update(done - self._done, said)
        self._done, self._last = done, time.monotonic()
