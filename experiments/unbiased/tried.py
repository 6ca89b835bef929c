"""What else was tried: other ways to weigh memory, a second memory, and a choice among the four heights.

    python experiments/unbiased/tried.py

writes tried.csv beside this file and prints what the README states; an hour on two cores. It may be stopped at any
time: what is done is kept in results/unbiased. The instances, lr and targets are those of `unbiased.py`: evaluations on
exact gradients, and the error of the averaged weights under mini-batches.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import unbiased
from tqdm import tqdm
from unbiased import MISS, PredictableMemory

from proxmom import Plane, SteadyMemory, mix
from proxmom.now import Now
from proxmom.planes import namespace
from proxmom.study.run.parts import kept


@dataclass(frozen=True)
class Raised:
    """What a rule sees, with every inner product raised to a power."""

    now: Now
    power: float

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)

    def dot(self, u: Any, v: Any) -> Any:
        return self.now.dot(u, v) ** self.power


@dataclass(frozen=True)
class NoiseOf(SteadyMemory):
    """Steady memory that reads the noise from another power of the gradient's norm than its root."""

    power: float = 1.0

    def _steadiness(self, now: Any) -> Any:
        return super()._steadiness(Raised(now, 2 * self.power))


@dataclass(frozen=True)
class SecondMemory:
    """Adaptive memory and a third plane, an average of gradients over `horizon` steps."""

    horizon: float = 10.0
    height: str = "linearised"
    beta_max: ClassVar[float] = 0.9

    @property
    def memories(self) -> Mapping[str, float]:
        return {"slow": 1 / self.horizon}

    @property
    def needs_loss(self) -> bool:
        return self.height != "linearised"

    def planes(self, now: Now) -> Sequence[Plane]:
        current, slow = now.gradient_plane, now.vector("slow")
        height = now.rise
        if self.needs_loss:
            height = now.previous_loss - now.loss + now.dot_last_move(slow)
        weight = now.weight(self.beta_max)
        return current, mix(current, now.memory_plane(), weight), mix(current, Plane(slow, height), weight)


@dataclass(frozen=True)
class ChosenHeight:
    """Adaptive memory whose plane has the lowest, the middle or the highest of several heights."""

    choice: str
    heights: tuple[str, ...] = ("linearised", "previous value", "cutting plane", "aggregated")
    beta_max: ClassVar[float] = 0.9
    needs_loss: ClassVar[bool] = True

    def planes(self, now: Now) -> Sequence[Plane]:
        xp, current = namespace(now.step), now.gradient_plane
        found = xp.sort(xp.stack([now.memory_plane(height).height + 0 * now.step for height in self.heights]), axis=0)
        middle = (found[(len(self.heights) - 1) // 2] + found[len(self.heights) // 2]) / 2
        height = {"lowest": found[0], "middle": middle, "highest": found[-1]}[self.choice]
        return current, mix(current, now.memory_plane(height), now.weight(self.beta_max))


TRIED: dict[str, tuple[Any, float]] = {  # rule, inertia
    **{f"predictable, averages over {h}": (PredictableMemory(horizon=h), 0.0) for h in (1, 3, 10)},
    **{f"noise of the norm to the power {p:g}": (NoiseOf(power=p), 0.1) for p in (1, 2)},
    **{f"second memory over {h}, linearised": (SecondMemory(h), 0.0) for h in (1, 2, 10, 50)},
    **{f"second memory over {h}, cutting plane": (SecondMemory(h, "cutting plane"), 0.0) for h in (1, 2, 10, 50)},
    "lowest of linearised and cutting plane": (ChosenHeight("lowest", ("linearised", "cutting plane")), 0.0),
    **{f"{choice} of four heights": (ChosenHeight(choice), 0.0) for choice in ("lowest", "middle", "highest")},
}
unbiased.RULES.update(TRIED)
SINGLE = [name for name in TRIED if name.startswith(("predictable", "noise"))]  # those that mini-batches are shown


def run(job: tuple[Callable[..., list[list[Any]]], str, Any]) -> list[list[Any]]:
    what, name, index = job
    if what is unbiased.counts:
        return [["evaluations", *row] for row in what(name, index)]
    return [
        ["error", rule, f"{data}, batch {batch}, seed {seed}", error] for rule, batch, data, seed, error in what(name)
    ]


def tell(rows: Sequence[Sequence[Any]]) -> None:
    """The table of the README."""
    reference = {row[1]: row[2] for row in unbiased.committed() if row[0] == "adaptive memory"}
    print("over adaptive memory's evaluations on 28 instances; misses; error at batch 1, 8, 64")
    for name in TRIED:
        found = {row[2]: row[3] for row in rows if list(row[:2]) == ["evaluations", name]}
        ratios = np.array([[count / reference[problem]] for problem, count in found.items()])
        misses = sum(count == MISS for count in found.values())
        errors = [
            np.mean([row[3] for row in rows if list(row[:2]) == ["error", name] and f"batch {batch}," in row[2]])
            for batch in (unbiased.BATCHES if name in SINGLE else ())
        ]
        print(f"| {name} | {unbiased.interval(ratios)} | {misses} | {', '.join(f'{e:.2%}' for e in errors)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    work = [(unbiased.errors, name, None) for name in SINGLE]
    work += [(unbiased.counts, name, index) for name in TRIED for index in range(28)]
    with ProcessPoolExecutor(parser.parse_args().jobs) as pool:
        found = pool.map(kept(run, unbiased.PARTS, unbiased.INSTANCES), work)
        parts = list(tqdm(found, total=len(work), disable=None, desc="tried"))
    rows = reduce(list.__add__, parts)
    unbiased.write("tried.csv", ("what", "rule", "of", "value"), rows)
    tell(rows)


if __name__ == "__main__":
    main()
