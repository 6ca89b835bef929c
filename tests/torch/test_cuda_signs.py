"""Hard steps in the maximum norm by Triton: the numbers of torch operations; `test_cuda` has this interpreted."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxmom import AdaptiveMemory, Euclidean, GradientDescent, HeavyBall, LInf, MoMo, TruncatedMemory
from proxmom.metrics.norms import FAINT
from proxmom.step import Method, Step, sections
from proxmom.torch import ProxOptimizer
from proxmom.torch.layout import Layout
from proxmom.torch.passes import Motion, Numbers, Settings, cuda, cuda_signs
from proxmom.torch.passes.cuda_signs import TritonSignPasses
from proxmom.torch.passes.norms import NormPasses
from tests.torch.test_cuda import Counter, give, parameters
from tests.torch.triton_cases import CUDA, DEVICE, GROUPS, ONE_STEP, SHAPES, TOLERANCE, UNITS, arranged, parts, runs

pytestmark = pytest.mark.usefixtures("scalars_stay_on_the_device")
COUNT = 4  # slopes at once


@dataclass(frozen=True)
class Case:
    """What the passes are asked for."""

    dtype: torch.dtype = torch.float64
    coupled: bool = False
    sign: float = 1.0

    def settings(self) -> Settings:
        return Settings(LInf(), 0.0, self.sign, {}, False)

    def layout(self, shapes: Any = SHAPES, groups: Any = GROUPS) -> Layout:
        """Always the same numbers, with ties, elements of memory that are zero, and some that recall no sign."""
        random = torch.Generator().manual_seed(0)

        def drawn(count: int) -> Tensor:
            return torch.randint(-3, 4, (count,), generator=random) / 2

        params, memories = [], []
        for shape in shapes:
            count = torch.Size(shape).numel()
            p = nn.Parameter(torch.randn(count + 1, generator=random).to(DEVICE, self.dtype)[1:].view(shape))
            p.grad = drawn(count + 1).to(DEVICE, self.dtype)[1:].view(shape)
            params.append(p)
            memories.append(drawn(count) * torch.where(torch.rand(count, generator=random) < 0.2, FAINT, 1.0))
        step = Step(Method(AdaptiveMemory(), LInf(), inertia=0.0, decay="decoupled"))
        layout = arranged(params, groups, defaultdict(dict), step, "group")
        for part, memory in zip(layout.parts, memories, strict=True):
            part.memories[0].copy_(memory)
        return layout

    def numbers(self, layout: Layout) -> Numbers:
        coupled = layout.scalar_rows.new_tensor([0.3, 0.0, -0.2, 0.1]) if self.coupled else None
        return Numbers(coupled, None, layout.metric_scalars(), with_x=not self.coupled)

    def motion(self, layout: Layout, sound: bool | None = None) -> Motion:
        row = layout.scalar_rows.new_tensor
        return Motion(
            direction=row([[0.3, 0.7], [1.0, -0.4], [0.0, 0.0], [1.0, 1.0]]),
            scale=row([0.1, 0.2, 0.0, 1.0]),
            shrink=row([1.0, 0.9, 0.8, 1.0]),
            sound=None if sound is None else torch.tensor(sound, device=DEVICE),
            atoms=[
                (row([[0.5, 0.5], [1.0, 0.0], [1.0, 2.0], [1.0, 1.0]]), row([0.3, 1.0, 0.5, 1.0])),
                (row([[0.25, 0.75], [0.5, 1.0], [0.0, 1.0], [1.0, 1.0]]), row([0.7, 0.0, 0.5, 0.0])),
            ],
        )


@pytest.fixture(autouse=True)
def tiles_suit_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """There no register limits them, and each tile costs as much as any."""
    if not CUDA:
        monkeypatch.setattr(cuda_signs, "TILE", {torch.float32: 1 << 15, torch.float64: 1 << 15})


SLOPES = [[1.0, 0.0], [0.5, 0.5], [-0.25, 1.0], [0.0, 0.0]]
CASES = [Case(dtype, coupled, -1.0 if coupled else 1.0) for dtype in cuda.TYPES for coupled in (False, True)]


def assert_same(got: Tensor, want: Tensor, case: Case) -> None:
    assert got.dtype == want.dtype
    scale = want.abs().amax()
    assert (abs(got - want) <= TOLERANCE[case.dtype] * scale).all(), (got - want).abs().max()


def pair(case: Case, **given: Any) -> tuple[tuple[Layout, Any, Numbers], ...]:
    """The same by Triton and by torch operations, measured."""
    made = []
    for kind in (TritonSignPasses, NormPasses):
        layout = case.layout(**given)
        passes, numbers = kind(layout, case.settings()), case.numbers(layout)
        made.append((layout, passes, numbers))
    return tuple(made)


@runs
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_numbers_are_those_of_torch_operations(case: Case) -> None:
    """Ties too: where a slope is zero by cancelling, its sign is, and no product fused into a sum says otherwise."""
    (layout, passes, numbers), (other, reference, expected) = pair(case)
    assert_same(passes.measure(layout, numbers), reference.measure(other, expected), case)
    slopes = layout.scalar_rows.new_tensor(SLOPES)
    several = torch.stack([slopes.roll(shift, 0) for shift in range(COUNT)], dim=1)
    found = passes.pulls(layout, several)
    assert found.shape == (UNITS, COUNT, 2)
    for m in range(COUNT):
        assert_same(found[:, m], reference.pull(other, several[:, m]), case)
    assert_same(passes.pull(layout, slopes), found[:, 0], case)
    passes.move(layout, numbers, case.motion(layout, sound=True))
    reference.move(other, expected, case.motion(other))
    for mine, theirs in zip(parts(layout), parts(other), strict=True):
        tolerance = TOLERANCE[case.dtype] if mine.dtype != case.dtype else ONE_STEP[case.dtype]
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance * FAINT)


@runs
@pytest.mark.parametrize("case", [Case(dtype) for dtype in cuda.TYPES], ids=str)
def test_a_step_that_is_not_sound_changes_no_bit(case: Case) -> None:
    layout = case.layout()
    for p in layout.params:
        p.grad.fill_(float("nan"))  # type: ignore[union-attr]
    passes, numbers = TritonSignPasses(layout, case.settings()), case.numbers(layout)
    before = [vector.clone() for vector in parts(layout)]
    passes.measure(layout, numbers)
    passes.move(layout, numbers, case.motion(layout, sound=False))
    assert all(torch.equal(a, b) for a, b in zip(before, parts(layout), strict=True))


@runs
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_arrives_in_its_unit_only(value: float) -> None:
    case = Case(torch.float32)
    layout = case.layout()
    layout.params[4].grad[4096] = value  # type: ignore[index]  # unit 1, the only element of its chunk
    passes = TritonSignPasses(layout, case.settings())
    assert passes.measure(layout, case.numbers(layout)).isfinite().all(dim=1).tolist() == [True, False, True, True]


@runs
def test_sums_are_the_same_bits_in_every_run_and_many_chunks_are_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_signs, "ROWS", 2)  # several rounds of adding up
    (layout, passes, numbers), (other, reference, expected) = pair(Case(), shapes=((20000,), (9000,)), groups=(0, 1))
    assert_same(passes.measure(layout, numbers), reference.measure(other, expected), Case())
    slopes = layout.scalar_rows.new_tensor([[0.7, 0.4], [-0.1, 1.0]])
    first = passes.pull(layout, slopes)
    assert_same(first, reference.pull(other, slopes), Case())
    assert all(torch.equal(first, passes.pull(layout, slopes)) for _ in range(2))


RULES: dict[str, Any] = {
    "adaptive memory": (AdaptiveMemory(0.9), {"weight_decay": 0.1}),
    "coupled, ascent": (AdaptiveMemory(0.9), {"weight_decay": 0.1, "decay": "coupled", "maximize": True}),
    "by tensor": (AdaptiveMemory(0.9), {"scope": "tensor"}),
    "heavy ball": (HeavyBall(0.8), {}),
    "gradient descent": (GradientDescent(), {"scope": "group"}),
    "truncated": (TruncatedMemory(-50.0), {}),
    "MoMo": (MoMo(-50.0), {"weight_decay": 0.1}),
}


@runs
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_optimizer_takes_the_same_path(rule: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for elements that change sign in the last bracket, which end where it does."""
    if not CUDA:
        monkeypatch.setattr(cuda_signs, "serves", lambda *_: True)
    kind, given = RULES[rule]
    fast, slow = parameters(dtype), parameters(dtype)
    one = ProxOptimizer(fast, kind, 0.1, metric=LInf(), **given)
    other = ProxOptimizer(slow, kind, 0.1, metric=LInf(), foreach=False, **given)
    apart = 10 * torch.finfo(dtype).eps ** 0.5
    for seed in range(4):
        for params, optimizer in ((fast, one), (slow, other)):
            give(params, seed)
            optimizer.step(loss=1.0 + seed)
        assert isinstance(one._layouts[0].passes, TritonSignPasses)
        assert isinstance(other._layouts[0].passes, NormPasses)
        betas = (optimizer.diagnostics()["beta"] for optimizer in (one, other))
        torch.testing.assert_close(*betas, rtol=0, atol=max(apart, 1e-4))
        for p, q in zip(fast, slow, strict=True):
            differ = (p - q).detach().abs() > 1e-5 * 0.1
            assert differ.sum() <= 1 + max(apart, 1e-3) * p.numel()
            for copy, original in ((q.data, p.data), (other.state[q]["memory"], one.state[p]["memory"])):
                copy.copy_(original)


