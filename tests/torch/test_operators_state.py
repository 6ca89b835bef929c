"""What metrics that are not element-wise keep in the state: shapes, who shares it, what is refused, who stays away."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from proxmom import SOAP, AdaptiveMemory, GradientDescent, QuasiNewton, Shampoo
from proxmom.torch import AMSOAP, AMShampoo, ProxOptimizer, partitions
from proxmom.torch.layout import Layout
from tests.metrics import Full, Normed, Turned
from tests.torch.common import WHOLE, drive, give, made, same


def shapes_of(optimizer: ProxOptimizer, p: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in optimizer.state[p].items() if value.dim()}


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_factors_have_shapes_of_their_own_and_numbers_are_shared() -> None:
    params, optimizer = made(Shampoo(largest_side=3), (4, 2), (3,))
    drive(optimizer, params, 2)
    matrix = {f"{kind}_{block}_{axis}": (2, 2) for kind in ("factor", "root") for block in (0, 1) for axis in (0, 1)}
    assert shapes_of(optimizer, params[0]) == {"memory": (4, 2), "previous_x": (4, 2), **matrix}
    assert {name for name in optimizer.state[params[1]] if name.startswith("factor")} == {"factor_0_0"}
    counts = [optimizer.state[p]["count"] for p in params]
    assert counts[0].data_ptr() == counts[1].data_ptr()
    assert counts[0] == 2


@pytest.mark.parametrize("metric", [SOAP(), Full(), Turned(), Normed()])
def test_a_square_factor_is_no_vector(metric: Any) -> None:
    """Only what follows the shape of x is laid out and sharded as x is."""
    params, optimizer = made(metric, (3, 3), (1,), ())
    drive(optimizer, params, 2)
    vectors = {"Full": set(), "SOAP": {"second_moment"}, "Turned": {"last"}, "Normed": {"like"}}[type(metric).__name__]
    for part in optimizer._layouts[0].parts:
        assert set(part.vectors) - {"previous_x"} == vectors
    assert ("factor_0" in optimizer._layouts[0].parts[0].arrays) == (metric == SOAP())


def test_low_rank_keeps_one_array() -> None:
    params, optimizer = made(QuasiNewton(3), (4, 2), ())
    drive(optimizer, params, 2)
    more = {"previous_x": (4, 2), "previous_gradient": (4, 2)}
    assert shapes_of(optimizer, params[0]) == {"memory": (4, 2), **more, "kept": (6, 4, 2)}


# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "other", "match"),
    [
        (Shampoo(), Shampoo(largest_side=2), "factor_1_0"),
        (Shampoo(largest_side=3), Shampoo(), r"state\['factor_0_0'\] of parameter 0 must have the shape \(4, 4\)"),
        (QuasiNewton(3), QuasiNewton(4), r"state\['kept'\] of parameter 0 must have 8 vectors .* other settings"),
        (SOAP(), Shampoo(), "the checkpoint is of ProxOptimizer"),
        (QuasiNewton(3), Shampoo(), "the checkpoint is of ProxOptimizer"),
    ],
)
def test_the_checkpoint_of_another_metric_is_refused(saved: Any, other: Any, match: str) -> None:
    params, optimizer = made(saved, (4, 2), (3,))
    drive(optimizer, params, 2)
    again, receiver = made(other, (4, 2), (3,))
    with pytest.raises(ValueError, match=match):
        receiver.load_state_dict(optimizer.state_dict())
    assert not receiver.state
    drive(receiver, again, 1)


@pytest.mark.parametrize(
    ("metric", "name", "value", "error"),
    [
        (Shampoo(), "factor_0_0", torch.ones(5, 5), ValueError),
        (Shampoo(), "factor_0_0", torch.ones(4, 4, dtype=torch.int64), TypeError),
        (Shampoo(), "root_0_1", None, TypeError),
        (SOAP(), "second_moment", torch.ones(4), ValueError),
        (QuasiNewton(3), "kept", torch.ones(6, 8), ValueError),
        (QuasiNewton(3), "previous_x", torch.ones(8), ValueError),
    ],
)
def test_state_that_does_not_fit_is_refused_loaded_or_put_there(metric: Any, name: str, value: Any, error: Any) -> None:
    params, optimizer = made(metric, (4, 2))
    drive(optimizer, params, 2)
    packed = copy.deepcopy(optimizer.state_dict())
    packed["state"][0][name] = value
    with pytest.raises(error, match=rf"state\['{name}'\] of parameter 0"):
        optimizer.load_state_dict(packed)
    optimizer.state[params[0]][name] = value
    with pytest.raises(error, match=rf"state\['{name}'\] of parameter 0"):
        drive(optimizer, params, 1)


@pytest.mark.parametrize("name", WHOLE)
def test_model_and_state_may_change_dtype(name: str) -> None:
    params = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2))]
    optimizer = WHOLE[name](params)
    drive(optimizer, params, 2)
    for p in params:
        p.data = p.data.double()
    drive(optimizer, params, 2)
    assert {v.dtype for p in params for v in optimizer.state[p].values() if v.dim()} == {torch.float64}
    for entry in optimizer.state.values():
        entry.update({key: value.half() for key, value in entry.items() if value.dim()})
    drive(optimizer, params, 1)
    assert {v.dtype for p in params for v in optimizer.state[p].values() if v.dim()} == {torch.float64}


@pytest.mark.parametrize("name", WHOLE)
def test_data_may_be_swapped_for_data_of_the_same_shape_only(name: str) -> None:
    p = nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
    optimizer = WHOLE[name]([p])
    drive(optimizer, [p], 2)
    old, p.data = p.data, p.data + 1
    before = old.clone()
    drive(optimizer, [p], 1)
    assert torch.equal(old, before)
    p.data = torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="shape"):
        drive(optimizer, [p], 1)


# --- who steps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [Full(), Turned()])
def test_the_last_move_is_the_true_one_and_of_the_last_step_only(metric: Any) -> None:
    """<g, x_{t-1} - x_t> is the height: with weight decay, and zero after a step that a parameter sat out."""
    params, optimizer = made(metric, (3,), (2,), weight_decay=0.5)
    seen: list[Any] = []

    class Height(GradientDescent):
        def planes(self, now: Any) -> Any:
            seen.append(float(now.memory_plane("linearised").height[0]))
            return super().planes(now)

    optimizer._step.method.rule = Height()
    random = np.random.default_rng(3)
    last, rested = [p.detach().clone() for p in params], False
    for t in range(5):
        before = [p.detach().clone() for p in params]
        moves = [before[0] - last[0], 0 * before[1] if rested else before[1] - last[1]]
        for p in params:
            p.grad = torch.tensor(random.normal(size=p.shape))
        rested = t == 2
        if rested:
            params[1].grad = None
        optimizer.step()
        expected = -sum(float(p.grad @ move) for p, move in zip(params, moves, strict=True) if p.grad is not None)
        assert seen[-1] == pytest.approx(expected, rel=1e-10, abs=1e-14)
        last = before


@pytest.mark.parametrize("name", WHOLE)
def test_groups_are_added_and_gradients_come_late(name: str) -> None:
    params = [nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in ((3, 2), (2,), (0, 3), ())]
    optimizer = WHOLE[name](params[:2])
    give(params, [np.ones(p.shape) for p in params])
    params[1].grad = None
    optimizer.step()
    optimizer.add_param_group({"params": params[2:]})
    for _ in range(3):
        give(params, [np.ones(p.shape) * (1 + np.arange(p.numel()).reshape(p.shape)) for p in params])
        optimizer.step()
    assert optimizer.diagnostics()["skipped"] == 0
    assert all((p.detach() != 1).all() for p in params)


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("name", WHOLE)
def test_what_is_not_finite_leaves_the_metric_alone(name: str, on_host: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layout, "on_host", on_host)
    params = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2))]
    optimizer = WHOLE[name](params)
    drive(optimizer, params, 3)
    before = copy.deepcopy(optimizer.state_dict()["state"])
    xs = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.full_like(p, 0.7)
    params[1].grad[0] = float("inf")
    optimizer.step()
    same(xs, [p.detach() for p in params])
    for i, entry in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, before[i][key]) for key, value in entry.items() if key != "skipped")
    assert optimizer.diagnostics()["skipped"] == 1


def test_factors_that_overflow_skip_the_step() -> None:
    """Roots are old ones between two decompositions, and would not tell."""
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = AMShampoo([p], every=10)
    p.grad = torch.ones_like(p)
    optimizer.step()
    p.grad = torch.full_like(p, 1e25)
    optimizer.step()
    assert optimizer.diagnostics()["skipped"] == 1
    assert optimizer.state[p]["factor_0_0"].isfinite().all()


@pytest.mark.parametrize("name", WHOLE)
def test_a_model_may_become_channels_last(name: str) -> None:
    shape = (2, 3, 2, 2)
    plain, turned = ([nn.Parameter(torch.ones(shape, dtype=torch.float64))] for _ in range(2))
    first, second = WHOLE[name](plain), WHOLE[name](turned)
    for seed in range(4):
        drive(first, plain, 2, seed)
        drive(second, turned, 2, seed)
        turned[0].data = turned[0].data.contiguous(
            memory_format=torch.channels_last if seed % 2 == 0 else torch.contiguous_format
        )
    torch.testing.assert_close(plain[0], turned[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("metric", [Full(), QuasiNewton()])
def test_partitions_are_refused(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "group_of", lambda p: "some processes")
    params, optimizer = made(metric, (3,))
    with pytest.raises(ValueError, match=r"parameter 0 cut by DeepSpeed's ZeRO.* Use fully_shard \(FSDP2\)"):
        drive(optimizer, params, 1)


# --- metrics with mistakes -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Faulty(Turned):
    """Says one thing in start and another later."""

    fault: str = ""

    def start(self, x: Any) -> Any:
        return super().start(x) | {"count": 0}

    def update(self, state: Any, gradient: Any, move: Any) -> Any:
        new = {"last": move, "count": state["count"] + 1}
        faults = {"name": {**new, "more": 1}, "shape": {**new, "last": move.sum()}, "missing": {"last": move}}
        faults |= {"tensor": {**new, "count": move.sum()}, "differs": {**new, "count": gradient.numel()}}
        return faults.get(self.fault, new)

    def images(self, state: Any, vectors: Any) -> Any:
        images = super().images(state, vectors)
        return {"few": images[:1], "thin": [image.sum() for image in images]}.get(self.fault, images)


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("name", "must return what Faulty.start names"),
        ("missing", "must return what Faulty.start names"),
        ("shape", r"update\(...\)\['last'\] of parameter 0 must be a tensor of shape \(3,\)"),
        ("tensor", "must return a Python number for 'count'"),
        ("differs", "must be the same for all parameters"),
        ("few", r"images\(...\) must return 2 arrays, got 1"),
        ("thin", r"images\(...\) of parameter 0 must be a tensor of shape \(3,\)"),
    ],
)
def test_a_metric_that_does_not_keep_its_word_is_told_so(fault: str, match: str) -> None:
    params, optimizer = made(Faulty(fault=fault), (3,), (2,))
    with pytest.raises(ValueError, match=match):
        drive(optimizer, params, 1)
    params, optimizer = made(Faulty(), (3,), (2,))
    drive(optimizer, params, 2)


def test_names_that_state_uses_are_refused() -> None:
    class Taken(Turned):
        def start(self, x: Any) -> Any:
            return {"memory": super().start(x)["last"]}

    params, optimizer = made(Taken(), (3,))
    with pytest.raises(ValueError, match="must have names that state does not use otherwise, got 'memory'"):
        drive(optimizer, params, 1)


# --- by name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "metric"), [(AMShampoo, Shampoo), (AMSOAP, SOAP)])
def test_named_ones_say_what_they_are_made_of(kind: Any, metric: Any) -> None:
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = kind([p], betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1, every=3, largest_side=7)
    assert optimizer._step.method.metric == metric(0.9, 1e-3, 3, 7)
    assert optimizer.rule == AdaptiveMemory(0.8)
    assert (optimizer._scope, optimizer._step.method.decay, optimizer._step.method.inertia) == (
        "tensor",
        "decoupled",
        0,
    )
    with pytest.raises(ValueError, match="inertia must be 0"):
        kind([p], inertia=0.1)


def test_a_group_cannot_have_a_metric_of_its_own() -> None:
    p, q = (nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimizer = AMSOAP([p], every=3)
    for key, match in (
        ("every", "every must be one for all groups, 3, got 5"),
        ("precondition_frequency", "no effect"),
    ):
        with pytest.raises(ValueError, match=match):
            optimizer.add_param_group({"params": [q], key: 5})
    optimizer.add_param_group({"params": [q], "every": 3})
