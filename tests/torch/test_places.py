"""`Places`: what happens to a tensor is seen by its handle as Python sees it, and a handle ends with its places."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from proxmom import kernels
from proxmom.torch import AMSGD, memory
from proxmom.torch.memory import FEW, Places
from tests.torch.processes import spawn, world

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
    assert Places([nn.Parameter(t) for t in tensors()])._handles is None
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
    params = [nn.Parameter(t) for t in tensors()]
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
    given = torch.randn(4, MANY, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def stepped(change: str) -> list[Tensor]:
        params = [nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(MANY)]
        optimizer = AMSGD(params, lr=0.1, scope="tensor", inertia=0.1)
        for step in range(4):
            for p, gradient in zip(params, given[step], strict=True):
                p.grad = gradient
            optimizer.step()
            entry = optimizer.state[params[1]][name]
            if change == "moved" and step == 1:
                entry.data = 3 * entry.detach()
            elif change == "multiplied" and step == 1:
                entry.mul_(3)
        return [p.detach() for p in params]

    moved, multiplied, left = stepped("moved"), stepped("multiplied"), stepped("left alone")
    torch.testing.assert_close(moved, multiplied, rtol=0, atol=0)
    assert not torch.equal(moved[1], left[1])  # it matters to the steps after it


def replaced_here(mesh: DeviceMesh) -> None:
    """What a rank holds of sharded state is a tensor in a tensor: another one is another place."""
    size = 8 * mesh.size()
    gradients = torch.arange(3.0 * MANY * size, dtype=torch.float64).sin().view(3, MANY, size)
    ends = []
    for replaces in (True, False):
        params = [nn.Parameter(distribute_tensor(torch.zeros(size).double(), mesh, (Shard(0),))) for _ in range(MANY)]
        optimizer = AMSGD(params, lr=0.1, scope="tensor")
        for step in range(3):
            for p, gradient in zip(params, gradients[step], strict=True):
                p.grad = distribute_tensor(gradient, mesh, (Shard(0),))
            optimizer.step()
            memory = optimizer.state[params[1]]["memory"]
            if replaces:
                memory._local_tensor = 3 * memory._local_tensor
            else:
                memory._local_tensor.mul_(3)
        ends.append([p.detach().to_local().clone() for p in params])
    for replaced, multiplied in zip(*ends, strict=True):
        assert torch.equal(replaced, multiplied)


def of_ranks(rank: int, size: int, store: str) -> None:
    with world(rank, size, store):
        replaced_here(init_device_mesh("cpu", (size,)))


def test_what_a_rank_holds_may_be_another_tensor(tmp_path: Path) -> None:
    spawn(of_ranks, 2, tmp_path)
