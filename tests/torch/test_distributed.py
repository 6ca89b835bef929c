"""Many processes: the same parameters as one process, whatever is replicated, sharded or saved on the way.

Each test spawns its ranks once (gloo, on the CPU) and makes many comparisons in them: starting a rank takes seconds.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    fully_shard,
)
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from proxmom.torch import AMSGD, AMAdamW, MoMo
from tests.torch.processes import (
    FEW,
    NAMED,
    SAVED,
    STEPS,
    Factory,
    agrees,
    alone,
    batch,
    groups,
    named,
    network,
    placed_like_one,
    spawn,
    train,
    whole,
    world,
)

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")


# --- replicated ------------------------------------------------------------------------------------------------------


def replicated(rank: int, size: int, store: str) -> None:
    with world(rank, size, store):
        for name, make in (NAMED if size == 2 else named(FEW)).items():
            model = network()
            wrapped = nn.parallel.DistributedDataParallel(model)
            train(wrapped, make(groups(model)), range(STEPS), rank, size)
            agrees(model.parameters(), alone(make), f"DDP, {name}")
        for make in (NAMED["AMAdamW, tensor"], NAMED["AMSGD, tensor"]):
            zero_redundancy(make, rank, size)
            zero_redundancy_loads(make, rank, size)
        zero_skips_together(rank, size)
        ranks_with_different_losses_stay_together(rank, size)


def zero_redundancy(make: Factory, rank: int, size: int) -> None:
    """ZeroRedundancyOptimizer: each rank steps some parameters, which scope "tensor" allows."""
    model = network()
    wrapped = nn.parallel.DistributedDataParallel(model)
    assert isinstance(make, functools.partial)
    optimizer = ZeroRedundancyOptimizer(wrapped.parameters(), make.func, **make.keywords)
    one = network()
    train(one, make(one.parameters()), range(STEPS))
    for step in range(STEPS):
        x, y = batch(step, rank, size)
        optimizer.zero_grad()
        (wrapped(x) - y).square().mean().backward()
        optimizer.step()
    agrees(model.parameters(), [p.detach() for p in one.parameters()], f"ZeRO, {make.func}")


def zero_redundancy_loads(make: Factory, rank: int, size: int) -> None:
    """Into an optimizer that has stepped since: ZeroRedundancyOptimizer writes into the state of ours directly."""
    model = nn.parallel.DistributedDataParallel(network())
    assert isinstance(make, functools.partial)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), make.func, **make.keywords)

    def steps(which: range) -> list[Tensor]:
        for step in which:
            x, y = batch(step, rank, size)
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    weights = steps(range(7))
    for receiver in range(size):
        optimizer.consolidate_state_dict(to=receiver)
        if rank == receiver:
            saved = copy.deepcopy(optimizer.state_dict())
    expected = steps(range(7, STEPS))
    with torch.no_grad():
        for p, q in zip(model.parameters(), weights, strict=True):
            p.copy_(q)
    optimizer.load_state_dict(saved)
    agrees(steps(range(7, STEPS)), expected, f"ZeRO, loaded, {make.func}")


def ranks_with_different_losses_stay_together(rank: int, size: int) -> None:
    """Also where one of them sees a loss that is not finite: all skip."""
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Linear(4, 1))
    optimizer = MoMo(model.parameters(), lower_bound=0.0)
    for step in range(STEPS):
        torch.manual_seed(100 * step + rank)  # each rank has its own data, and so its own loss
        loss = (model(torch.randn(8, 4)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss * float("nan") if step == 7 and rank == 1 else loss)
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    others = [torch.empty_like(mine) for _ in range(size)]
    distributed.all_gather(others, mine)
    assert all(torch.equal(mine, other) for other in others)
    assert optimizer.diagnostics()["skipped"] == 1


def zero_skips_together(rank: int, size: int) -> None:
    """A rank that sees no NaN skips with the one that does, if it is told whom to ask."""
    model = nn.ParameterList([nn.Parameter(torch.ones(3)) for _ in range(4)])
    kind = functools.partial(AMAdamW, process_group=distributed.group.WORLD)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), kind, lr=0.1, scope="tensor")
    for i, p in enumerate(model):
        p.grad = torch.full_like(p, float("nan") if i == 0 else 1.0)
    optimizer.step()
    assert all(torch.equal(p.detach(), torch.ones(3)) for p in model)


# --- sharded ---------------------------------------------------------------------------------------------------------


def sharded(rank: int, size: int, store: str) -> None:
    with world(rank, size, store):
        meshes = {"one-dimensional": init_device_mesh("cpu", (size,))}
        if size == 4:  # two replicas of two shards each
            meshes["two-dimensional"] = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "shard"))
        for shape, mesh in meshes.items():
            for name, make in (NAMED if size == 2 else named(FEW)).items():
                model = shard(network(), mesh)
                train(model, make(groups(model)), range(STEPS), rank, size)
                agrees(model.parameters(), alone(make), f"FSDP2, {shape}, {name}")
        for name, make in (NAMED if size == 4 else named(SAVED)).items():  # two ranks are one row of a mesh
            any_placement(make, size, name)
        skips_on_all_ranks(meshes["one-dimensional"], rank)


def shard(model: nn.Sequential, mesh: DeviceMesh) -> nn.Sequential:
    for layer in (model[0], model[3]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def any_placement(make: Factory, size: int, name: str) -> None:
    """Plain, replicated, sharded along one or both axes of a mesh, all in one optimizer; some shards are empty."""
    mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("a", "b"))
    cases = [
        ((3, 2), None),
        ((4, 2), (Replicate(), Replicate())),
        ((5, 3), (Shard(0), Replicate())),
        ((1, 3), (Replicate(), Shard(0))),
        ((5, 6), (Shard(0), Shard(1))),
        ((2, 9), (Shard(1), Shard(1))),
    ]
    placed_like_one(make, mesh, cases, lambda x, random: torch.tensor(random.normal(size=x.shape)), name)


def skips_on_all_ranks(mesh: DeviceMesh, rank: int) -> None:
    """NaN in one rank's shard."""
    p = nn.Parameter(distribute_tensor(torch.ones(8, dtype=torch.float64), mesh, (Shard(0),)))
    other = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = AMSGD([p, other], scope="tensor")
    p.grad = distribute_tensor(torch.ones(8, dtype=torch.float64), mesh, (Shard(0),))
    other.grad = torch.ones(3, dtype=torch.float64)
    if rank == 1:
        p.grad.to_local().fill_(float("nan"))
    optimizer.step()
    assert torch.equal(whole(p), torch.ones(8, dtype=torch.float64))
    assert torch.equal(other.detach(), torch.ones(3, dtype=torch.float64))
    assert optimizer.diagnostics()["skipped"] == 1


