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
from torch import Tensor, nn

from proxmom import Adam, AdaptiveMemory, Euclidean, HeavyBall
from proxmom.step import Method, Step
from proxmom.torch import AMSGD, AMAdamW, MoMo, ProxOptimizer
from proxmom.torch.arrange import arrange
from proxmom.torch.layout import Layout
from proxmom.torch.passes import Motion, Numbers, Settings, cuda
from proxmom.torch.passes.operations import TorchPasses

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if CUDA else "cpu"
runs = pytest.mark.skipif(not (CUDA or INTERPRETED), reason="no CUDA device: test_in_the_interpreter runs this")
device = pytest.mark.skipif(not CUDA, reason="no CUDA device")
compiled = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled in the interpreter")

SHAPES = ((0,), (), (15,), (300, 41), (4097,), (0,), (5,), (4096,))
GROUPS = (0, 0, 1, 2, 1, 3, 0, 2)  # group 3 has no elements
UNITS = 4
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}
ONE_STEP = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}  # of x


@pytest.fixture(autouse=True)
def scalars_stay_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do on CUDA; the interpreter's tensors are on the CPU."""
    monkeypatch.setattr(Layout, "on_host", False)


@dataclass(frozen=True)
class Case:
    """What the passes are asked for."""

    dtype: torch.dtype = torch.float64
    adam: bool = True
    inertia: float = 0.1
    coupled: bool = False
    with_x: bool = True
    sign: float = 1.0

    @property
    def metric(self) -> Any:
        return Adam(beta2=0.9, eps=1e-3) if self.adam else Euclidean()

    def settings(self) -> Settings:
        return Settings(self.metric, self.inertia, self.sign, {}, False)

    def layout(self, shapes: Any = SHAPES, groups: Any = GROUPS) -> Layout:
        """Always the same numbers; every tensor begins one element behind where an allocator would put it."""
        random = torch.Generator().manual_seed(0)
        params = [self._parameter(shape, random) for shape in shapes]
        state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        step = Step(Method(AdaptiveMemory(), self.metric, inertia=self.inertia, decay="decoupled"))
        layout = arranged(params, groups, state, step, "group")
        for part in layout.parts:
            part.memories[0].copy_(torch.randn(part.count, generator=random))
            for vector in part.vectors.values():
                vector.copy_(torch.randn(part.count, generator=random) ** 2)
        for name, column in layout.own().items():
            assert name == "count"
            column.copy_(torch.arange(4.0, 4 + UNITS)[: len(column), None])
        return layout

    def _parameter(self, shape: Any, random: torch.Generator) -> nn.Parameter:
        p, p.grad = (nn.Parameter(self._shifted(shape, random)), self._shifted(shape, random))
        return p

    def _shifted(self, shape: Any, random: torch.Generator) -> Tensor:
        count = torch.Size(shape).numel()
        return torch.randn(count + 1, generator=random).to(DEVICE, self.dtype)[1:].view(shape)

    def numbers(self, layout: Layout) -> Numbers:
        def row(*values: float) -> Tensor:
            return layout.table.new_tensor(values)

        return Numbers(
            coupled=row(0.3, 0.0, -0.2, 0.1) if self.coupled else None,
            factor=row(1.0, 0.5, 0.8, 1.0) if self.adam else None,
            own=layout.own(),
            with_x=self.with_x,
        )

    def motion(self, layout: Layout, sound: bool | None = None) -> Motion:
        def row(*values: Any) -> Tensor:
            return layout.table.new_tensor(values)

        return Motion(
            direction=row([0.3, 0.7], [1.0, -0.4], [-0.2, 0.9], [1.0, 1.0]),
            scale=row(0.1, 0.2, 0.0, 1.0),
            shrink=row(1.0, 0.9, 0.8, 1.0),
            sound=None if sound is None else torch.tensor(sound, device=DEVICE),
        )


def arranged(params: Any, groups: Any, state: Any, step: Step, scope: str) -> Layout:
    """A layout in the middle of a step."""
    members = [(group, place, p) for place, (group, p) in enumerate(zip(groups, params, strict=True))]
    layout = arrange(members, [f"parameter {place}" for place in range(len(params))], state, step, scope)
    layout.params = params
    look(layout)
    return layout


def look(layout: Layout) -> None:
    """What an optimizer does before each step."""
    assert layout.follows(layout.params)
    layout.begin(layout.params, [p.grad for p in layout.params])  # type: ignore[misc]


def parts(layout: Layout) -> list[Tensor]:
    rows = zip(layout.xs(), layout.parts, strict=True)
    return [vector.detach() for x, part in rows for vector in (x, *part.memories, *part.vectors.values())]


