"""The passes by Triton, compiled for a device that need not be there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from proxmom.memories import Average
from proxmom.metrics.norms import FAINT
from proxmom.step import sections
from proxmom.torch.passes import cuda, cuda_signs
from proxmom.torch.passes.cuda_vectors import Several
from tests.torch import test_cuda_signs as signs_cases
from tests.torch.triton_cases import (
    CASES,
    Case,
    compiled,
)

pytestmark = pytest.mark.usefixtures("scalars_stay_on_the_device")


def compile_for(
    kernel: Any, pointers: dict[str, str], constants: dict[str, Any], capability: int = 90, options: Any = cuda.OPTIONS
) -> Any:
    """All stages of a kernel down to machine code."""
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.compiler")
    target = pytest.importorskip("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    signature = {name: pointers.get(name, "constexpr") for name in kernel.arg_names}
    constexprs = {name: constants.get(name) for name in kernel.arg_names if name not in pointers}
    source = compiler.ASTSource(kernel, signature, constexprs)
    return triton.compile(source, target=target, options=options).asm


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


def all_of(dtypes: Any, others: Any, quick: Callable[[int, int], bool]) -> list[Any]:
    """Every dtype with all others; those that are not quick, by their numbers, are for `make test-slow`."""
    return [
        pytest.param(dtype, *other, marks=() if quick(i, j) else pytest.mark.slow, id=f"{dtype}-{other}")
        for i, dtype in enumerate(dtypes)
        for j, other in enumerate(others)
    ]


@pytest.fixture
def own_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@compiled
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    ("dtype", "adam", "inertia"),
    all_of(cuda.TYPES, [(False, 0.0), (True, 0.1), (False, 0.1), (True, 0.0)], quick=lambda i, j: j < 2 or i == 0),
)
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
    stages = compile_for(cuda._kernels().add_up, pointers, {"ROWS": cuda.ROWS, "WIDTH": 15})
    assert stages["cubin"]
    assert not re.search(r"\b(atom|red)\.", stages["ptx"])


@compiled
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    ("dtype", "count", "adam"),
    all_of(
        [torch.float32, torch.bfloat16, torch.float64],
        [(3, True), (4, False), (4, True), (8, True), (16, True)],
        quick=lambda i, j: i == j % 3,
    ),
)
def test_the_kernels_for_further_memories_compile(dtype: torch.dtype, count: int, adam: bool) -> None:
    pytest.importorskip("triton")
    for stages in compile_vectors(dtype, adam, 0.1, count):
        assert stages["cubin"]
        assert "approx" not in stages["ptx"]
        assert "div.full" not in stages["ptx"]
        assert ".local" not in stages["ptx"]


def compile_vectors(dtype: torch.dtype, adam: bool, inertia: float, count: int) -> list[Any]:
    """Both passes for `count` vectors."""
    row = "*fp64" if dtype == torch.float64 else "*fp32"
    several = Several({f"m{k}": Average(0.1) for k in range(count - 2)}, 1, torch.zeros(1))
    fixed = {**cuda._constants(dtype), "SIGN": 1.0, "BETA2": 0.999 if adam else None, "INERTIA": inertia}
    common = {"tensors": "*i64", "addresses": "*i64", "vectors": "*i64", "coupled": row}
    common |= {"at_zero": "*fp64", "at_one": "*fp64"} if adam else {}
    passes = {
        "measure": {**common, "sums": row},
        "move": {**common, "direction": row, "turns": row, "scale": row, "shrink": row, "sound": "*i1"},
    }
    made = []
    for name, pointers in passes.items():
        constants = {**fixed, "WITH_X": True, **several.constants(dtype, measure=name == "measure")}
        warps, kernel = constants.pop("num_warps"), getattr(cuda._of_several(), f"{name}_vectors")
        made.append(compile_for(kernel, pointers, constants, options={**cuda.OPTIONS, "num_warps": warps}))
    return made


@compiled
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("count", [1, sections.SLOPES])
@pytest.mark.parametrize("dtype", cuda.TYPES, ids=str)
def test_the_kernels_of_signs_compile(dtype: torch.dtype, count: int) -> None:
    pytest.importorskip("triton")
    kernels, row = cuda_signs._kernels(), "*fp64" if dtype == torch.float64 else "*fp32"
    common = {"tensors": "*i64", "addresses": "*i64", "coupled": row, "sums": row}
    motion = {**common, "sound": "*i1", **dict.fromkeys(("direction", "scale", "shrink", "parts"), row)}
    given = {"SIGN": 1.0, "WITH_X": True, "PARTS": 2, "FAINT": FAINT, "INVERSE": 1 / FAINT}
    for kernel, pointers, more in (
        (kernels.recall, common, given),
        (kernels.pull, {**common, "slopes": row}, {**given, "COUNT": count}),
        (kernels.move, motion, given),
    ):
        pointers = {name: kind for name, kind in pointers.items() if name in kernel.arg_names}
        constants = cuda_signs._constants_for(dtype, more)
        stages = compile_for(kernel, pointers, constants, options=cuda_signs.OPTIONS)
        assert stages["cubin"]
        code = stages["ptx"]
        assert ".local" not in code  # no array has left the registers
        tile = count * constants.get("PIECE", 0) // (32 * cuda_signs.OPTIONS["num_warps"])
        assert code.count("fma.") == 2 * tile  # more, and a slope that cancels would have a sign
        assert not re.search(r"\b(atom|red)\.", code)


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


@compiled
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("case", signs_cases.CASES[::3], ids=str)
def test_the_passes_of_signs_launch_what_compiles(case: signs_cases.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    kernels = cuda_signs._kernels()
    dry = {name: Dry(getattr(kernels, name)) for name in ("recall", "pull", "add_up", "move")}
    for name, kernel in dry.items():
        monkeypatch.setattr(kernels, name, kernel)
    layout = case.layout()
    passes, numbers = cuda_signs.TritonSignPasses(layout, case.settings()), case.numbers(layout)
    passes.measure(layout, numbers)
    passes.pulls(layout, layout.scalar_rows.new_ones((len(layout.scalar_rows), sections.SLOPES, 2)))
    passes.move(layout, numbers, case.motion(layout))
    passes.move(layout, numbers, case.motion(layout, sound=True))
    assert [len(kernel.compiled) for kernel in dry.values()] == [1, 1, 2, 2]
    assert all(code.asm["cubin"] for kernel in dry.values() for code in kernel.compiled)
