"""Numbers that are measured outside: declared, given with each step, and seen alike on every path."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from proxmom import Adam, AdaptiveMemory, Euclidean, GradientDescent, Plane, mix
from proxmom.memories import Combination
from proxmom.metrics import LInf
from proxmom.numpy import Optimizer, Runs, minimize
from proxmom.observed import Observed, declared, sampled, usual
from proxmom.rules import Facts
from proxmom.torch import ProxOptimizer
from proxmom.torch import optimizer as torch_optimizer
from proxmom.verify import check_rule, check_same
from proxmom.verify.states import sample_state
from tests.torch.test_paths import PATHS, path

NUMBERS = [{"noise": 0.1 * t, "trust": 2.0 - 0.3 * t} for t in range(5)]


@dataclass(frozen=True)
class Cautious:
    """A cap on memory that falls with the noise, a length that grows with trust; both are kept, and used again."""

    beta_max: float = 0.9
    observed: ClassVar[Any] = {"noise": Observed("the share of noise", typical=(0, 1)), "trust": ""}
    scalars: ClassVar[Any] = {"last": 0.0}
    memories: ClassVar[Any] = {"blend": Combination()}

    def planes(self, now: Any) -> Any:
        cap = self.beta_max * (1 - now.observed("noise"))
        length = now.observed("trust") + now.recall("last")
        return (
            mix(now.gradient_plane, now.memory_plane(), now.weight(0.5 * cap)),
            Plane(length * now.gradient + 0.1 * now.vector("blend"), -0.1),
        )

    def remember(self, now: Any) -> Any:
        return {"last": 0.5 * now.observed("trust"), "blend": now.observed("noise") * now.gradient}


class Paced:
    """A step size that looks outside as well."""

    observed = ("pace",)

    def factor(self, now: Any) -> Any:
        return now.observed("pace")


def numpy_steps(x: Any, rule: Any, given: Any, metric: Any, numbers: Any = NUMBERS) -> Any:
    optimizer = Optimizer(x, rule, lr=0.05, metric=metric)
    for g, seen in zip(given, numbers, strict=True):
        optimizer.step(g, observed=seen)
    return optimizer.x


@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@pytest.mark.parametrize("metric", [Euclidean(), Adam(beta2=0.9), LInf()], ids=str)
def test_all_paths_are_the_numpy_backend(metric: Any, scope: str) -> None:
    random = np.random.default_rng(1)
    xs = [random.normal(size=shape) for shape in ((3, 2), (5,), (4,))]
    given = [[random.normal(size=x.shape) for x in xs] for _ in NUMBERS]
    bounds = {"model": [0, 3], "group": [0, 2, 3], "tensor": [0, 1, 2, 3]}[scope]
    parts = [slice(*pair) for pair in itertools.pairwise(bounds)]
    expected = [x for part in parts for x in numpy_steps(xs[part], Cautious(), [g[part] for g in given], metric)]
    for name in PATHS:
        params = [nn.Parameter(torch.tensor(x)) for x in xs]
        groups = [{"params": params[:2]}, {"params": params[2:]}]
        with path(name, 4) as keyword:
            ours = ProxOptimizer(groups, Cautious(), 0.05, scope=scope, metric=metric, **keyword)
            for t, (g, seen) in enumerate(zip(given, NUMBERS, strict=True)):
                for p, each in zip(params, g, strict=True):
                    p.grad = torch.tensor(each)
                if t % 2:
                    ours.step(observed={key: torch.tensor(value) for key, value in reversed(seen.items())})
                else:
                    ours.observe(observed=seen)
                    ours.step()
            assert "not recorded" not in ours.path
        for p, x in zip(params, expected, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-6, atol=1e-7, err_msg=name)


def test_what_was_offered_is_for_one_step() -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = ProxOptimizer([p], Cautious(), 0.1)
    optimizer.observe(observed=NUMBERS[0])
    optimizer.step()
    with pytest.raises(ValueError, match="looks at 'noise'"):
        optimizer.step()


def test_a_rule_that_sees_a_constant_is_the_rule_with_that_constant() -> None:
    @dataclass(frozen=True)
    class Capped(AdaptiveMemory):
        observed: ClassVar[Any] = ("cap",)

        def planes(self, now: Any) -> Any:
            g = now.gradient_plane
            return g, mix(g, now.memory_plane(), now.weight(now.observed("cap")))

    mine, right = Optimizer(np.ones(4), Capped(), lr=0.1), Optimizer(np.ones(4), AdaptiveMemory(0.7), lr=0.1)
    for g in np.random.default_rng(0).normal(size=(8, 4)):
        mine.step(g, observed={"cap": 0.7})
        np.testing.assert_array_equal(mine.x, right.step(g))


def test_a_step_size_may_look_too() -> None:
    optimizer = Optimizer(np.zeros(2), GradientDescent(), lr=0.1, step_size=Paced())
    assert optimizer.observed == ("pace",)
    np.testing.assert_allclose(optimizer.step([1.0, -2.0], observed={"pace": 3.0}), [-0.3, 0.6])


def test_many_runs_are_each_alone() -> None:
    random = np.random.default_rng(2)
    given, noise = random.normal(size=(6, 3, 5)), random.uniform(size=(6, 3))
    runs = Runs(np.ones((3, 5)), Cautious(), lr=0.1)
    alone = [Optimizer(np.ones(5), Cautious(), lr=0.1) for _ in range(3)]
    for g, each in zip(given, noise, strict=True):
        together = runs.step(g, observed={"noise": each, "trust": 1.5})
        for row, optimizer, part, own in zip(together, alone, g, each, strict=True):
            np.testing.assert_allclose(row, optimizer.step(part, observed={"noise": own, "trust": 1.5}), rtol=1e-12)
    with pytest.raises(ValueError, match=r"one for each of 3 runs, got an array of shape \(2,\)"):
        runs.step(given[0], observed={"noise": noise[0, :2], "trust": 1.5})
    with pytest.raises(ValueError, match="looks at 'trust'"):
        runs.step(given[0], observed={"noise": 0.0})


BAD: list[tuple[Any, str]] = [
    (None, r"Cautious looks at 'noise', the share of noise: call step\(\.\.\., observed={'noise': \.\.\.}\)"),
    ({"noise": 0.1}, r"Cautious looks at 'trust': call step"),
    ({**NUMBERS[0], "noize": 0.1}, r"of what Cautious declares, noise, trust, got 'noize'"),
    ({**NUMBERS[0], "noise": np.ones(3)}, r"observed\['noise'\] must be"),
    ({**NUMBERS[0], "noise": "much"}, r"observed\['noise'\] must be"),
    ([0.1, 0.2], r"observed must map names to numbers, got list"),
]


@pytest.mark.parametrize(("seen", "message"), BAD)
def test_what_is_not_as_declared_is_refused_before_anything_changes(seen: Any, message: str) -> None:
    optimizer = Optimizer(np.ones(2), Cautious(), lr=0.1)
    for call in (optimizer.step, optimizer.preview, optimizer.reach):
        with pytest.raises((ValueError, TypeError), match=message):
            call(np.ones(2), observed=seen)
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    ours = ProxOptimizer([p], Cautious(), 0.1)
    with pytest.raises((ValueError, TypeError), match=message):
        ours.step(observed=seen)
    assert (optimizer.x == 1).all()
    assert torch.equal(p.detach(), torch.ones(2))
    assert not ours.state


def test_a_rule_that_observes_nothing_is_given_nothing() -> None:
    with pytest.raises(ValueError, match=r"GradientDescent declares, \(nothing\), got 'noise'"):
        Optimizer(np.ones(2), GradientDescent(), lr=0.1).step(np.ones(2), observed={"noise": 0.1})
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match=r"GradientDescent declares, \(nothing\), got 'noise'"):
        ProxOptimizer([p], GradientDescent(), 0.1).step(observed={"noise": 0.1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_skips_the_step(value: float) -> None:
    """Also where the rule would have made something finite of it."""
    rule = type("Tanh", (GradientDescent,), {"observed": ("n",), "planes": lambda self, now: seen_and_left(now)})()
    optimizer = Optimizer(np.ones(2), rule, lr=0.1)
    for n in (1.0, value, 1.0):
        optimizer.step(np.ones(2), observed={"n": n})
    assert (optimizer.diagnostics()["skipped"], optimizer.diagnostics()["steps"]) == (1, 2)
    with pytest.raises(ValueError, match="observed must be finite"):
        optimizer.preview(np.ones(2), observed={"n": value})
    for name in PATHS:
        p = nn.Parameter(torch.ones(2, dtype=torch.float64))
        with path(name, 4) as keyword:
            ours = ProxOptimizer([p], rule, 0.1, **keyword)
            for n in (1.0, value, 1.0):
                p.grad = torch.ones(2, dtype=torch.float64)
                ours.step(observed={"n": n})
        np.testing.assert_allclose(p.detach().numpy(), optimizer.x, err_msg=name)
        assert ours.diagnostics()["skipped"] == 1


def seen_and_left(now: Any) -> Any:
    assert now.observed("n").shape == now.lr.shape
    return now.gradient_plane


def test_processes_agree_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and numbers go through one mean over all processes, each into its own place."""
    asked: list[int] = []

    def mean(value: Any, group: Any) -> Any:
        asked.append(value.numel())
        return value + torch.arange(1.0, 1 + value.numel()).to(value)

    @dataclass(frozen=True)
    class Told(Cautious):
        needs_loss: ClassVar[bool] = True
        normalised: ClassVar[bool] = True

        def planes(self, now: Any) -> Any:
            return *super().planes(now), now.floor(0.0)

    monkeypatch.setattr(torch_optimizer.shards, "mean", mean)
    p = nn.Parameter(torch.ones(2, dtype=torch.float64))
    ours, right = ProxOptimizer([p], Told(), 10.0), Optimizer(np.ones(2), Told(), lr=10.0)
    for seen in NUMBERS[:3]:
        p.grad = torch.tensor([1.0, -2.0], dtype=torch.float64)
        ours.step(loss=0.5, observed=seen)
        right.step([1.0, -2.0], 1.5, {"noise": seen["noise"] + 2, "trust": seen["trust"] + 3})
        np.testing.assert_allclose(p.detach(), right.x, rtol=1e-12)
    assert asked == [3, 3, 3]


