"""Fixtures of the torch backend's tests."""

from __future__ import annotations

from typing import Any

import pytest

from proxmom.torch.layout import Layout
from tests.torch.common import NAMED


@pytest.fixture(params=NAMED.values(), ids=NAMED.keys())
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def scalars_stay_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do on CUDA; the interpreter's tensors are on the CPU."""
    monkeypatch.setattr(Layout, "on_host", False)
