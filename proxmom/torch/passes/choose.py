"""`choose`: which way of moving arrays serves a layout best."""

from __future__ import annotations

from proxmom.torch.layout import Layout
from proxmom.torch.passes import Passes, Settings, cuda, native
from proxmom.torch.passes.operations import TorchPasses


def choose(layout: Layout, settings: Settings, foreach: bool | None) -> Passes:
    """The fastest passes that serve; torch operations where `foreach` asks for them, on blocks if it is True."""
    if foreach is None and cuda.serves(layout, settings):
        return cuda.TritonPasses(layout, settings)
    if foreach is None and native.serves(layout, settings):
        return native.NativePasses(layout, settings)
    return TorchPasses(layout, settings, pack=foreach is not False)