def test_a_loaded_optimizer_goes_on() -> None:
    found = []
    for stop in (None, 2):
        p = nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = ProxOptimizer([p], Cautious(), 0.1, metric=Adam())
        for t, seen in enumerate(NUMBERS):
            if t == stop:
                saved = optimizer.state_dict()
                optimizer = ProxOptimizer([p], Cautious(), 0.1, metric=Adam())
                optimizer.load_state_dict(saved)
            p.grad = p.detach() ** 3 + t
            optimizer.step(observed=seen)
        found.append(p.detach().clone())
    assert torch.equal(*found)


def test_state_is_created_without_numbers_where_lr_is_zero() -> None:
    """As checkpoint loaders do it."""
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.zeros(2)
    optimizer = ProxOptimizer([p], Cautious(), 0.0)
    optimizer.step()
    assert optimizer.state[p]["step"] == 0


@pytest.mark.parametrize("decay", ["proximal", "coupled"])
@pytest.mark.parametrize("metric", [Euclidean(), Adam()], ids=str)
def test_rules_that_look_outside_are_verified(metric: Any, decay: str) -> None:
    report = check_rule(Cautious(), metric=metric, decay=decay, weight_decay=0.1, trials=9)
    assert report.ok, str(report)


def test_a_rule_in_a_norm_is_verified() -> None:
    assert check_rule(Cautious(), metric=LInf(), trials=6).ok


