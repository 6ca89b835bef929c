"""Metrics that are not element-wise and norms on many processes: the same as one process, sharded or replicated."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from proxmom import SOAP, AdaptiveMemory, LInf, QuasiNewton, Shampoo
from proxmom.torch import AMSGD, AMSOAP, AMMuon, AMSign, ProxOptimizer
from tests.metrics import Normed, Turned
from tests.torch.processes import (
    STEPS,
    Factory,
    agrees,
    alone,
    batch,
    groups,
    network,
    placed_like_one,
    spawn,
    train,
    whole,
    world,
)

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")


def with_metric(metric: Any, **given: Any) -> Factory:
    return functools.partial(ProxOptimizer, rule=AdaptiveMemory(), lr=0.02, metric=metric, **given)


# of SOAP only sides with factors of full rank: the eigenvectors for eigenvalue zero are what rounding makes of them
MADE: dict[str, Factory] = {
    "Shampoo": with_metric(Shampoo(0.9, eps=1e-2, every=2, largest_side=4), weight_decay=0.1, decay="coupled"),
    "AMSOAP": functools.partial(AMSOAP, lr=0.01, every=3, largest_side=6, scope="group"),
    "operator of moves": with_metric(Turned(), weight_decay=0.1),
    "normed": with_metric(Normed(), inertia=0.1, scope="tensor"),
    "quasi-Newton": with_metric(QuasiNewton(4), weight_decay=0.1, scope="group"),
    "AMSign": functools.partial(AMSign, lr=0.01, weight_decay=0.1, scope="group"),
    "soft maximum norm": with_metric(LInf("soft"), scope="model"),
    "AMMuon": functools.partial(AMMuon, lr=0.01, polar="exact", scope="model"),
}


# --- replicated and sharded ------------------------------------------------------------------------------------------


def ranks(rank: int, size: int, store: str) -> None:
    with world(rank, size, store):
        mesh = init_device_mesh("cpu", (size,))
        for name, make in MADE.items():
            model = network()
            train(nn.parallel.DistributedDataParallel(model), make(groups(model)), range(STEPS), rank, size)
            agrees(model.parameters(), alone(make), f"DDP, {name}")
            model = shard(network(), mesh)
            optimizer = make(groups(model))
            train(model, optimizer, range(STEPS), rank, size)
            agrees(model.parameters(), alone(make), f"FSDP2, {name}")
            assert optimizer.diagnostics()["skipped"] == 0
            any_placement(make, name)
            skips_on_all_ranks(make, mesh, rank)
        factors_are_replicated(mesh)
        kept_vectors_are_sharded(mesh)
        pieces_are_refused()


def shard(model: nn.Sequential, mesh: Any) -> nn.Sequential:
    for layer in (model[0], model[3]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def any_placement(make: Factory, name: str) -> None:
    """Plain, replicated, sharded along either axis in one optimizer; empty shards; gradients placed otherwise."""
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("a", "b"))
    both = (Replicate(), Replicate())
    cases = [
        ((3, 2), None),
        ((4, 2), both),
        ((1, 3), (Replicate(), Shard(0))),
        ((5, 5), (Shard(0), Shard(1))),
        ((3, 2, 2), (Shard(0), Shard(0))),
    ]

    def uneven(x: Tensor, random: np.random.Generator) -> Tensor:
        return x * (1 + torch.arange(x.numel()).reshape(x.shape))

    placed_like_one(make, mesh, cases, uneven, name, steps=4, elsewhere=both)


def skips_on_all_ranks(make: Factory, mesh: Any, rank: int) -> None:
    """NaN in one rank's shard, and nobody waits for ever."""
    p = nn.Parameter(distribute_tensor(torch.ones(4, 2, dtype=torch.float64), mesh, (Shard(0),)))
    optimizer = make([p])
    for bad in (False, True):
        before = whole(p).clone()
        p.grad = distribute_tensor(torch.ones(4, 2, dtype=torch.float64), mesh, (Shard(0),))
        if bad and rank == 1:
            p.grad.to_local().fill_(float("nan"))
        optimizer.step()
        assert torch.equal(whole(p), before) == bad
    assert optimizer.diagnostics()["skipped"] == 1