# --- saved by some ranks, loaded by others ---------------------------------------------------------------------------


def saves(rank: int, size: int, store: str, folder: str) -> None:
    with world(rank, size, store):
        for i, name in enumerate(SAVED):
            model = shard(network(), init_device_mesh("cpu", (size,)))
            optimizer = NAMED[name](model.parameters())
            train(model, optimizer, range(7), rank, size)
            weights, state = get_state_dict(model, optimizer)
            dcp.save({"model": weights, "optimizer": state}, checkpoint_id=f"{folder}/{i}")


def loads(rank: int, size: int, store: str, folder: str) -> None:
    with world(rank, size, store):
        for i, name in enumerate(SAVED):
            model = shard(network(), init_device_mesh("cpu", (size,)))
            optimizer = NAMED[name](model.parameters())
            weights, state = get_state_dict(model, optimizer)  # makes state, by a step without lr, gradient and loss
            saved = {"model": weights, "optimizer": state}
            dcp.load(saved, checkpoint_id=f"{folder}/{i}")
            set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
            train(model, optimizer, range(7, STEPS), rank, size)
            one = network()
            train(one, NAMED[name](one.parameters()), range(STEPS))
            agrees(model.parameters(), [p.detach() for p in one.parameters()], f"checkpoint, {name}")


@pytest.mark.parametrize("size", [2, 4])
def test_replicas_step_like_one_process(size: int, tmp_path: Path) -> None:
    spawn(replicated, size, tmp_path)


@pytest.mark.parametrize("size", [2, 4])
def test_shards_step_like_one_process(size: int, tmp_path: Path) -> None:
    spawn(sharded, size, tmp_path)


def test_checkpoints_of_four_ranks_are_continued_by_two(tmp_path: Path) -> None:
    spawn(saves, 4, tmp_path, str(tmp_path))
    spawn(loads, 2, tmp_path, str(tmp_path))
