"""Seconds beside the counts: what a method costs per evaluation besides fun, ours and SciPy's.

    python experiments/tuning_free/overhead.py [--repeats 7]      # minutes; writes overhead.txt beside this file
    python experiments/tuning_free/overhead.py --n 100 --repeats 1   # nothing is written

One thread, and its processor time, so that what else the machine does counts little. fun is a diagonal quadratic; the
time between its end and its next call is counted, from when all pairs are there to the last evaluation. Every repeat
runs all methods, one after the other, in the opposite order of the repeat before; a ratio is taken within a repeat,
and the median over repeats is told.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import rivals
import scipy
import variants
from threadpoolctl import threadpool_limits

from proxmom.metrics import QuasiNewton

SIZES, PAIRS, WARM, LAST = (100, 100_000, 1_000_000), (10, 20), 25, 50
SEVERAL = {100: 21}  # how many runs make a repeat, where it is not one
Runs = dict[tuple[str, int | None], list[float]]  # by method and pairs: seconds per evaluation, repeat by repeat


class _Enough(Exception):
    pass


def outside(method: Callable[[Any, Any], None], n: int) -> float:
    """Seconds per evaluation spent outside fun, from evaluation WARM to LAST."""
    curvature, entered, left = np.geomspace(1.0, 1e3, n), list[float](), list[float]()

    def fun(x: Any) -> tuple[float, Any]:
        entered.append(time.thread_time())
        if len(entered) == LAST:
            raise _Enough
        gradient = curvature * x
        value = 0.5 * float(x @ gradient)
        left.append(time.thread_time())
        return value, gradient

    with contextlib.suppress(_Enough):
        method(fun, np.ones(n))
    if len(entered) < LAST:
        raise RuntimeError(f"the run must last {LAST} evaluations, got {len(entered)}: take a larger n.")
    return sum(b - a for a, b in zip(left[WARM:], entered[WARM + 1 :], strict=True)) / (LAST - WARM - 1)


def methods() -> dict[tuple[str, int | None], Callable[[Any, Any], None]]:
    """Method and its pairs, if it has any."""
    found: dict[tuple[str, int | None], Callable[[Any, Any], None]] = {}
    for pairs in PAIRS:
        found["L-BFGS-B", pairs] = partial(rivals.lbfgs, memory=pairs)
        found["minimize", pairs] = partial(variants.default, metric=QuasiNewton(pairs))
    found["CG", None] = rivals.nonlinear_cg
    found['minimize, memory="low"', None] = partial(variants.default, memory="low")
    return found


def measured(n: int, repeats: int) -> Runs:
    """All methods, repeat by repeat."""
    runs: Runs = {key: [] for key in methods()}
    for repeat in range(repeats):
        order = list(methods().items())
        for key, method in order if repeat % 2 else reversed(order):
            runs[key].append(median(outside(method, n) for _ in range(SEVERAL.get(n, 1))))
    return runs


def lines(n: int, runs: Runs) -> list[str]:
    """The rows of one size: milliseconds, and the ratio to the method of SciPy that is its like."""
    made = []
    for (name, pairs), seconds in runs.items():
        like = ("L-BFGS-B", pairs) if pairs else ("CG", None)
        ratios = sorted(a / b for a, b in zip(seconds, runs[like], strict=True))
        spread = f"{median(ratios):8.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        made.append(f"{n:9}  {name:24}{pairs or '':>6}{1e3 * median(seconds):10.3f}{spread:>24}")
    return made


def processor() -> str:
    """Its name, where the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def table(sizes: list[int], repeats: int) -> str:
    """Everything, as text, with the load before and after."""
    before = os.getloadavg()[0]
    body = [line for n in sizes for line in [*lines(n, measured(n, repeats)), ""]]
    head = [
        f"Milliseconds of processor time per evaluation besides fun; one thread, {processor()}, {os.cpu_count()} CPUs",
        f"NumPy {np.__version__}, SciPy {scipy.__version__}; {repeats} repeats; "
        f"load of the machine {before:.1f} before and {os.getloadavg()[0]:.1f} after, itself included",
        "",
        f"{'n':>9}  {'method':24}{'pairs':>6}{'ms':>10}{'over SciPy [range]':>24}",
    ]
    return "\n".join([*head, *body])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--n", type=int, action="append", help="only this size; may be given again; nothing is written")
    options = parser.parse_args()
    with threadpool_limits(1):
        text = table(options.n or list(SIZES), options.repeats)
    print(text, end="")
    if not options.n:
        (Path(__file__).parent / "overhead.txt").write_text(text)


if __name__ == "__main__":
    main()