def factors_are_replicated(mesh: Any) -> None:
    p = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, (Shard(0),)))
    optimizer = ProxOptimizer([p], AdaptiveMemory(), 0.1, metric=SOAP())
    p.grad = distribute_tensor(torch.ones(4, 4), mesh, (Shard(0),))
    optimizer.step()
    assert type(optimizer.state[p]["factor_0"]) is Tensor
    assert optimizer.state[p]["factor_0"].shape == (4, 4)
    assert optimizer.state[p]["second_moment"].to_local().shape == (2, 4)


def kept_vectors_are_sharded(mesh: Any) -> None:
    """Each as its parameter is, one axis further back; and as it lies in memory."""
    x = torch.ones(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    p = nn.Parameter(distribute_tensor(x, mesh, (Shard(1),)))
    optimizer = ProxOptimizer([p], AdaptiveMemory(), 0.1, metric=QuasiNewton(3))
    p.grad = distribute_tensor(x, mesh, (Shard(1),))
    optimizer.step()
    kept = optimizer.state[p]["kept"]
    assert isinstance(kept, DTensor)
    assert kept.placements == (Shard(2),)
    assert (kept.shape, kept.to_local().shape) == ((6, 2, 4, 3, 3), (6, 2, 2, 3, 3))


def pieces_are_refused() -> None:
    for make in (MADE["Shampoo"], MADE["quasi-Newton"]):
        model = FullyShardedDataParallel(network().float(), use_orig_params=True, device_id=torch.device("cpu"))
        optimizer = make(model.parameters())
        x, y = batch(0)
        (model(x.float()) - y.float()).square().mean().backward()
        with pytest.raises(ValueError, match=r"cut by FullyShardedDataParallel.* Use fully_shard \(FSDP2\)"):
            optimizer.step()


def test_ranks_step_like_one_process(tmp_path: Path) -> None:
    spawn(ranks, 2, tmp_path)


# --- sharded twice ---------------------------------------------------------------------------------------------------


def sharded_twice(rank: int, size: int, store: str) -> None:
    """FSDP2 above tensor parallelism, whose shards are strided."""

    def even() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    with world(rank, size, store):
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        for name, make in {"AMSGD": functools.partial(AMSGD, lr=0.05), **MADE}.items():
            model, one = even(), even()
            parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
            fully_shard(model, mesh=mesh["data"])
            train(model, make(model.parameters()), range(4), mesh.get_local_rank("data"), 2)
            train(one, make(one.parameters()), range(4))
            agrees(model.parameters(), [p.detach() for p in one.parameters()], f"twice, {name}")


def test_what_is_sharded_twice_steps_like_one_process(tmp_path: Path) -> None:
    spawn(sharded_twice, 4, tmp_path)


# --- saved by some ranks, loaded by others ---------------------------------------------------------------------------


def saves(rank: int, size: int, store: str, folder: str) -> None:
    with world(rank, size, store):
        for i, make in enumerate(MADE.values()):
            model = shard(network(), init_device_mesh("cpu", (size,)))
            optimizer = make(model.parameters())
            train(model, optimizer, range(7), rank, size)
            weights, state = get_state_dict(model, optimizer)
            dcp.save({"model": weights, "optimizer": state}, checkpoint_id=f"{folder}/{i}")


def loads(rank: int, size: int, store: str, folder: str) -> None:
    with world(rank, size, store):
        for i, (name, make) in enumerate(MADE.items()):
            model = shard(network(), init_device_mesh("cpu", (size,)))
            optimizer = make(model.parameters())
            weights, state = get_state_dict(model, optimizer)  # makes state, by a step without lr, gradient and loss
            saved = {"model": weights, "optimizer": state}
            dcp.load(saved, checkpoint_id=f"{folder}/{i}")
            set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
            train(model, optimizer, range(7, STEPS), rank, size)
            one = network()
            train(one, make(one.parameters()), range(STEPS))
            agrees(model.parameters(), [p.detach() for p in one.parameters()], f"checkpoint, {name}")


def test_checkpoints_of_two_ranks_are_continued_by_one(tmp_path: Path) -> None:
    spawn(saves, 2, tmp_path, str(tmp_path))
    spawn(loads, 1, tmp_path, str(tmp_path))
