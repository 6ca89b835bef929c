"""How far a study is: a bar of runs or, in a training study, of steps, which its runs have recorded."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from proxmom.notebook import cell_output
from proxmom.study.record import store
from proxmom.study.record.run import METRICS

EVERY = 1.0  # seconds between looks at what runs have recorded
NARROW = 78  # characters, for a notebook says not how wide it is


class Progress:
    """A bar on stderr or below a notebook's cell, while the cells with these keys are run; a context manager.

    Args:
        folder: of the study's results.
        keys: of the runs to do.
        steps: of each run, in a training study; else 0, and runs are counted.
        quiet: whether to hide the bar; None: shown in a notebook, and if stderr is a terminal.
    """

    def __init__(self, folder: Path, keys: Sequence[str], steps: int, quiet: bool | None) -> None:
        self._folder, self._left, self._steps = folder, list(keys), steps
        unit = {"unit": "step", "unit_scale": True} if steps else {"unit": "run"}
        self._bar = _bar(len(keys) * max(steps, 1), quiet, **unit)
        self._over = threading.Event()
        self._before = sum(map(self._taken, keys)) if steps and not self._bar.disable else 0
        self._bar.initial = self._bar.n = self._before  # the time left is guessed from this start alone
        self._done = 0

    def __enter__(self) -> Progress:
        if self._steps and not self._bar.disable:
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._bar.close()

    def advance(self, runs: int) -> None:
        """Counts runs that are done."""
        if not self._steps:
            self._bar.update(runs)

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            left = store.pending(self._folder, self._left)
            self._done += len(self._left) - len(left)
            self._left = left
            self._bar.set_postfix_str(f"{self._done} of {self._done + len(left)} runs", refresh=False)
            self._bar.n = self._done * self._steps + sum(map(self._taken, left))
            self._bar.refresh()

    def _taken(self, key: str) -> int:
        """The step that an unfinished run recorded last; 0 if none."""
        try:
            lines = (store.run_directory(self._folder, key) / METRICS).read_bytes().splitlines()
            return int(json.loads(lines[-1])["step"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return 0


class _BelowCell(tqdm):  # type: ignore[misc]
    """A bar that a notebook shows below the running cell, where its last state stays."""

    def __init__(self, show: Callable[[str], None], **settings: Any) -> None:
        self._show = show
        super().__init__(file=io.StringIO(), leave=True, disable=False, **settings)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        self._show(str(self) if msg is None else msg)


def _bar(total: int, quiet: bool | None, **unit: Any) -> tqdm:
    show = None if quiet or not total else cell_output()
    if show:
        return _BelowCell(show, total=total, ncols=NARROW, **unit)
    return tqdm(total=total, disable=quiet, leave=False, file=sys.stderr, **unit)
