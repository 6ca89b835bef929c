"""The passes by Triton: the torch path's numbers, on CUDA or, without a device, in Triton's interpreter.

Where there is no CUDA device, `test_in_the_interpreter` runs this file once more with TRITON_INTERPRET=1, in a process
of its own: Triton looks at it when it is imported.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from proxmom import AdaptiveMemory, Euclidean, HeavyBall
from proxmom.step import Method, Step
from proxmom.torch import AMSGD, AMAdamW, MoMo, ProxOptimizer
from proxmom.torch.passes import cuda
from proxmom.torch.passes.operations import TorchPasses
from tests.torch.triton_cases import (
    CASES,
    CUDA,
    DEVICE,
    GROUPS,
    INTERPRETED,
    UNITS,
    Case,
    arranged,
    assert_same_parts,
    assert_same_sums,
    look,
    parts,
    runs,
)

pytestmark = pytest.mark.usefixtures("scalars_stay_on_the_device")


@runs
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_numbers_are_those_of_the_torch_path(case: Case) -> None:
    layout, other = case.layout(), case.layout()
    passes = cuda.TritonPasses(layout, case.settings())
    reference = TorchPasses(other, case.settings(), pack=True)
    numbers, expected = case.numbers(layout), case.numbers(other)
    assert_same_sums(passes.measure(layout, numbers), reference.measure(other, expected), case)
    passes.move(layout, numbers, case.motion(layout, sound=True))
    reference.move(other, expected, case.motion(other))
    assert_same_parts(layout, other, case)


@runs
@pytest.mark.parametrize("adam", [False, True])
def test_types_may_be_mixed_and_are_summed_in_the_best(adam: bool) -> None:
    case, mixed = Case(adam=adam), []
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        mixed += Case(dtype).layout().params
    step = Step(Method(AdaptiveMemory(), case.metric, inertia=case.inertia, decay="decoupled"))
    layout = arranged(mixed, GROUPS * 3, defaultdict(dict), step, "group")
    numbers = case.numbers(layout)
    sums = cuda.TritonPasses(layout, case.settings()).measure(layout, numbers)
    want = TorchPasses(layout, case.settings(), pack=True).measure(layout, numbers)
    assert sums.dtype == torch.float64
    assert_same_sums(sums, want, Case(torch.float32))


@runs
@pytest.mark.parametrize("case", [Case(dtype, adam) for dtype in cuda.TYPES for adam in (False, True)], ids=str)
def test_a_step_that_is_not_sound_changes_no_bit(case: Case) -> None:
    layout = case.layout()
    for p in layout.params:
        p.grad.fill_(float("nan"))  # type: ignore[union-attr]
    passes, numbers = cuda.TritonPasses(layout, case.settings()), case.numbers(layout)
    before = [vector.clone() for vector in parts(layout)]
    passes.measure(layout, numbers)
    passes.move(layout, numbers, case.motion(layout, sound=False))
    assert all(torch.equal(a, b) for a, b in zip(before, parts(layout), strict=True))


@runs
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("adam", [False, True])
def test_what_is_not_finite_arrives_in_its_unit_only(adam: bool, value: float) -> None:
    case = Case(torch.float32, adam)
    layout = case.layout()
    layout.params[4].grad[4096] = value  # type: ignore[index]  # unit 1, the only element of its chunk
    sums = cuda.TritonPasses(layout, case.settings()).measure(layout, case.numbers(layout))
    assert sums.isfinite().all(dim=1).tolist() == [True, False, True, True]


@runs
def test_x_is_not_read_where_there_is_no_decay() -> None:
    case = Case(coupled=True, with_x=False)
    layout = case.layout()
    layout.params[2].data.fill_(float("nan"))  # unit 1, where coupled is 0
    assert cuda.TritonPasses(layout, case.settings()).measure(layout, case.numbers(layout)).isfinite().all()


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_the_same_bits_in_every_run(dtype: torch.dtype) -> None:
    case = Case(dtype)
    layout = case.layout()
    passes, numbers = cuda.TritonPasses(layout, case.settings()), case.numbers(layout)
    first = passes.measure(layout, numbers)
    assert all(torch.equal(first, passes.measure(layout, numbers)) for _ in range(3))


@runs
def test_many_chunks_are_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "ROWS", 2)  # several rounds of adding up
    case = Case()
    layout = case.layout(((20000,), (9000,)), (0, 1))
    numbers = case.bare(layout)
    want = TorchPasses(layout, case.settings(), pack=True).measure(layout, numbers)
    assert_same_sums(cuda.TritonPasses(layout, case.settings()).measure(layout, numbers), want, case)


@runs
def test_nothing_at_all_can_be_measured() -> None:
    case = Case()
    layout = case.layout(((0,),), (0,))
    passes, numbers = (
        cuda.TritonPasses(layout, case.settings()),
        case.bare(layout),
    )
    assert passes.measure(layout, numbers).tolist() == [[0.0] * 8]
    passes.move(layout, numbers, case.motion(layout))


class Counter:
    """A kernel that counts its launches."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.launches = kernel, 0

    def __getitem__(self, grid: Any) -> Any:
        self.launches += 1
        return self.kernel[grid]


