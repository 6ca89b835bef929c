"""What rules say of themselves: ranges of their arguments, defaults, and facts."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from proxmom import (
    AdaptiveMemory,
    ConjugateMemory,
    GradientDescent,
    HeavyBall,
    MoMo,
    Polyak,
    SteadyMemory,
    TruncatedMemory,
)
from proxmom.memories import Average
from proxmom.rules import Facts

UNIT = ([0, 1, 0.5], [-1e-9, 1 + 1e-9, nan], "must be in")
FINITE = ([0, -1e300, 1e300], [inf, -inf, nan], "must be a finite number")
HEIGHT = (["linearised", "aggregated", "previous value", "cutting plane"], ["", "tall"], "must be one of")
RANGES = [  # rule, other arguments, argument, what is taken, what is refused, what is said
    (HeavyBall, {}, "beta", *UNIT),
    (AdaptiveMemory, {}, "beta_max", *UNIT),
    (AdaptiveMemory, {}, "height", *HEIGHT),
    (ConjugateMemory, {}, "beta_max", *UNIT),
    (ConjugateMemory, {}, "restart", [1e-300, inf], [0, -1, nan], "must be > 0"),
    (TruncatedMemory, {"lower_bound": 0}, "beta_max", *UNIT),
    (TruncatedMemory, {"lower_bound": 0}, "height", *HEIGHT),
    (TruncatedMemory, {}, "lower_bound", *FINITE),
    (Polyak, {}, "lower_bound", *FINITE),
    (MoMo, {}, "lower_bound", *FINITE),
    (MoMo, {"lower_bound": 0}, "beta", *UNIT),
    (SteadyMemory, {}, "beta_max", *UNIT),
    (SteadyMemory, {}, "horizon", [2, 2.5, inf], [1.999, -2, nan], "must be in"),
]


@pytest.mark.parametrize(
    ("rule", "others", "name", "taken", "refused", "said"), RANGES, ids=[f"{r[0].__name__}.{r[2]}" for r in RANGES]
)
def test_ranges_of_arguments(
    rule: Any, others: dict[str, Any], name: str, taken: list[Any], refused: list[Any], said: str
) -> None:
    for value in taken:
        assert getattr(rule(**others, **{name: value}), name) == value
    for value in refused:
        with pytest.raises(ValueError, match=f"{name} {said}.*, got "):
            rule(**others, **{name: value})


@pytest.mark.parametrize(
    ("rule", "beta_max", "normalised", "needs_loss"),
    [
        (GradientDescent(), 0.0, False, False),
        (HeavyBall(), 0.9, False, False),
        (AdaptiveMemory(), 0.9, False, False),
        (SteadyMemory(), 0.9, False, False),
        (TruncatedMemory(0.0), 0.9, True, True),
        (Polyak(0.0), 0.0, True, True),
        (MoMo(0.0), 0.9, True, True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_facts(rule: Any, beta_max: float, normalised: bool, needs_loss: bool) -> None:
    facts = Facts.of(rule)
    assert (facts.beta_max, facts.normalised, facts.needs_loss) == (beta_max, normalised, needs_loss)


class OfOnesOwn:
    """A rule that says what it is given."""

    def __init__(self, **facts: Any) -> None:
        vars(self).update(facts)

    def planes(self, now: Any) -> Any:
        return (now.gradient_plane,)


def test_facts_at_the_ends_of_their_ranges() -> None:
    kept = {"memories": {"slow": Average(1e-12), "last": Average(1.0)}, "scalars": {"level": -1e300, "_mean": 0.0}}
    facts = Facts.of(OfOnesOwn(beta_max=1.0, **kept))
    assert (facts.beta_max, facts.memories, facts.scalars) == (1.0, kept["memories"], kept["scalars"])
    assert Facts.of(OfOnesOwn()) == Facts()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"beta_max": 1 + 1e-9}, r"beta_max must be in \[0, 1\]"),
        ({"beta_max": -1e-9}, r"beta_max must be in \[0, 1\]"),
        ({"scalars": {"a level": 0.5}}, "scalars must map identifiers"),
        ({"scalars": {"level": inf}}, "scalars must map identifiers"),
        ({"scalars": {"level": nan}}, "scalars must map identifiers"),
    ],
)
def test_facts_out_of_range(wrong: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Facts.of(OfOnesOwn(**wrong))


@pytest.mark.parametrize(
    ("rule", "remedy"),
    [
        (HeavyBall, r"Pass an instance, e\.g\. HeavyBall\(\)"),
        ("HeavyBall", r"Pass an instance"),
        (object(), r"Define planes\(self, now\) in its class"),
    ],
    ids=["class", "name", "no rule"],
)
def test_what_is_no_rule(rule: Any, remedy: str) -> None:
    with pytest.raises(TypeError, match=remedy):
        Facts.of(rule)
