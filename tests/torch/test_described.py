"""What an optimizer says of itself: its arguments, what all groups share, and which path moves the arrays."""

from __future__ import annotations

import inspect
import pydoc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxmom import AdaGrad, Adam, AdaptiveMemory, Euclidean, HeavyBall, LInf, QuasiNewton, Shampoo, kernels
from proxmom.kernels.build import LIBRARY
from proxmom.torch import (
    AMSGD,
    AMSOAP,
    AMAdamW,
    AMMuon,
    AMShampoo,
    AMSign,
    MoMo,
    MoMoAdam,
    Options,
    ProxOptimizer,
    TruncatedMemorySGD,
)
from proxmom.torch.layout import Layout
from proxmom.torch.passes import choose, cuda
from tests.torch.followed import followed

KINDS = [ProxOptimizer, AMSGD, AMAdamW, AMMuon, AMShampoo, AMSign, AMSOAP, MoMo, MoMoAdam, TruncatedMemorySGD]
FILES, FUNCTIONS = 8, 60
BUILD = "python -m proxmom.kernels"
WITHOUT_KERNELS = not kernels.available()


def stepped(params: list[Tensor], **options: Any) -> ProxOptimizer:
    """An optimizer after a step of these parameters."""
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = AMSGD(params, **options)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("kind", KINDS)
def test_all_options_are_arguments(kind: type[ProxOptimizer]) -> None:
    parameters = inspect.signature(kind).parameters
    assert set(Options.__annotations__) < set(parameters)
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert "foreach: 'bool | None' = None" in pydoc.render_doc(kind, renderer=pydoc.plaintext)


@pytest.mark.skipif(WITHOUT_KERNELS, reason="the kernels are not built")
@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_fastest_path_on_the_cpu_are_the_kernels(scope: str, dtype: torch.dtype) -> None:
    assert stepped([nn.Parameter(torch.zeros(3, dtype=dtype))], scope=scope).path == "C++ kernels"


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"foreach": True}, "foreach blocks"),
        ({"foreach": False}, "torch operations"),
        ({"stochastic_rounding": True}, "foreach blocks"),  # which no kernel does
    ],
)
def test_other_paths_have_names(options: dict[str, Any], path: str) -> None:
    assert stepped([nn.Parameter(torch.zeros(3))], **options).path == path


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize(("metric", "path"), [(Shampoo(), "whole tensors"), (QuasiNewton(), "low rank")])
def test_a_metric_that_is_not_element_wise_has_one_path(metric: Any, path: str, foreach: bool | None) -> None:
    p = nn.Parameter(torch.zeros(3))
    p.grad = torch.ones_like(p)
    optimizer = ProxOptimizer([p], AdaptiveMemory(), 0.1, metric=metric, foreach=foreach)
    optimizer.step()
    assert optimizer.path == path


def test_without_kernels_blocks_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXMOM_KERNELS", "0")
    assert stepped([nn.Parameter(torch.zeros(3))]).path == "foreach blocks"


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As if none had been found on installation, and nothing said yet."""
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.delenv("PROXMOM_KERNELS", raising=False)
    monkeypatch.setattr(kernels, "_load", lambda folder: f"there is no library {tmp_path}; build it: {BUILD}.")
    choose.say_why_slower.cache_clear()
    yield
    choose.say_why_slower.cache_clear()


@pytest.mark.parametrize("metric", [Euclidean(), Adam(), LInf()])
def test_without_a_compiler_it_is_said_once(metric: Any, no_compiler: None) -> None:
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for parameter in (p, q):
            parameter.grad = torch.ones_like(parameter)
            optimizer = ProxOptimizer([parameter], HeavyBall(0.9), 0.1, metric=metric)
            optimizer.step()
    assert optimizer.path != "C++ kernels"
    (said,) = [str(each.message) for each in told]
    for part in ("there is no library", BUILD, "needs a C++ compiler", "optimizer.path", "PROXMOM_KERNELS=0"):
        assert part in said, said


@pytest.mark.parametrize(
    "options", [{"foreach": True}, {"foreach": False}, {"stochastic_rounding": True}, {"metric": AdaGrad()}]
)
def test_whoever_gets_what_he_asked_for_is_told_nothing(options: dict[str, Any], no_compiler: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stepped([nn.Parameter(torch.zeros(3))], **options)


def test_kernels_that_are_off_or_were_refused_are_not_spoken_of_again(
    no_compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with monkeypatch.context() as patch:
            patch.setenv("PROXMOM_KERNELS", "0")
            stepped([nn.Parameter(torch.zeros(3))])
        choose.say_why_slower.cache_clear()
        (tmp_path / LIBRARY).touch()  # it was refused, with a warning, when it was loaded
        stepped([nn.Parameter(torch.zeros(3))])


def test_triton_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Passes(cuda.TritonPasses):
        def __init__(self, *_: Any) -> None:
            pass

        def measure(self, layout: Layout, *_: Any) -> Tensor:
            return layout.scalar_rows.new_ones((len(layout.scalar_rows), 8))

        move = release = lambda *_: None

    monkeypatch.setattr(cuda, "serves", lambda *_: True)
    monkeypatch.setattr(cuda, "TritonPasses", Passes)
    assert stepped([nn.Parameter(torch.zeros(3))]).path == "Triton kernels"


def test_devices_may_have_paths_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = stepped([nn.Parameter(torch.zeros(3))], foreach=True)
    other = stepped([nn.Parameter(torch.zeros(3))], foreach=False)
    monkeypatch.setattr(optimizer, "_layouts", [*optimizer._layouts, *other._layouts])
    assert optimizer.path == "foreach blocks on cpu, torch operations on cpu"


def test_printed_is_what_all_groups_share_and_what_torch_prints() -> None:
    rule = AdaptiveMemory(0.8)
    optimizer = ProxOptimizer([nn.Parameter(torch.zeros(3))], rule, 0.1, scope="group", foreach=True)
    shared = f"ProxOptimizer (\nrule: {rule}\nmetric: Euclidean()\nscope: group\npath: chosen at the first step\n"
    assert repr(optimizer) == shared + "Parameter Group 0\n    lr: 0.1\n    weight_decay: 0.0\n)"
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    optimizer.step()
    assert "\npath: foreach blocks\n" in repr(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.path == "chosen at the first step"


@pytest.mark.skipif(WITHOUT_KERNELS, reason="the kernels are not built")
@pytest.mark.parametrize("make", [AMSGD, AMAdamW])
def test_a_step_stays_easy_to_follow(make: Callable[..., ProxOptimizer]) -> None:
    found = followed(make)
    assert len({file for file, _ in found}) <= FILES
    assert len(found) <= FUNCTIONS