@runs
@pytest.mark.parametrize("tensors", [1, 40])
def test_a_pass_is_one_launch_and_one_to_add_up(tensors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = {name: Counter(getattr(cuda._kernels(), name)) for name in ("measure", "add_up", "move")}
    for name, counter in counters.items():
        monkeypatch.setattr(cuda._kernels(), name, counter)
    layout = Case().layout(((7,),) * tensors, tuple(i % UNITS for i in range(tensors)))
    passes, numbers = (
        cuda.TritonPasses(layout, Case().settings()),
        Case().bare(layout, with_x=False),
    )
    passes.measure(layout, numbers)
    passes.move(layout, numbers, Case().motion(layout))
    assert [counter.launches for counter in counters.values()] == [1, 1, 1]


@runs
def test_addresses_travel_only_when_they_have_changed() -> None:
    case = Case()
    layout = case.layout()
    passes, numbers = cuda.TritonPasses(layout, case.settings()), case.numbers(layout)
    (batch,) = passes._batches
    first = passes.measure(layout, numbers)
    table = batch._addresses
    passes.measure(layout, numbers)
    assert batch._addresses is table
    layout.params[4].grad = 2 * layout.params[4].grad  # type: ignore[operator]
    look(layout)
    assert not torch.equal(passes.measure(layout, numbers), first)
    assert batch._addresses is not table


@runs
def test_a_captured_step_has_a_table_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay copies from the host what was there: it must stay there, and nobody else may use the copy."""
    case = Case()
    layout = case.layout()
    passes, numbers = cuda.TritonPasses(layout, case.settings()), case.numbers(layout)
    (batch,) = passes._batches
    passes.measure(layout, numbers)
    held = len(cuda._captured)
    with monkeypatch.context() as patch:
        patch.setattr(cuda, "is_capturing", lambda _: True)
        tables = []
        for _ in range(cuda.SPARE + 1):
            passes.measure(layout, numbers)
            tables.append(batch._addresses)
    assert len({table.data_ptr() for table in tables}) == len(cuda._captured) - held == cuda.SPARE + 1
    passes.measure(layout, numbers)
    assert all(batch._addresses is not table for table in tables)


MAKE: dict[str, Callable[..., ProxOptimizer]] = {
    "AMSGD": lambda params, **given: AMSGD(params, 0.1, weight_decay=0.1, **given),
    "AMSGD, ascent": lambda params, **given: AMSGD(params, 0.1, scope="tensor", maximize=True, **given),
    "AMAdamW": lambda params, **given: AMAdamW(params, 0.1, **given),
    "AMAdamW, no inertia": lambda params, **given: AMAdamW(params, 0.1, scope="model", inertia=0.0, **given),
    "heavy ball": lambda params, **given: ProxOptimizer(params, HeavyBall(0.8), 0.1, **given),
    "MoMo": lambda params, **given: MoMo(params, lower_bound=-1.0, weight_decay=0.1, **given),
}


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """Also some that are not contiguous, or not even dense."""
    random = torch.Generator().manual_seed(1)
    shapes = ((3, 4), (), (0,), (5000,), (2, 3, 4, 4), (6, 6))
    tensors = [torch.randn(shape, generator=random).to(DEVICE, dtype) for shape in shapes]
    tensors[4] = tensors[4].contiguous(memory_format=torch.channels_last)
    tensors[5] = tensors[5][::2, ::2]
    return [nn.Parameter(tensor) for tensor in tensors]


def give(params: list[nn.Parameter], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=random).to(p)


@runs
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())
def test_an_optimizer_takes_the_same_path(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not CUDA:
        monkeypatch.setattr(cuda, "serves", lambda *_: True)
    fast, slow = parameters(), parameters()
    one, other = make(fast), make(slow, foreach=True)
    for seed in range(4):
        for params, optimizer in ((fast, one), (slow, other)):
            give(params, seed)
            optimizer.step(loss=1.0 + seed)
    assert isinstance(one._layouts[0].passes, cuda.TritonPasses)
    assert isinstance(other._layouts[0].passes, TorchPasses)
    for p, q in zip(fast, slow, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-11)


SEQUENCES = "test_fuzz.py::test_whatever_happens_between_steps[triton]"
INTERPRETER = {  # halves, so that two workers share the minute and a half
    "memories": ["test_cuda.py", "test_cuda_vectors.py", SEQUENCES],
    "scalars, signs": ["test_triton_tape.py", "test_cuda_signs.py"],
}


@pytest.mark.skipif(INTERPRETED or CUDA, reason="this run is the one, or has a device")
@pytest.mark.parametrize("half", INTERPRETER)
def test_in_the_interpreter(half: str) -> None:
    pytest.importorskip("triton")
    files = [str(Path(__file__).with_name(name)) for name in INTERPRETER[half]]
    command = [sys.executable, "-m", "pytest", *files, "-p", "no:cacheprovider", "--durations", "0"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "PROXMOM_FUZZ": "8"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-10000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) >= len(CASES)


# ---- What can be seen on any machine


@pytest.mark.skipif(INTERPRETED, reason="the run that starts the interpreter sees it")
def test_triton_is_not_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, proxmom.torch; assert 'triton' not in sys.modules and 'proxmom.torch.passes.cuda' in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_host_is_not_served() -> None:
    step = Step(Method(HeavyBall(), Euclidean(), inertia=0.0, decay="coupled"))
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.zeros(2)
    layout = arranged([p], (0,), defaultdict(dict), step, "model")
    assert not cuda.serves(layout, Case().settings())


@pytest.fixture
def anew() -> Any:
    cuda._works.cache_clear()
    yield
    cuda._works.cache_clear()


@pytest.mark.usefixtures("anew")
def test_without_triton_there_is_no_noise(monkeypatch: pytest.MonkeyPatch, recwarn: Any) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "proxmom.torch.passes.triton_kernels", raising=False)
    assert not cuda._works(torch.device("cuda"))
    assert not recwarn.list


@pytest.mark.usefixtures("anew")
def test_a_triton_that_cannot_compile_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        COMPILED = True

        @property
        def add_up(self) -> Any:
            raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(cuda, "_kernels", Broken)
    monkeypatch.setattr(cuda, "_on", lambda _: torch.no_grad())
    with pytest.warns(UserWarning, match="does not work on cpu, torch operations do its work: Failed to find"):
        assert not cuda._works(torch.device("cpu"))
    assert not cuda._works(torch.device("cpu"))


@pytest.mark.parametrize(("count", "size"), [(1, 4096), (10_000, 4096), (11_000_000, 8192), (10**9, 65536)])
def test_chunks_grow_with_the_model(count: int, size: int) -> None:
    @dataclass
    class Part:
        count: int
        unit: int

    shapes, units = (count, 0, 5), (1, 0, 0)
    all_parts: Any = [Part(n, unit) for n, unit in zip(shapes, units, strict=True)]
    pieces = cuda._chunks(all_parts)
    assert [piece.row for piece in pieces] == list(range(len(pieces)))
    assert pieces[0] == (2, 0, 5, 0)  # unit 0 comes first
    assert sum(piece.size for piece in pieces) == sum(shapes)
    assert max(piece.size for piece in pieces) == min(size, max(shapes))
    assert all(piece.start % size == 0 for piece in pieces)


def test_ends_of_units() -> None:
    assert cuda._ends([0, 0, 2], 4).tolist() == [0, 2, 2, 3, 3]
    assert cuda._ends([], 1).tolist() == [0, 0]
