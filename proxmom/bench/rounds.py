"""Timing in interleaved rounds, so that a slow moment of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
LEAST, MOST, SECONDS = 7, 60, 20.0


def seconds(task: Callable[[], Any]) -> float:
    """Wall clock of one call."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def take_turns(tasks: Mapping[str, Callable[[], T]], *, rounds: int | None = None, seed: int = 0) -> dict[str, list[T]]:
    """Times of each task, one in each round.

    Args:
        tasks: each runs once and returns its seconds, or those of several steps; their order in a round is random.
        rounds: how many; None means 7 to 60, until 20 seconds are over. When to stop depends on the sum of all times,
            so it favours nobody.
        seed: of the order.
    """
    random = np.random.default_rng(seed)
    names, start, done = list(tasks), time.perf_counter(), 0
    times: dict[str, list[T]] = {name: [] for name in names}
    while not _enough(done, time.perf_counter() - start, rounds):
        for i in random.permutation(len(names)):
            times[names[i]].append(tasks[names[i]]())
        done += 1
    return times


def _enough(done: int, spent: float, rounds: int | None) -> bool:
    if rounds is not None:
        return done >= rounds
    return done >= MOST or (done >= LEAST and spent >= SECONDS)