@dataclass(frozen=True)
class Deaf(Cautious):
    """Takes trust for 1.5."""

    observed: ClassVar[Any] = ("noise",)

    def planes(self, now: Any) -> Any:
        return super().planes(_Told(now))

    def remember(self, now: Any) -> Any:
        return super().remember(_Told(now))


class _Told:
    def __init__(self, now: Any) -> None:
        self.now = now

    def observed(self, name: str) -> Any:
        return 1.5 if name == "trust" else self.now.observed(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)


def test_rules_that_look_at_other_numbers_are_told_apart() -> None:
    assert check_same(Cautious(), replace(Cautious()), trials=6).same
    assert not check_same(Cautious(), Deaf(), trials=6).same


def test_states_show_other_numbers_each_time_and_the_rest_as_ever() -> None:
    with_numbers, without = sample_state(Cautious(), 4), sample_state(AdaptiveMemory(), 4)
    seen = [shown.observed for shown in with_numbers.steps]
    assert all(set(each) == {"noise", "trust"} and 0 <= each["noise"] <= 1 for each in seen)
    seen += [shown.observed for shown in sample_state(Cautious(), 5).steps]
    assert len({each["noise"] for each in seen}) == len(seen)
    assert [shown.lr for shown in with_numbers.steps] == [shown.lr for shown in without.steps]
    assert without.now.observed == {}
    assert with_numbers.model().weights.shape == (2,)