@runs
@pytest.mark.parametrize(("dtype", "questions"), [(torch.float32, 2), (torch.float64, 3)])
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_a_step_reads_the_arrays_four_times(
    scope: str, dtype: torch.dtype, questions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float64 once more, for its digits; each sum is added up in one launch."""
    if not CUDA:
        monkeypatch.setattr(cuda_signs, "serves", lambda *_: True)
    counters = {name: Counter(getattr(cuda_signs._kernels(), name)) for name in ("recall", "pull", "add_up", "move")}
    params = parameters(dtype)
    optimizer = ProxOptimizer(params, AdaptiveMemory(), 0.1, metric=LInf(), scope=scope)
    give(params, 0)
    optimizer.step()
    for name, counter in counters.items():
        monkeypatch.setattr(cuda_signs._kernels(), name, counter)
    give(params, 1)
    optimizer.step()
    assert [counter.launches for counter in counters.values()] == [1, questions, 1 + questions, 1]


@runs
def test_nothing_is_kept_but_memory_and_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a question leaves is a row of sums for each chunk, of 4096 elements or more."""
    if not CUDA:
        monkeypatch.setattr(cuda_signs, "serves", lambda *_: True)
    params = parameters(torch.float32)
    optimizer = ProxOptimizer(params, AdaptiveMemory(), 0.1, metric=LInf())
    for seed in range(2):
        give(params, seed)
        optimizer.step()
    for p in params:
        if p.numel() > 1:
            assert [name for name, value in optimizer.state[p].items() if value.numel() > 1] == ["memory"]
    passes = optimizer._layouts[0].passes
    assert not passes._given
    assert not any(isinstance(value, Tensor) and value.is_floating_point() for value in vars(passes).values())
    assert 2 * sections.SLOPES <= cuda.SMALLEST // 64


# ---- What can be seen on any machine


def test_who_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Case().layout()
    monkeypatch.setattr(cuda_signs, "_works", lambda _: True)
    assert not cuda_signs.serves(layout, Case().settings())
    layout.device = torch.device("cuda")
    assert cuda_signs.serves(layout, Case().settings())
    for metric, memories, rounding in (
        (LInf("soft"), {}, False),
        (Euclidean(), {}, False),
        (LInf(), {"more": object()}, False),
        (LInf(), {}, True),
    ):
        assert not cuda_signs.serves(layout, Settings(metric, 0.0, 1.0, memories, rounding))
    monkeypatch.setattr(cuda_signs, "_works", lambda _: False)
    assert not cuda_signs.serves(layout, Case().settings())
