"""The judging over arrays is the judging over floats, problem by problem, whatever the numbers are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from proxmom.guard import Criteria, CurvedJudge, Way, cubic, message
from proxmom.guard.criteria import check
from proxmom.guard.curved import cut
from proxmom.guard.judge import GOES_ON, STALLED, TRIES
from proxmom.guard.numbers import divide, finite, largest, least, no, root, some, where

COUNT, ROUNDS = 60, 40


def steps(random: Any, count: int) -> Any:
    """Numbers of a step for each problem: falls, rises, rounding, infinities and zeros."""

    def pick(values: list[float]) -> Any:
        return random.choice(values, count) * random.choice([1.0, -1.0, 0.3], count)

    old_f, size, length = (
        1 + random.random(count),
        random.random(count) + 0.1,
        random.choice([1e-9, 0.1, 1.0, 20], count),
    )
    change = random.choice([-0.3, -1e-3, -1e-16, 0.0, 1e-16, 1e-12, 0.1, np.inf, np.nan], count)
    return {
        "old_f": old_f,
        "new_f": old_f + change,
        "old_size": size,
        "new_size": size * random.choice([0.1, 0.95, 1.0, 2.0, np.inf], count, p=[0.2, 0.2, 0.2, 0.35, 0.05]),
        "length": length,
        "turn": np.abs(pick([0.0, 1e-3, 1.0, 5.0])),
        "before": -size * length,
        "after": pick([0.0, 1e-3, 1.0]) * length,
        "shows": length > 1e-8,
    }


def way(numbers: dict[str, Any], shake: Any) -> Way:
    step = Way()
    for end in ("old", "new"):
        f, size = numbers[f"{end}_f"], numbers[f"{end}_size"]
        setattr(step, end, SimpleNamespace(f=f, size=size, finite=finite(f) & finite(size)))
    for name in ("length", "turn", "before", "after", "shows"):
        setattr(step, name, numbers[name])
    step.shake = shake
    return step


def judged(judge: CurvedJudge, criteria: Criteria, step: Way, lr: Any, here: Any) -> tuple[Any, ...]:
    with np.errstate(all="ignore"):
        kept = judge.lowers(step)
        criteria.sizes.append(step.new.size)
        step.shows = step.shows & kept
        met = kept & criteria.met(step, here, lambda: here, lambda: step.new.size)
        again = judge.retry(step, lr)
        judge.mark(step, kept)
        judge.settle(step.new.finite, kept)
        return kept, met, judge.improved, *again, judge.ends(), cubic(step, 0.05)


@pytest.mark.parametrize("gmax", [None, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_arrays_are_judged_as_floats_are(seed: int, gmax: float | None) -> None:
    random = np.random.default_rng(seed)
    many, criteria = CurvedJudge(COUNT), Criteria(0.5, gmax)
    one, own = [CurvedJudge() for _ in range(COUNT)], [Criteria(0.5, gmax) for _ in range(COUNT)]
    start = steps(random, COUNT)
    many.begin(SimpleNamespace(f=start["old_f"], size=start["old_size"]))
    criteria.sizes.append(start["old_size"])
    for i in range(COUNT):
        one[i].begin(SimpleNamespace(f=float(start["old_f"][i]), size=float(start["old_size"][i])))
        own[i].sizes.append(float(start["old_size"][i]))
    for _ in range(ROUNDS):
        numbers, lr, here = steps(random, COUNT), random.random(COUNT), random.choice([1e-3, 1e7], COUNT)
        shake = random.choice([0.0, 1e-10], COUNT)
        found = judged(many, criteria, way(numbers, shake), lr, here)
        for i in range(COUNT):
            single = {name: value[i].item() for name, value in numbers.items()}
            alone = judged(one[i], own[i], way(single, float(shake[i])), float(lr[i]), float(here[i]))
            np.testing.assert_equal([part[i] for part in found], list(alone))
            for name, value in one[i].state().items():
                np.testing.assert_equal(getattr(many, name)[i], value, err_msg=name)


def test_of_the_draws_all_endings_are_seen() -> None:
    """Else the test above says little."""
    random, judge = np.random.default_rng(0), CurvedJudge(COUNT)
    judge.begin(SimpleNamespace(f=np.full(COUNT, 2.0), size=np.ones(COUNT)))
    seen: set[tuple[bool, bool]] = set()
    for _ in range(ROUNDS):
        step = way(steps(random, COUNT), 0.0)
        with np.errstate(all="ignore"):
            kept, rounds = judge.lowers(step), step.rounds
        seen |= set(zip(kept.tolist(), rounds.tolist(), strict=True))
    assert len(seen) == 4


@pytest.mark.parametrize("curved", [True, False])
@pytest.mark.parametrize("free", [True, False])
def test_lengths_are_chosen_alike(curved: bool, free: bool) -> None:
    random = np.random.default_rng(1)
    draws = random.choice([0.0, 1e-12, 0.1, 1.0, 50.0, np.inf], (7, 300))
    names = ("length", "slope", "size", "lr", "longest", "level", "ratio")
    numbers = dict(zip(names, draws, strict=True))
    numbers["slope"] = -numbers["slope"]

    def chosen(of: dict[str, Any], truth: Any) -> Any:
        first = [of.pop(name) for name in names[:4]]
        with np.errstate(all="ignore"):
            return cut(*first, curved=truth(curved), free=truth(free), **of)

    many = chosen(dict(numbers), lambda value: np.full(300, value))
    for i in range(300):
        alone = chosen({name: float(value[i]) for name, value in numbers.items()}, bool)
        np.testing.assert_equal([many.forget[i], many.lr[i]], [alone.forget, alone.lr])


def test_what_it_knew_comes_back_where_it_is_asked_for() -> None:
    judge = CurvedJudge(3)
    judge.begin(SimpleNamespace(f=np.ones(3), size=np.ones(3)))
    before = judge.state()
    judge.settle(np.array([True] * 3), np.array([False] * 3))
    judge.restore(before, np.array([True, False, True]))
    np.testing.assert_array_equal(judge.undone, [0, 1, 0])


def test_only_steps_that_stand_count_as_weak() -> None:
    judge = CurvedJudge(2)
    judge.begin(SimpleNamespace(f=np.full(2, 9.0), size=np.ones(2)))
    numbers = {name: np.ones(2) for name in ("old_f", "new_f", "old_size", "new_size", "length", "turn", "after")}
    numbers |= {"new_f": np.array([0.999, 1.1]), "before": -np.ones(2), "shows": np.array([True, True])}
    np.testing.assert_array_equal(judge.lowers(way(numbers, 0.0)), [True, False])
    np.testing.assert_array_equal(judge.weak, [1, 0])


def test_runs_end_after_so_many_tries_or_steps_that_lead_nowhere() -> None:
    judge = CurvedJudge(3)
    judge.tries, judge.stalled = np.array([TRIES, 0, TRIES - 1]), np.array([0, STALLED, STALLED - 1])
    judge.was_finite = np.array([False, True, True])
    np.testing.assert_array_equal(judge.ends(), [2, 3, GOES_ON])


def test_floats_and_arrays_have_one_arithmetic() -> None:
    a, b = np.array([1.0, -2.0, np.nan, 0.0]), np.array([0.5, 3.0, 1.0, -0.0])
    for function in (least, largest, divide):
        with np.errstate(all="ignore"):
            many = function(a, np.where(b == 0, 1.0, b))
        np.testing.assert_equal(
            many.tolist(), [function(x, y or 1.0) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        )
    for alone in (root, finite):
        np.testing.assert_equal(alone(a).tolist(), [alone(x) for x in a.tolist()])
    assert divide(1.0, 0.0) == np.inf
    assert (no(True), no(False), some(True), where(False, 1, 2)) == (False, True, True, 2)
    np.testing.assert_array_equal(no(np.array([True, False])), [False, True])
    assert some(np.array([False, True]))


def test_rounding_is_told_where_it_ended_the_run() -> None:
    said = message(3, 1e-8, None, 1.0, 1e-3, 1e-3, 2e-6)
    assert "2.0e-06 of its value" in said
    assert "Rounding moves" not in message(0, 1e-8, None, 1.0, 1e-3, 1e-3, 2e-6)
    assert "Rounding moves" not in message(3, 1e-8, None, 1.0, 1e-3, 1e-3)


@pytest.mark.parametrize("bad", [(-1.0, None, 1), (np.nan, None, 1), (0.0, -1.0, 1), (0.0, None, -1)])
def test_limits_that_are_none_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="must be >= 0"):
        check(*bad)
