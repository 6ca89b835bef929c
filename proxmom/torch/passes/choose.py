"""`choose`: which way of moving arrays serves a layout best."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

from proxmom import kernels
from proxmom.kernels.build import LIBRARY, switched_off
from proxmom.metrics import kind_of
from proxmom.torch.entries import by_element
from proxmom.torch.layout import Layout
from proxmom.torch.passes import Passes, Settings, cuda, cuda_signs, native, native_signs
from proxmom.torch.passes.low_rank import LowRankPasses
from proxmom.torch.passes.norms import NormPasses
from proxmom.torch.passes.operations import TorchPasses
from proxmom.torch.passes.whole import WholePasses


def choose(layout: Layout, settings: Settings, foreach: bool | None) -> Passes:
    """The fastest passes that serve; torch operations where `foreach` asks for them, on blocks if it is True.

    A metric that is not element-wise has one way, whatever `foreach` says, but for a hard step in the maximum norm.
    """
    if kind_of(settings.metric) == "low rank":
        return LowRankPasses(layout, settings)
    if kind_of(settings.metric) == "norm":
        if foreach is None and cuda_signs.serves(layout, settings):
            return cuda_signs.TritonSignPasses(layout, settings)
        if foreach is None and native_signs.serves(layout, settings):
            return native_signs.NativeSignPasses(layout, settings)
        if foreach is None and layout.on_host and native_signs.knows(settings):
            say_why_slower()
        return NormPasses(layout, settings)
    if not by_element(settings.metric):
        return WholePasses(layout, settings)
    if foreach is None and cuda.serves(layout, settings):
        return cuda.TritonPasses(layout, settings)
    if foreach is None and native.serves(layout, settings):
        return native.NativePasses(layout, settings)
    if foreach is None and layout.on_host and settings.for_kernels:
        say_why_slower()
    passes = TorchPasses(layout, settings, pack=foreach is not False)
    if foreach is None and settings.looks_at_x:
        passes.name += " (kernels do not read x as a vector)"
    return passes


@cache
def say_why_slower() -> None:
    """Warns, once in a process, where torch operations do what the C++ kernels would, had they been compiled.

    Not where they are switched off on purpose, nor where the library is refused: that was said when it was.
    """
    folder = Path(kernels.__file__).parent
    if switched_off() or (folder / LIBRARY).exists():
        return
    remedy = kernels.why_not().removesuffix(".")
    warnings.warn(
        f"torch operations make proxmom's steps (optimizer.path says so), as right and slower: {remedy}, which needs a "
        "C++ compiler. PROXMOM_KERNELS=0 does without, and without this line.",
        stacklevel=2,
    )
