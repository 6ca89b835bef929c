"""The C++ kernels for rules with further memories: the numbers of torch operations, whatever is remembered."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from torch import nn

from proxmom import Adam, ConjugateMemory, Euclidean, kernels
from proxmom.kernels.batch import AVERAGE, COMBINATION, MOST_FURTHER, Turns
from proxmom.memories import Average, Combination, Memory, Previous
from proxmom.torch import ProxOptimizer
from proxmom.torch.passes import cuda, native
from proxmom.torch.passes.native import NativePasses
from proxmom.torch.passes.operations import TorchPasses
from tests.torch.remembering import EVERY_KIND, Remembering, memories
from tests.torch.triton_cases import Case, assert_same_parts, assert_same_sums, parts

usable = pytest.mark.skipif(not kernels.available(), reason=kernels.why_not())
MANY: dict[str, Memory] = {**EVERY_KIND, **{f"more{k}": Average(0.1 + 0.05 * k) for k in range(6)}}
MANY |= {"blend2": Combination(), "last2": Previous("more5")}


def compare(case: Case) -> None:
    """Both passes, by the kernels and by torch operations."""
    layout, other = case.layout(), case.layout()
    passes, reference = NativePasses(layout, case.settings()), TorchPasses(other, case.settings(), pack=False)
    numbers, expected = case.numbers(layout), case.numbers(other)
    before = [vector.clone() for vector in parts(layout)]
    assert_same_sums(passes.measure(layout, numbers), reference.measure(other, expected), case)
    assert all(torch.equal(a, b) for a, b in zip(before, parts(layout), strict=True)), "pass 1 wrote something"
    passes.move(layout, numbers, case.motion(layout))
    reference.move(other, expected, case.motion(other))
    assert_same_parts(layout, other, case)


@usable
@settings(max_examples=60)
@given(
    kinds=memories(),
    dtype=st.sampled_from(cuda.TYPES),
    adam=st.booleans(),
    inertia=st.sampled_from([0.0, 0.1]),
    coupled=st.booleans(),
    with_x=st.booleans(),
    sign=st.sampled_from([1.0, -1.0]),
)
def test_the_numbers_are_those_of_torch_operations(
    kinds: Any, dtype: torch.dtype, adam: bool, inertia: float, coupled: bool, with_x: bool, sign: float
) -> None:
    compare(Case(dtype, adam, inertia, coupled, with_x, sign, kinds))


@usable
@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, MOST_FURTHER])
def test_as_many_memories_as_there_may_be(count: int, adam: bool) -> None:
    kinds = dict(list(MANY.items())[:count])
    assert len(kinds) == count
    compare(Case(torch.float64, adam, memories=kinds))


@usable
def test_one_more_is_for_torch_operations() -> None:
    for count, served in ((MOST_FURTHER, True), (MOST_FURTHER + 1, False)):
        case = Case(memories={f"m{k}": Average(0.1) for k in range(count)})
        assert native.serves(case.layout(), case.settings()) is served
        assert case.settings().for_kernels is served


@usable
@settings(max_examples=40)
@given(
    kinds=memories(),
    scope=st.sampled_from(["model", "group", "tensor"]),
    metric=st.sampled_from([Euclidean(), Adam(beta2=0.9, eps=1e-3)]),
    decay=st.sampled_from(["coupled", "decoupled", "proximal"]),
    inertia=st.sampled_from([0.0, 0.1]),
    weight_decay=st.sampled_from([0.0, 0.3]),
    maximize=st.booleans(),
    mixed=st.booleans(),
)
def test_an_optimizer_goes_the_same_way(kinds: Any, maximize: bool, mixed: bool, **given: Any) -> None:
    reached = []
    for foreach in (None, False):
        params = parameters(mixed)
        optimizer = ProxOptimizer(params, Remembering(kinds), 0.02, foreach=foreach, maximize=maximize, **given)
        walk(optimizer, params, 4)
        reached.append([*params, *(optimizer.state[p][name] for p in params for name in kinds)])
        assert optimizer.path == ("torch operations" if foreach is False else "C++ kernels")
    rough = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2}
    for p, q in zip(*reached, strict=True):
        tolerance = rough[p.dtype if not mixed else min(p.dtype, torch.float32, key=lambda d: d.itemsize)]
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


def parameters(mixed: bool = False) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(1)
    dtypes = [torch.float64, torch.float32, torch.bfloat16] if mixed else [torch.float64] * 3
    shapes = ((3, 4), (1500,), (0,), (), (5,))
    return [nn.Parameter(torch.randn(shape, generator=random).to(dtypes[i % 3])) for i, shape in enumerate(shapes)]


def walk(optimizer: ProxOptimizer, params: list[nn.Parameter], steps: int, seed: int = 0) -> None:
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=random).to(p)
        optimizer.step()


@usable
@pytest.mark.parametrize("metric", [Euclidean(), Adam(beta2=0.9)], ids=str)
@pytest.mark.parametrize("kinds", [{"slow": Average(0.1, "gradient"), "blend": Combination()}, EVERY_KIND], ids=[4, 8])
def test_who_resumes_goes_on_bit_by_bit(kinds: Any, metric: Any) -> None:
    params = parameters(mixed=True)
    optimizer = ProxOptimizer(params, Remembering(kinds), 0.02, metric=metric)
    walk(optimizer, params, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twins = [nn.Parameter(shifted(p)) for p in params]
    again = ProxOptimizer(twins, Remembering(kinds), 0.02, metric=metric)
    again.load_state_dict(torch.load(file, weights_only=True))
    for one, of in ((optimizer, params), (again, twins)):
        walk(one, of, 3, seed=7)
        assert one.path == "C++ kernels"
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(optimizer.state[p][name], again.state[q][name]) for name in kinds)


def shifted(p: Any) -> torch.Tensor:
    """A copy that begins elsewhere in memory than an allocator would let it."""
    return torch.cat([p.detach().reshape(-1)[:1], p.detach().reshape(-1)])[-p.numel() or 1 :].view(p.shape)


@usable
@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("inertia", [0.0, 0.1])
@pytest.mark.parametrize("kinds", [{"slow": Average(0.1)}, EVERY_KIND], ids=[3, 8])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_arrives_in_its_unit_only(value: float, kinds: Any, inertia: float, adam: bool) -> None:
    for spoil in ("gradient", "memory", "further", "second_moment"):
        if spoil == "second_moment" and not adam:
            continue
        case = Case(torch.float32, adam, inertia, memories=kinds)
        layout = case.layout()
        part = layout.parts[4]  # of unit 1
        rows = {"memory": part.memories[0], "further": part.memories[1], **part.vectors}
        rows["gradient"] = layout.params[4].grad  # type: ignore[assignment]
        rows[spoil][4096] = value
        sums = NativePasses(layout, case.settings()).measure(layout, case.numbers(layout))
        assert sums.isfinite().all(dim=1).tolist() == [True, False, True, True], spoil


@usable
@pytest.mark.parametrize("kinds", [{"slow": Average(0.1)}, EVERY_KIND], ids=[3, 8])
def test_a_step_that_is_skipped_changes_no_memory(kinds: Any) -> None:
    params = parameters()
    optimizer = ProxOptimizer(params, Remembering(kinds), 0.02)
    walk(optimizer, params, 2)
    before = [optimizer.state[p][name].clone() for p in params for name in kinds]
    params[1].grad[7] = float("nan")  # type: ignore[index]
    optimizer.step()
    after = [optimizer.state[p][name] for p in params for name in kinds]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@usable
@pytest.mark.parametrize("dtype", kernels.TYPES)
def test_threads_change_no_bit(dtype: str) -> None:
    results = []
    for threads in (1, 2, 3):
        random = np.random.default_rng(0)
        kind = {"float32": np.float32, "float64": np.float64, "bfloat16": np.uint16, "float16": np.float16}[dtype]
        x, g = (random.integers(0, 1 << 14, 300_001).astype(kind) for _ in range(2))
        state = [random.standard_normal(300_001).astype(kernels.TYPES[dtype]) for _ in range(5)]
        at = [np.array([a.ctypes.data]) for a in (x, g, *state)]
        batch = kernels.Batch(dtype, np.array([300_001]), np.array([0]), *at[:3], further=np.stack(at[3:]))
        sums = kernels.measure(batch, 1, with_x=True, inertia=0.1, threads=threads)
        turns = Turns(np.array([AVERAGE, 2, COMBINATION, 0]), np.full(4, 0.3), random.standard_normal((1, 4, 6)))
        to = {"scale": [0.1], "shrink": [0.9], "turns": turns}
        kernels.move(batch, np.linspace(0, 1, 6)[None], **to, inertia=0.1, threads=threads)
        results.append([sums.tobytes(), *(a.tobytes() for a in (x, g, *state))])
    assert results[0] == results[1] == results[2]


@usable
def test_sums_do_not_depend_on_where_vectors_lie() -> None:
    case, sums = Case(torch.float32, memories=EVERY_KIND), []
    for _ in range(2):
        layout = case.layout(((3001,),) * 4, (0, 1, 2, 3))
        held = [memory.clone() for part in layout.parts for memory in part.memories]
        sums.append(NativePasses(layout, case.settings()).measure(layout, case.numbers(layout)))
        del held
    assert torch.equal(*sums)


@usable
def test_conjugate_memory_is_served() -> None:
    params = parameters()
    optimizer = ProxOptimizer(params, ConjugateMemory(beta_max=0.9), 0.02, metric=Adam(beta2=0.9))
    walk(optimizer, params, 2)
    assert optimizer.path == "C++ kernels"


def test_a_batch_says_what_further_memories_it_wants() -> None:
    one = np.zeros(1, np.int64)
    with pytest.raises(ValueError, match=r"further must have the shape \(K, 1\) with K <= 14, got \(15, 1\)"):
        kernels.Batch("float32", one, one, one, one, one, further=np.zeros((15, 1), np.int64))
    with pytest.raises(ValueError, match=r"further must have the shape \(K, 1\) with K <= 14, got \(1, 2\)"):
        kernels.Batch("float32", one, one, one, one, one, further=np.zeros((1, 2), np.int64))
    assert kernels.Batch("float32", one, one, one, one, one, further=np.zeros((0, 1), np.int64)).further is None


def test_turns_are_looked_at_before_anything_is_written() -> None:
    good = Turns(np.array([AVERAGE, 2]), np.zeros(2)).arrays(2, 1)
    assert_array_equal(good[0], [-1, 2])
    assert good[2] is None
    with pytest.raises(ValueError, match=r"becomes must be AVERAGE .*stands before, got \[2\]"):
        Turns(np.array([2]), np.zeros(1)).arrays(1, 1)
    with pytest.raises(ValueError, match=r"becomes must be AVERAGE .*stands before, got \[-3\]"):
        Turns(np.array([-3]), np.zeros(1)).arrays(1, 1)
    with pytest.raises(ValueError, match=r"must have the shape \(2,\), one entry for each further memory, got \(1,\)"):
        Turns(np.array([0]), np.zeros(1)).arrays(2, 1)
    with pytest.raises(ValueError, match=r"combinations must have the shape \(4, 1, 3\), got \(4, 1, 2\)"):
        Turns(np.array([COMBINATION]), np.zeros(1), np.zeros((4, 1, 2))).arrays(1, 4)


@usable
def test_a_batch_with_memories_is_told_what_they_become() -> None:
    one = np.zeros(1, np.int64)
    batch = kernels.Batch("float32", one, one, one, one, one, further=np.zeros((1, 1), np.int64))
    assert kernels.measure(batch, 1).shape == (1, 15)
    with pytest.raises(ValueError, match="turns must say what the further memories of the batch become, got None"):
        kernels.move(batch, np.zeros((1, 3)), scale=[1], shrink=[1])
    with pytest.raises(ValueError, match=r"direction must have the shape \(U, 3\), got \(1, 2\)"):
        kernels.move(batch, np.zeros((1, 2)), scale=[1], shrink=[1])


@usable
@pytest.mark.parametrize("becomes", [[2], [3], [-3], [COMBINATION]])
def test_the_library_looks_for_itself_what_a_memory_is_to_become(
    becomes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vector that stands behind it, one that is none, a combination without coefficients: no memory is touched."""
    batch, rows = bare(1)
    told = (np.array(becomes), np.zeros(1), None)
    monkeypatch.setattr(Turns, "arrays", lambda *_: told)
    with pytest.raises(ValueError, match="nothing was computed"):
        kernels.move(batch, np.ones((1, 3)), scale=[1.0], shrink=[1.0], turns=Turns(*told))
    assert_array_equal(rows, 1.0)


@usable
def test_the_library_counts_memories_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxmom.kernels.batch.MOST_FURTHER", MOST_FURTHER + 1)
    batch, rows = bare(MOST_FURTHER + 1)
    with pytest.raises(ValueError, match="nothing was computed"):
        kernels.measure(batch, 1)
    turns = Turns(np.zeros(MOST_FURTHER + 1, dtype=int), np.zeros(MOST_FURTHER + 1))
    with pytest.raises(ValueError, match="nothing was computed"):
        kernels.move(batch, np.ones((1, MOST_FURTHER + 3)), scale=[1.0], shrink=[1.0], turns=turns)
    assert_array_equal(rows, 1.0)


def bare(further: int) -> tuple[kernels.Batch, NDArray[Any]]:
    """Four ones in each vector of a single tensor: x, gradient, memory, and so many further memories."""
    rows = np.ones((3 + further, 4))
    at = np.array([[row.ctypes.data] for row in rows], dtype=np.uint64)
    one = np.array([4]), np.array([0])
    return kernels.Batch("float64", *one, x=at[0], gradient=at[1], memory=at[2], further=at[3:]), rows
