"""What all tests share: one table of rules, random problems, and hypothesis settings that suit a slow machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch comes: the workers already share the cores

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from proxmom import (
    Adam,
    AdaptiveMemory,
    ConjugateMemory,
    Euclidean,
    GradientDescent,
    HeavyBall,
    MoMo,
    Polyak,
    SteadyMemory,
    TruncatedMemory,
)

settings.register_profile("proxmom", deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("proxmom")

HERE = Path(__file__).parent

# The table: a rule, and whether it looks at the loss (then: no inertia, no coupled decay).
RULES: dict[str, Any] = {
    "gradient descent": GradientDescent(),
    "heavy ball": HeavyBall(0.8),
    "adaptive memory": AdaptiveMemory(),
    "steady memory": SteadyMemory(),
    "conjugate memory": ConjugateMemory(beta_max=0.95),
    "adaptive memory, previous value": AdaptiveMemory(height="previous value"),
    "adaptive memory, cutting plane": AdaptiveMemory(0.95, height="cutting plane"),
    "adaptive memory, aggregated": AdaptiveMemory(height="aggregated"),
    "truncated memory": TruncatedMemory(-1.0),
    "truncated memory, aggregated": TruncatedMemory(-1.0, 0.99, height="aggregated"),
    "Polyak": Polyak(-1.0),
    "MoMo": MoMo(-1.0, beta=0.8),
}
METRICS = {"Euclidean": Euclidean(), "Adam": Adam(beta2=0.9)}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests of a device are all in `torch`; what other rooms import may be missing on such a machine."""
    room = collection_path.relative_to(HERE).parts[:1]
    return True if config.option.markexpr == "device" and room not in ((), ("torch",)) else None


@pytest.fixture(params=RULES.values(), ids=RULES.keys())
def rule(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=METRICS.values(), ids=METRICS.keys())
def metric(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As if a notebook's cell were running: what is shown below it, the newest last."""
    shown: list[str] = []

    def display(html: str, display_id: bool) -> Any:
        assert display_id
        shown.append(html)
        return SimpleNamespace(update=shown.append)

    running = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel="a kernel"))
    monkeypatch.setitem(sys.modules, "IPython", running)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display, HTML=str))
    return shown
