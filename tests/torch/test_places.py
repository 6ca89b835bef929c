"""`Places`: what happens to a tensor is seen by its handle as Python sees it, and a handle ends with its places."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from proxmom import kernels
from proxmom.torch import AMSGD, memory
from proxmom.torch.memory import FEW, Places

MANY = FEW + 8
needs_kernels = pytest.mark.skipif(not kernels.available(), reason="no kernels here")


def tensors(count: int = MANY) -> list[Tensor]:
    return [torch.randn(3 + i % 2) for i in range(count)]


def new_data(tensor: Tensor) -> None:
    tensor.data = torch.zeros(3)


def freed(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(0)


def longer(tensor: Tensor) -> None:
    tensor.resize_(100_000)


def elsewhere(tensor: Tensor) -> None:
    tensor.set_(torch.zeros(3))  # type: ignore[call-overload]


def cast(tensor: Tensor) -> None:
    tensor.data = tensor.double()


def other_place(tensor: Tensor) -> None:
    tensor.share_memory_()


@pytest.mark.parametrize("change", [new_data, freed, longer, elsewhere, cast, other_place])
@pytest.mark.parametrize("count", [FEW, MANY])
def test_a_tensor_that_lies_elsewhere_is_noticed(change: Callable[[Tensor], None], count: int) -> None:
    given = tensors(count)
    places = Places(given)
    assert places.hold(given)
    change(given[count // 2])
    assert not places.hold(given)


def turned(tensor: Tensor) -> None:
    tensor.data = tensor.data.t()


def repeated(tensor: Tensor) -> None:
    tensor.data = tensor.data[:1].expand(3, 3)


def one_row(tensor: Tensor) -> None:
    tensor.data = tensor.data.view(1, 9)


def one_axis(tensor: Tensor) -> None:
    tensor.data = tensor.data.view(9)


def other_numbers(tensor: Tensor) -> None:
    tensor.data = tensor.data.view(torch.int32)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        *((change, count) for change in (turned, repeated, other_numbers) for count in (FEW, MANY)),
        # by Python only as many numbers in the same order, which is as good
        pytest.param(one_row, MANY, marks=needs_kernels),
        pytest.param(one_axis, MANY, marks=needs_kernels),
    ],
)
def test_another_view_of_the_same_memory_is_noticed(change: Callable[[Tensor], None], count: int) -> None:
    given = [torch.randn(3, 3) for _ in range(count)]
    places = Places(given)
    change(given[-1])
    assert not places.hold(given)


def test_other_tensors_are_seen_where_they_may_be_others() -> None:
    given = tensors()
    places = Places(given, same=False)
    assert places.hold(list(given))
    assert not places.hold([*given[:-1], given[-1].clone()])


def test_what_leaves_the_address_is_left_alone() -> None:
    given = tensors()
    places = Places(given)
    for tensor in given:
        tensor.add_(1)
        tensor.data = tensor.detach()
    assert places.hold(given)


@needs_kernels
def test_many_tensors_have_handles_and_others_are_asked_by_python() -> None:
    assert Places(tensors())._handles is not None
    assert Places(tensors(FEW))._handles is None
    assert Places([torch.nn.Parameter(t) for t in tensors()])._handles is None
    assert Places([torch.empty(3, device="meta") for _ in range(MANY)])._handles is None


def test_without_an_interface_python_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_interface", lambda: None)
    given = tensors()
    places = Places(given)
    assert places._handles is None
    assert places.hold(given)
    given[0].data = torch.zeros(3)
    assert not places.hold(given)


def test_a_handle_ends_with_its_places() -> None:
    given = tensors()
    alive = [tensor.untyped_storage()._weak_ref() for tensor in given]  # of the memory, not of its Python object
    places = Places(given)
    del given
    assert not any(torch.UntypedStorage._expired(reference) for reference in alive)
    del places
    assert all(torch.UntypedStorage._expired(reference) for reference in alive)
    for reference in alive:
        torch.UntypedStorage._free_weak_ref(reference)


def test_state_of_an_optimizer_is_free_as_soon_as_it_is_deleted() -> None:
    params = [torch.nn.Parameter(t) for t in tensors()]
    optimizer = AMSGD(params, lr=0.1, scope="tensor")
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    kept = weakref.ref(optimizer.state[params[0]]["memory"])
    gc.disable()
    try:
        del optimizer
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["memory", "last_lr"])
def test_a_step_starts_from_state_that_was_moved(name: str) -> None:
    given = [torch.randn(3, dtype=torch.float64) for _ in range(MANY)]

    def stepped(change: bool) -> list[Tensor]:
        params = [torch.nn.Parameter(t.clone()) for t in given]
        optimizer = AMSGD(params, lr=0.1, scope="tensor", inertia=0.1)
        for step in range(4):
            for p, t in zip(params, given, strict=True):
                p.grad = t * (step + 1)
            optimizer.step()
            entry = optimizer.state[params[MANY // 2]][name]
            if change and step == 1:
                entry.data = 3 * entry.detach()
            elif step == 1:
                entry.mul_(3)
        return [p.detach() for p in params]

    for moved, multiplied in zip(stepped(True), stepped(False), strict=True):
        torch.testing.assert_close(moved, multiplied, rtol=0, atol=0)
