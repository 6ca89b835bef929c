"""The passes by Triton for rules with further memories: the torch path's numbers, see `test_cuda`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proxmom import Adam, Euclidean
from proxmom.memories import Average, Memory
from proxmom.torch import ProxOptimizer
from proxmom.torch.passes import cuda
from proxmom.torch.passes.operations import TorchPasses
from tests.torch.remembering import EVERY_KIND, Remembering, memories
from tests.torch.test_cuda import Counter, give, parameters
from tests.torch.triton_cases import CUDA, Case, assert_same_parts, assert_same_sums, parts, runs

pytestmark = pytest.mark.usefixtures("scalars_stay_on_the_device")

FEW: dict[str, Memory] = {"slow": Average(0.25)}
MANY: dict[str, Memory] = {**EVERY_KIND, **{f"more{k}": Average(0.1 + 0.05 * k) for k in range(8)}}
SMALL = (((0,), (), (15,), (300,), (4097,), (0,), (5,)), (0, 0, 1, 2, 1, 3, 0))


def compare(case: Case) -> None:
    """Both passes, by Triton and by torch operations."""
    layout, other = case.layout(*SMALL), case.layout(*SMALL)
    passes = cuda.TritonPasses(layout, case.settings())
    reference = TorchPasses(other, case.settings(), pack=True)
    numbers, expected = case.numbers(layout), case.numbers(other)
    assert_same_sums(passes.measure(layout, numbers), reference.measure(other, expected), case)
    passes.move(layout, numbers, case.motion(layout, sound=True))
    reference.move(other, expected, case.motion(other))
    assert_same_parts(layout, other, case)


@runs
@settings(max_examples=8, deadline=None)
@given(
    kinds=memories(),
    dtype=st.sampled_from(cuda.TYPES),
    adam=st.booleans(),
    inertia=st.sampled_from([0.0, 0.1]),
    coupled=st.booleans(),
    with_x=st.booleans(),
    sign=st.sampled_from([1.0, -1.0]),
)
def test_the_numbers_are_those_of_the_torch_path(
    kinds: Any, dtype: torch.dtype, adam: bool, inertia: float, coupled: bool, with_x: bool, sign: float
) -> None:
    compare(Case(dtype, adam, inertia, coupled, with_x, sign, kinds))


@runs
@pytest.mark.parametrize("count", [1, 2, 3, 14])
def test_as_many_memories_as_there_may_be(count: int) -> None:
    compare(Case(memories=dict(list(MANY.items())[:count])))


@runs
@pytest.mark.parametrize("kinds", [FEW, EVERY_KIND], ids=[3, 8])
@pytest.mark.parametrize("adam", [False, True])
def test_a_step_that_is_not_sound_changes_no_bit(adam: bool, kinds: Any) -> None:
    case = Case(torch.float32, adam, memories=kinds)
    layout = case.layout(*SMALL)
    passes, numbers = cuda.TritonPasses(layout, case.settings()), case.numbers(layout)
    before = [vector.clone() for vector in parts(layout)]
    passes.measure(layout, numbers)
    passes.move(layout, numbers, case.motion(layout, sound=False))
    assert all(torch.equal(a, b) for a, b in zip(before, parts(layout), strict=True))


@runs
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("adam", [False, True])
def test_what_is_not_finite_arrives_in_its_unit_only(adam: bool, value: float) -> None:
    for spoil in ("gradient", "further"):
        case = Case(torch.float32, adam, memories=EVERY_KIND)
        layout = case.layout(*SMALL)
        row = layout.params[4].grad if spoil == "gradient" else layout.parts[4].memories[2]
        row[4096] = value  # type: ignore[index]  # unit 1, the only element of its chunk
        sums = cuda.TritonPasses(layout, case.settings()).measure(layout, case.numbers(layout))
        assert sums.isfinite().all(dim=1).tolist() == [True, False, True, True], spoil


@runs
def test_a_pass_is_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = {name: Counter(getattr(cuda._of_several(), name)) for name in ("measure_vectors", "move_vectors")}
    for name, counter in counters.items():
        monkeypatch.setattr(cuda._of_several(), name, counter)
    case = Case(memories=EVERY_KIND)
    layout = case.layout(((7,),) * 40, tuple(i % 4 for i in range(40)))
    passes, numbers = cuda.TritonPasses(layout, case.settings()), case.numbers(layout)
    passes.measure(layout, numbers)
    passes.move(layout, numbers, case.motion(layout))
    assert [counter.launches for counter in counters.values()] == [1, 1]


@runs
@pytest.mark.parametrize("kinds", [FEW, EVERY_KIND], ids=[3, 8])
@pytest.mark.parametrize("metric", [Euclidean(), Adam(beta2=0.9)], ids=str)
def test_an_optimizer_takes_the_same_path(metric: Any, kinds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not CUDA:
        monkeypatch.setattr(cuda, "serves", lambda *_: True)
    fast, slow = parameters(), parameters()
    one, other = (
        ProxOptimizer(params, Remembering(kinds), 0.05, metric=metric, weight_decay=0.1, inertia=0.1, foreach=foreach)
        for params, foreach in ((fast, None), (slow, True))
    )
    for seed in range(4):
        for params, optimizer in ((fast, one), (slow, other)):
            give(params, seed)
            optimizer.step()
    assert one.path == "Triton kernels"
    for p, q in zip(fast, slow, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-11)
        for name in kinds:
            torch.testing.assert_close(one.state[p][name], other.state[q][name], rtol=1e-11, atol=1e-11)