def test_the_picture_shows_it() -> None:
    pytest.importorskip("matplotlib")
    from proxmom.draw.model import model_scene

    settings = {"lr": 0.1, "metric": None, "inertia": 0.0, "weight_decay": 0.0}
    assert model_scene(Cautious(), 2, settings).model.weights.shape == (2,)


def test_what_is_declared_is_what_is_known() -> None:
    assert declared(("a", "b")) == {"a": Observed(), "b": Observed()}
    assert declared({"a": "words"}) == {"a": Observed("words")}
    assert Facts.of(Cautious()).observed["noise"].typical == (0, 1)
    assert usual(declared(("a",))) == pytest.approx({"a": 1.0})  # the middle of 0.1 and 10 in the logarithm
    assert usual({"a": Observed(typical=(-1, 3))}) == {"a": 1.0}
    drawn = [sampled({"a": Observed(typical=(2, 3))}, np.random.default_rng(seed))["a"] for seed in range(20)]
    assert 2 <= min(drawn) < 2.3
    assert 2.7 < max(drawn) <= 3


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ("noise", r"got 'noise'\. One name is a tuple too: observed = \('noise',\)"),
        (3, r"must be names, or a mapping of names to what they mean, got 3"),
        (("a b",), r"names that are identifiers, got 'a b'"),
        ((1,), r"names that are identifiers, got 1"),
        ({"a": 0.1}, r"must map 'a' to words or to Observed\(\.\.\.\), got 0\.1"),
    ],
)
def test_what_is_declared_is_checked(observed: Any, message: str) -> None:
    rule = type("Mine", (GradientDescent,), {"observed": observed})()
    with pytest.raises((ValueError, TypeError), match=message):
        Facts.of(rule)
    step_size = type("Mine", (Paced,), {"observed": observed})()
    with pytest.raises((ValueError, TypeError), match=message):
        Optimizer(np.ones(2), GradientDescent(), lr=0.1, step_size=step_size)


@pytest.mark.parametrize("typical", [(1.0, 1.0), (2.0, 1.0), (0.0, np.inf)])
def test_a_range_has_two_ends(typical: Any) -> None:
    with pytest.raises(ValueError, match="two finite numbers, the lower first"):
        Observed(typical=typical)


def test_what_is_not_declared_is_not_seen() -> None:
    class Forgets(GradientDescent):
        def planes(self, now: Any) -> Any:
            return Plane(now.observed("noise") * now.gradient, 0.0)

    with pytest.raises(ValueError, match=r"\(none\), got 'noise'\. Declare it: observed = \('noise',\) in Forgets"):
        Optimizer(np.ones(2), Forgets(), lr=0.1).step(np.ones(2))


def test_minimize_says_that_it_knows_no_such_number() -> None:
    with pytest.raises(ValueError, match=r"f and its gradient alone, got noise, trust, which minimize does not know"):
        minimize(lambda x: (x @ x, 2 * x), np.ones(2), rule=Cautious())