def assert_same_sums(got: Tensor, want: Tensor, case: Case) -> None:
    if not case.inertia:
        want[:, 3:6] = 0  # not asked for
    assert got.dtype == want.dtype
    scale = want.abs().amax(dim=1, keepdim=True)
    assert (abs(got - want) <= TOLERANCE[case.dtype] * scale).all(), (got - want).abs().max()


def assert_same_parts(got: Layout, want: Layout, case: Case) -> None:
    for mine, other in zip(parts(got), parts(want), strict=True):
        tolerance = TOLERANCE[case.dtype] if mine.dtype != case.dtype else ONE_STEP[case.dtype]
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


CASES = [
    Case(dtype, adam, inertia, coupled, with_x=not coupled, sign=-1.0 if coupled else 1.0)
    for dtype in cuda.TYPES
    for adam in (False, True)
    for inertia in (0.0, 0.1)
    for coupled in (False, True)
]


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
    numbers = Numbers(None, None, layout.own(), with_x=True)
    want = TorchPasses(layout, case.settings(), pack=True).measure(layout, numbers)
    assert_same_sums(cuda.TritonPasses(layout, case.settings()).measure(layout, numbers), want, case)


@runs
def test_nothing_at_all_can_be_measured() -> None:
    case = Case()
    layout = case.layout(((0,),), (0,))
    passes, numbers = cuda.TritonPasses(layout, case.settings()), Numbers(None, None, layout.own(), with_x=True)
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
    passes, numbers = cuda.TritonPasses(layout, Case().settings()), Numbers(None, None, layout.own(), with_x=False)
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
        patch.setattr(cuda, "_capturing", lambda _: True)
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


@pytest.mark.skipif(INTERPRETED or CUDA, reason="this run is the one, or has a device")
def test_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    sequences = f"{Path(__file__).with_name('test_fuzz.py')}::test_whatever_happens_between_steps[triton]"
    files = [__file__, sequences]
    command = [sys.executable, "-m", "pytest", *files, "-n", "0", "-p", "no:cacheprovider", "--durations", "0"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "PROXMOM_FUZZ": "12"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-10000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) >= len(CASES)


# ---- What can be seen on any machine


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


# ---- Compiled for a device that need not be there


def compile_for(kernel: Any, pointers: dict[str, str], constants: dict[str, Any], capability: int = 90) -> Any:
    """All stages of a kernel down to machine code."""
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.compiler")
    target = pytest.importorskip("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    signature = {name: pointers.get(name, "constexpr") for name in kernel.arg_names}
    constexprs = {name: constants.get(name) for name in kernel.arg_names if name not in pointers}
    source = compiler.ASTSource(kernel, signature, constexprs)
    return triton.compile(source, target=target, options=cuda.OPTIONS).asm


def compile_passes(dtype: torch.dtype, adam: bool, inertia: float, capability: int = 90) -> tuple[Any, Any]:
    constants = cuda._constants(dtype)
    settings = {"SIGN": 1.0, "BETA2": 0.999 if adam else None, "INERTIA": inertia, "WITH_X": True}
    row = "*fp64" if dtype == torch.float64 else "*fp32"
    common = {"tensors": "*i64", "addresses": "*i64", "coupled": row}
    common |= {"at_zero": "*fp64", "at_one": "*fp64"} if adam else {}
    motion = {**common, "direction": row, "scale": row, "shrink": row, "sound": "*i1"}
    kernels = cuda._kernels()
    return (
        compile_for(kernels.measure, {**common, "sums": row}, {**constants, **settings}, capability),
        compile_for(kernels.move, motion, {**constants, **settings}, capability),
    )


@pytest.fixture
def own_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@compiled
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("adam", [False, True], ids=["Euclidean", "Adam"])
@pytest.mark.parametrize("inertia", [0.0, 0.1])
@pytest.mark.parametrize("dtype", cuda.TYPES, ids=str)
def test_the_kernels_compile(dtype: torch.dtype, adam: bool, inertia: float) -> None:
    pytest.importorskip("triton")
    wide = "f64" if dtype == torch.float64 else "f32"
    for stages in compile_passes(dtype, adam, inertia):
        code = stages["ptx"]
        assert stages["cubin"]
        assert "approx" not in code  # neither square roots nor quotients
        assert "div.full" not in code
        assert (f"sqrt.rn.{wide}" in code) == adam
        assert ".local" not in code  # no array has left the registers
    assert ("cvt.rn.bf16" in code) == (dtype == torch.bfloat16)  # x is rounded to nearest, ties to even
    assert ("cvt.rn.f16" in code) == (dtype == torch.float16)
    assert ("f64" in code) == (dtype == torch.float64 or adam)  # P's two values are float64


@compiled
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("capability", [75, 80, 100])
def test_older_and_newer_devices_are_compiled_for(capability: int) -> None:
    pytest.importorskip("triton")
    assert all(stages["cubin"] for stages in compile_passes(torch.bfloat16, True, 0.1, capability))


@compiled
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("row", ["*fp32", "*fp64"])
def test_adding_up_compiles_without_atomics(row: str) -> None:
    pytest.importorskip("triton")
    pointers = {"sums": row, "ends": "*i64", "total": row}
    stages = compile_for(cuda._kernels().add_up, pointers, {"ROWS": cuda.ROWS})
    assert stages["cubin"]
    assert not re.search(r"\b(atom|red)\.", stages["ptx"])


class Dry:
    """A kernel that is specialised and compiled for its arguments, as in a launch, but not launched."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.compiled = kernel, []

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **named: self.compiled.append(self.kernel.warmup(*args, grid=grid, **named))


class Driver:
    """As much of a driver as compiling needs."""

    def get_current_device(self) -> int:
        return 1000  # so that nothing compiled here is taken for a real device

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return pytest.importorskip("triton.backends.compiler").GPUTarget("cuda", 90, 32)


@compiled
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("case", [*CASES[:9:3], *CASES[16::7]], ids=str)
def test_the_passes_launch_what_compiles(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the launch itself: arguments by name, specialisation, options."""
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    kernels = cuda._kernels()
    dry = {name: Dry(getattr(kernels, name)) for name in ("measure", "add_up", "move")}
    for name, kernel in dry.items():
        monkeypatch.setattr(kernels, name, kernel)
    layout = case.layout()
    passes, numbers = cuda.TritonPasses(layout, case.settings()), case.numbers(layout)
    passes.measure(layout, numbers)
    passes.move(layout, numbers, case.motion(layout))
    passes.move(layout, numbers, case.motion(layout, sound=True))
    assert [len(kernel.compiled) for kernel in dry.values()] == [1, 1, 2]
    assert all(code.asm["cubin"] for kernel in dry.values() for code in kernel.compiled)


# ---- Only on a device


def on_device(count: int = 20, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(1000 + i, device="cuda").to(dtype)) for i in range(count)]


