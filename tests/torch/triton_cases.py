"""What the tests of the passes by Triton share: cases, layouts, and what counts as the same."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxmom import Adam, Euclidean
from proxmom.memories import Memory
from proxmom.step import Method, Step
from proxmom.torch.arrange import _layout
from proxmom.torch.layout import Layout
from proxmom.torch.passes import Motion, Numbers, Settings, cuda
from tests.torch.remembering import Remembering, motion

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if CUDA else "cpu"


def runs(test: Any) -> Any:
    """For a device, or Triton's interpreter."""
    reason = "no CUDA device: test_in_the_interpreter runs this"
    return pytest.mark.device(pytest.mark.skipif(not (CUDA or INTERPRETED), reason=reason)(test))


def device(test: Any) -> Any:
    """For a device alone."""
    return pytest.mark.device(pytest.mark.skipif(not CUDA, reason="no CUDA device")(test))


compiled = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled in the interpreter")

SHAPES = ((0,), (), (15,), (300, 41), (4097,), (0,), (5,), (4096,))
GROUPS = (0, 0, 1, 2, 1, 3, 0, 2)  # group 3 has no elements
UNITS = 4
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}
ONE_STEP = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}  # of x


@dataclass(frozen=True)
class Case:
    """What the passes are asked for."""

    dtype: torch.dtype = torch.float64
    adam: bool = True
    inertia: float = 0.1
    coupled: bool = False
    with_x: bool = True
    sign: float = 1.0
    memories: Mapping[str, Memory] = field(default_factory=dict)

    @property
    def metric(self) -> Any:
        return Adam(beta2=0.9, eps=1e-3) if self.adam else Euclidean()

    def settings(self) -> Settings:
        return Settings(self.metric, self.inertia, self.sign, dict(self.memories), False)

    def layout(self, shapes: Any = SHAPES, groups: Any = GROUPS) -> Layout:
        """Always the same numbers; every tensor begins one element behind where an allocator would put it."""
        random = torch.Generator().manual_seed(0)
        params = [self._parameter(shape, random) for shape in shapes]
        state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        step = Step(Method(Remembering(self.memories), self.metric, inertia=self.inertia, decay="decoupled"))
        layout = arranged(params, groups, state, step, "group")
        for part in layout.parts:
            for memory in part.memories:
                memory.copy_(torch.randn(part.count, generator=random))
            for vector in part.vectors.values():
                vector.copy_(torch.randn(part.count, generator=random) ** 2)
        for name, column in layout.metric_scalars().items():
            assert name == "count"
            column[:] = layout.array(torch.arange(4.0, 4 + UNITS)[: len(column), None])
        return layout

    def _parameter(self, shape: Any, random: torch.Generator) -> nn.Parameter:
        p, p.grad = (nn.Parameter(self._shifted(shape, random)), self._shifted(shape, random))
        return p

    def _shifted(self, shape: Any, random: torch.Generator) -> Tensor:
        count = torch.Size(shape).numel()
        return torch.randn(count + 1, generator=random).to(DEVICE, self.dtype)[1:].view(shape)

    def numbers(self, layout: Layout) -> Numbers:
        def row(*values: float) -> Any:
            return layout.array(layout.scalar_rows.new_tensor(values))

        factor = row(1.0, 0.5, 0.8, 1.0) if self.adam else None
        return Numbers(
            coupled=row(0.3, 0.0, -0.2, 0.1) if self.coupled else None,
            factor=factor,
            metric_scalars=layout.metric_scalars(),
            with_x=self.with_x,
            diagonal=None if factor is None else self._diagonal(layout, torch.as_tensor(factor).double()),
        )

    def bare(self, layout: Layout, *, with_x: bool = True) -> Numbers:
        """Without decay or factor, however many units there are."""
        one = torch.ones((), dtype=torch.float64, device=DEVICE)
        return Numbers(None, None, layout.metric_scalars(), with_x, self._diagonal(layout, one) if self.adam else None)

    def _diagonal(self, layout: Layout, factor: Tensor) -> tuple[Any, ...]:
        count = torch.as_tensor(layout.metric_scalars()["count"][:, 0]).double() + 1
        moments = torch.tensor([[0.0], [1.0]], dtype=torch.float64, device=count.device).repeat(1, len(count))
        diagonal: Tensor = self.metric.diagonal({"second_moment": moments, "count": count}, factor)
        return tuple(layout.array(each) for each in diagonal.unbind())

    def motion(self, layout: Layout, sound: bool | None = None) -> Motion:
        if self.memories:
            flag = None if sound is None else torch.tensor(sound, device=DEVICE)
            return motion(layout, self.memories, flag)

        def row(*values: Any) -> Tensor:
            return layout.scalar_rows.new_tensor(values)

        return Motion(
            direction=row([0.3, 0.7], [1.0, -0.4], [-0.2, 0.9], [1.0, 1.0]),
            scale=row(0.1, 0.2, 0.0, 1.0),
            shrink=row(1.0, 0.9, 0.8, 1.0),
            sound=None if sound is None else torch.tensor(sound, device=DEVICE),
        )


def arranged(params: Any, groups: Any, state: Any, step: Step, scope: str) -> Layout:
    """A layout in the middle of a step."""
    members = [(group, place, p) for place, (group, p) in enumerate(zip(groups, params, strict=True))]
    layout = _layout(members, [f"parameter {place}" for place in range(len(params))], state, step, scope)
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
        vectors = len(case.memories) + 2
        pairs = vectors * (vectors + 1) // 2
        want[:, pairs : 2 * pairs] = 0  # not asked for
    assert got.dtype == want.dtype
    scale = want.abs().amax(dim=1, keepdim=True)
    assert (abs(got - want) <= TOLERANCE[case.dtype] * scale).all(), (got - want).abs().max()


def assert_same_parts(got: Layout, want: Layout, case: Case) -> None:
    for mine, other in zip(parts(got), parts(want), strict=True):
        tolerance = TOLERANCE[case.dtype] if mine.dtype != case.dtype else ONE_STEP[case.dtype]
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


CASES = [  # every second one in the interpreter: any three of the four settings are there in every combination
    Case(dtype, adam, inertia, coupled, with_x=not coupled, sign=-1.0 if coupled else 1.0)
    for place, dtype in enumerate(cuda.TYPES)
    for adam in (False, True)
    for inertia in (0.0, 0.1)
    for coupled in (False, True)
    if CUDA or (place + adam + (inertia > 0) + coupled) % 2 == 0
]