def new_gradients(params: list[nn.Parameter]) -> None:
    for p in params:
        p.grad = torch.randn_like(p)


PAPER: dict[str, Callable[..., ProxOptimizer]] = {"AMSGD": AMSGD, "AMAdamW": AMAdamW}
paper = pytest.mark.parametrize("make", PAPER.values(), ids=PAPER.keys())


@device
@paper
@pytest.mark.parametrize("dtype", cuda.TYPES, ids=str)
def test_a_step_never_waits_for_the_device(make: Any, dtype: torch.dtype) -> None:
    params = on_device(dtype=dtype)
    optimizer = make(params)
    for _ in range(3):
        new_gradients(params)
        optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            held = [p.grad for p in params]  # so that the new ones lie elsewhere
            new_gradients(params)
            optimizer.step()
            del held
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert isinstance(optimizer._layouts[0].passes, cuda.TritonPasses)


@device
@paper
def test_a_captured_step_replays_like_an_eager_one(make: Any) -> None:
    torch.manual_seed(0)
    params = on_device()
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer, eager = make(params, capturable=True), make(twins, capturable=True)
    gradients = [[torch.randn_like(p) for p in params] for _ in range(8)]

    def load(values: list[Tensor]) -> None:
        for p, q, g in zip(params, twins, values, strict=True):
            p.grad = torch.empty_like(p) if p.grad is None else p.grad
            p.grad.copy_(g)
            q.grad = g.clone()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for values in gradients[:3]:
            load(values)
            optimizer.step()
            eager.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for i, values in enumerate(gradients[3:]):
        load(values)
        if i == 2:  # an eager step in between, with gradients elsewhere, must not disturb the graph's table
            static = [p.grad for p in params]
            for p in params:
                p.grad = p.grad.clone()  # type: ignore[union-attr]
            optimizer.step()
            for p, g in zip(params, static, strict=True):
                p.grad = g
        else:
            graph.replay()
        eager.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


def launches(optimizer: ProxOptimizer) -> dict[str, int]:
    """Kernels of one step by name, and all of them."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        optimizer.step()
        torch.cuda.synchronize()
    on_card = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    counts = {name: sum(event.name == name for event in on_card) for name in ("measure", "add_up", "move")}
    return {**counts, "all": len(on_card)}


@device
@paper
def test_launches_do_not_grow_with_the_model(make: Any) -> None:
    counts = []
    for tensors in (2, 200):
        params = on_device(tensors)
        optimizer = make(params, scope="model")
        for _ in range(3):
            new_gradients(params)
            optimizer.step()
        counts.append(launches(optimizer))
    print(counts)
    assert counts[0] == counts[1]
    assert counts[1] == {"measure": 1, "add_up": 1, "move": 1, "all": counts[1]["all"]}
