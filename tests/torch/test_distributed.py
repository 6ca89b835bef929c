"""Many processes: the same parameters as one process, whatever is replicated, sharded or saved on the way.

Each test spawns its ranks once (gloo, on the CPU) and makes many comparisons in them: starting a rank takes seconds.
"""

from __future__ import annotations

import copy
import functools
import gc
import multiprocessing
import os
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    ShardingStrategy,
    StateDictType,
    fully_shard,
)
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from proxmom import AdaptiveMemory
from proxmom.torch import AMSGD, AMAdamW, MoMo, MoMoAdam, ProxOptimizer, TruncatedMemorySGD

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")

STEPS = 12
Factory = Callable[..., ProxOptimizer]
NAMED: dict[str, Factory] = {
    "AMSGD, model": functools.partial(AMSGD, lr=0.05, weight_decay=0.01),
    "AMSGD, group": functools.partial(AMSGD, lr=0.05, scope="group"),
    "AMSGD, tensor": functools.partial(AMSGD, lr=0.05, scope="tensor"),
    "AMAdamW, tensor": functools.partial(AMAdamW, lr=0.01),
    "AMAdamW, group": functools.partial(AMAdamW, lr=0.01, scope="group"),
    "AMAdamW, model": functools.partial(AMAdamW, lr=0.01, scope="model"),
    "AMSGD in torch operations": functools.partial(AMSGD, lr=0.05, foreach=True),
    "AMAdamW in torch operations": functools.partial(AMAdamW, lr=0.01, foreach=True),
    "MoMo": functools.partial(MoMo, lr=0.5, lower_bound=0.0, weight_decay=0.01),
    "MoMoAdam": functools.partial(MoMoAdam, lr=0.05, lower_bound=0.0),
    "TruncatedMemorySGD": functools.partial(TruncatedMemorySGD, lr=0.5, lower_bound=0.0),
    "aggregated height": functools.partial(ProxOptimizer, rule=AdaptiveMemory(height="aggregated"), lr=0.05),
}

SAVED = ("AMSGD, model", "AMAdamW, tensor", "MoMoAdam")


def network() -> nn.Sequential:
    """Sizes that no number of ranks divides."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3)).double()


def batch(step: int, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
    """This rank's part of the data of one step; parts are of one size, so that means are means of means."""
    random = np.random.default_rng(step)
    x, y = torch.tensor(random.normal(size=(8, 5))), torch.tensor(random.normal(size=(8, 3)))
    size = 8 // parts
    at = slice(part * size, (part + 1) * size)
    return x[at], y[at]


def groups(model: nn.Module) -> list[dict[str, Any]]:
    params = list(model.parameters())
    return [{"params": params[:3]}, {"params": params[3:], "lr": 0.02}]


def train(model: nn.Module, optimizer: Any, steps: range, part: int = 0, parts: int = 1) -> None:
    for step in steps:
        x, y = batch(step, part, parts)
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step(loss=loss.detach())


@functools.cache
def alone(make: Factory, steps: range = range(STEPS)) -> list[Tensor]:
    """What one process makes of it."""
    model = network()
    train(model, make(groups(model)), steps)
    return [p.detach() for p in model.parameters()]


def whole(p: Tensor) -> Tensor:
    return p.full_tensor().detach() if isinstance(p, DTensor) else p.detach()


def agrees(params: Any, expected: list[Tensor], what: str) -> None:
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(whole(p), q, rtol=1e-6, atol=1e-9, msg=lambda text: f"{what}: {text}")


@contextmanager
def world(rank: int, size: int, store: str) -> Iterator[None]:
    """The process group; a rank that is through leaves at once: taking gloo down beside a DDP model can hang."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=100)
    )
    yield
    distributed.barrier()
    os._exit(0)


def spawn(worker: Callable[..., None], size: int, folder: Path, *args: Any) -> None:
    store = folder / f"store-{worker.__name__}-{size}"
    multiprocessing.set_forkserver_preload(["torch._dynamo", "torch.distributed.fsdp"])  # imports that take seconds
    torch.multiprocessing.start_processes(worker, (size, str(store), *args), nprocs=size, start_method="forkserver")


# --- replicated ------------------------------------------------------------------------------------------------------


def replicated(rank: int, size: int, store: str) -> None:
    with world(rank, size, store):
        for name, make in NAMED.items():
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
            for name, make in NAMED.items():
                model = shard(network(), mesh)
                train(model, make(groups(model)), range(STEPS), rank, size)
                agrees(model.parameters(), alone(make), f"FSDP2, {shape}, {name}")
        for name, make in NAMED.items():
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
    placements = [
        None,
        (Replicate(), Replicate()),
        (Shard(0), Replicate()),
        (Replicate(), Shard(0)),
        (Shard(0), Shard(1)),
        (Shard(1), Shard(1)),
    ]
    shapes = [(3, 2), (4, 2), (5, 3), (1, 3), (5, 6), (2, 9)]

    def place(values: Tensor, where: Any) -> Tensor:
        return values.clone() if where is None else distribute_tensor(values, mesh, where)

    random = np.random.default_rng(0)
    start = [torch.tensor(random.normal(size=shape)) for shape in shapes]
    ours = [nn.Parameter(place(x, where)) for x, where in zip(start, placements, strict=True)]
    theirs = [nn.Parameter(x.clone()) for x in start]
    first, second = make(ours), make(theirs)
    for step in range(STEPS):
        for p, q, where in zip(ours, theirs, placements, strict=True):
            q.grad = torch.tensor(random.normal(size=q.shape))
            p.grad = place(q.grad, where)
        for optimizer in (first, second):
            optimizer.step(loss=1.0 / (1 + step))
    agrees(ours, [q.detach() for q in theirs], f"placements, {name}")


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


# --- cut by FSDP1 ----------------------------------------------------------------------------------------------------

PER_TENSOR = ("AMSGD, tensor", "AMAdamW, tensor", "AMAdamW in torch operations")


def cut(rank: int, size: int, store: str) -> None:
    with world(rank, size, store):
        if size == 4:
            replicas_of_pieces_count_once(rank, size)
            return
        for name, make in NAMED.items():
            model = flatten(network(), use_orig_params=True)
            train(model, make(groups(model)), range(STEPS), rank, size)
            agrees(gathered(model), alone(make), f"FSDP1, original parameters, {name}")
        for name in ("AMSGD, model", *PER_TENSOR, "MoMo"):
            model = flatten(network(), use_orig_params=False)
            train(model, NAMED[name](model.parameters()), range(STEPS), rank, size)
            agrees(gathered(model), alone_and_flat(name), f"FSDP1, flat parameters, {name}")
        for strategy in (ShardingStrategy.SHARD_GRAD_OP, ShardingStrategy.NO_SHARD):
            for name in SAVED:
                model = flatten(network(), use_orig_params=True, sharding_strategy=strategy)
                train(model, NAMED[name](groups(model)), range(STEPS), rank, size)
                agrees(gathered(model), alone(NAMED[name]), f"{strategy}, {name}")
        for scope in ("model", "group", "tensor"):
            gradients_come_and_go(scope, rank, size)
        a_rank_may_hold_nothing_at_all()
        pieces_skip_on_all_ranks(rank, size)
        for name in SAVED:
            loads_where_a_rank_holds_nothing(name, rank, size)


def flatten(model: nn.Sequential, **options: Any) -> FSDP:
    """Two flat parameters; two ranks hold nothing of some original ones."""
    model[0] = FSDP(model[0], device_id=torch.device("cpu"), **options)
    return FSDP(model, device_id=torch.device("cpu"), **options)


def gathered(model: FSDP) -> list[Tensor]:
    """The original parameters in their shapes."""
    one = network()
    with FSDP.summon_full_params(model):
        values = torch.cat([p.detach().flatten() for p in model.parameters()])
    nn.utils.vector_to_parameters(values, one.parameters())
    return [p.detach() for p in one.parameters()]


def alone_and_flat(name: str) -> list[Tensor]:
    """One process; where a flat parameter is the tensor that has a momentum, its parts are a group that has one."""
    model = network()
    first, rest = model[0].parameters(), model[1:].parameters()
    if name in PER_TENSOR:
        optimizer = NAMED[name]([{"params": first}, {"params": rest}], scope="group")
    else:
        optimizer = NAMED[name](model.parameters())
    train(model, optimizer, range(STEPS))
    return [p.detach() for p in model.parameters()]


def replicas_of_pieces_count_once(rank: int, size: int) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "shard"))
    options: dict[str, Any] = {"device_mesh": mesh, "sharding_strategy": ShardingStrategy.HYBRID_SHARD}
    for name in (*SAVED, "MoMo"):
        model = flatten(network(), use_orig_params=True, **options)
        train(model, NAMED[name](groups(model)), range(STEPS), rank, size)
        agrees(gathered(model), alone(NAMED[name]), f"HYBRID_SHARD, {name}")


def gradients_come_and_go(scope: str, rank: int, size: int) -> None:
    """A frozen parameter, and others whose gradients are taken away in some steps or kept as zeros."""

    def run(model: nn.Module, part: int = 0, parts: int = 1) -> None:
        optimizer = AMSGD(groups(model), lr=0.05, scope=scope)
        for step in range(STEPS):
            x, y = batch(step, part, parts)
            optimizer.zero_grad(set_to_none=step % 3 != 0)
            (model(x) - y).square().mean().backward()
            for p, hide in zip(model.parameters(), np.random.default_rng(step).random(6) < 0.4, strict=True):
                p.grad = None if hide else p.grad
            optimizer.step()

    models = network(), network()
    for model in models:
        model[2].bias.requires_grad_(False)
    one, other = models[0], flatten(models[1], use_orig_params=True)
    run(one)
    run(other, rank, size)
    agrees(gathered(other), [p.detach() for p in one.parameters()], f"FSDP1, gradients that come and go, {scope}")


def a_rank_may_hold_nothing_at_all() -> None:
    """The others would wait for it in vain if it took no part in their sums."""
    one = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(one.weight)
    other = FSDP(copy.deepcopy(one), device_id=torch.device("cpu"), use_orig_params=True)
    for model in (one, other):
        optimizer = AMSGD(model.parameters(), lr=0.05)
        for step in range(STEPS):
            optimizer.zero_grad()
            (model(torch.full((3, 1), 1.0 + step, dtype=torch.float64)) - 1).square().mean().backward()
            optimizer.step()
    with FSDP.summon_full_params(other):
        agrees(other.parameters(), [one.weight.detach()], "FSDP1, a rank with nothing")


def pieces_skip_on_all_ranks(rank: int, size: int) -> None:
    """NaN in one rank's piece."""
    model = flatten(network(), use_orig_params=True)
    optimizer = AMSGD(model.parameters(), scope="tensor")
    x, y = batch(0, rank, size)
    (model(x) - y).square().mean().backward()
    if rank == 1:
        model[3].bias.grad.fill_(float("nan"))  # of which rank 0 holds nothing
    optimizer.step()
    assert optimizer.diagnostics()["skipped"] == 1
    agrees(gathered(model), [p.detach() for p in network().parameters()], "FSDP1, skipped")


def loads_where_a_rank_holds_nothing(name: str, rank: int, size: int) -> None:
    """FSDP1 then loads no state there; the first of these parameters is one of which rank 0 holds nothing."""

    def start() -> tuple[FSDP, ProxOptimizer]:
        model = flatten(network(), use_orig_params=True)
        # on the CPU, state that is offloaded to where it is already has one vector's values under every name
        full = StateDictType.FULL_STATE_DICT, FullStateDictConfig(), FullOptimStateDictConfig(offload_to_cpu=False)
        FSDP.set_state_dict_type(model, *full)
        return model, NAMED[name](list(model.parameters())[::-1])

    model, optimizer = start()
    train(model, optimizer, range(7), rank, size)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    saved = FSDP.optim_state_dict(model, optimizer)
    train(model, optimizer, range(7, STEPS), rank, size)
    other, continued = start()
    other.load_state_dict(weights)
    continued.load_state_dict(FSDP.optim_state_dict_to_load(other, continued, saved))
    train(other, continued, range(7, STEPS), rank, size)
    agrees(gathered(other), gathered(model), f"FSDP1, loaded, {name}")


# --- parts that are not enough, or whose others cannot be found ------------------------------------------------------


def refuses(rank: int, size: int, store: str) -> None:
    with world(rank, size, store):
        hidden_by_freeze(rank, size)
        mesh = init_device_mesh("cpu", (size, 1), mesh_dim_names=("data", "tensor"))
        below = parallelize_module(network()[0], mesh["tensor"], ColwiseParallel())
        twice = FSDP(below, device_mesh=mesh["data"], use_orig_params=True, device_id=torch.device("cpu"))
        for p in twice.parameters():
            p.grad = torch.ones_like(p)
        with pytest.raises(RuntimeError, match=r"or by tensor parallelism, got one of shape .* cut by both"):
            AMSGD(twice.parameters()).step()
        partitions_add_up(rank)
        partition = torch.ones(3, requires_grad=True)
        partition.grad, partition.ds_id = torch.ones(3), "0_1"  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="must not be partitions of DeepSpeed's ZeRO-3, got one"):
            AMSGD([partition]).step()
        for name in ("AMSGD, model", "AMAdamW, group", "MoMo"):
            make = NAMED[name]
            assert isinstance(make, functools.partial)
            params = [nn.Parameter(torch.ones(3)) for _ in range(4)]
            optimizer = ZeroRedundancyOptimizer(params, make.func, **make.keywords)
            for p in params:
                p.grad = torch.ones(3)
            with pytest.raises(ValueError, match="scope must be 'tensor' inside ZeroRedundancyOptimizer, got '"):
                optimizer.step(loss=1.0)
            assert all(torch.equal(p.detach(), torch.ones(3)) for p in params)


def partitions_add_up(rank: int) -> None:
    """As with DeepSpeed's ZeRO, of which only this much matters: who holds which partition, with whom."""
    module = types.ModuleType("deepspeed.runtime.zero.stage_1_and_2")
    wrapper = type("DeepSpeedZeroOptimizer", (), {})
    module.DeepSpeedZeroOptimizer = wrapper  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    zero = wrapper()
    partitions = [torch.arange(4.0, dtype=torch.float64), torch.ones(2, dtype=torch.float64)]
    single, _ = distributed.new_subgroups(1)  # as with the experts of one process
    cuts = [lambda values: values.chunk(2)[rank], lambda values: values]
    mine = [cut(values).clone().requires_grad_() for cut, values in zip(cuts, partitions, strict=True)]
    zero.single_partition_of_fp32_groups = mine
    zero.real_dp_process_group = [distributed.group.WORLD, single]
    one = [whole.clone().requires_grad_() for whole in partitions]
    optimizers = [AMSGD([{"params": p} for p in params], lr=0.05) for params in (mine, one)]
    for step in range(STEPS):
        for i, p in enumerate(one):
            p.grad = torch.cos(torch.arange(len(p)) + step + i).double()
            mine[i].grad = cuts[i](p.grad)
        for optimizer in optimizers:
            optimizer.step()
    agrees(mine, [cut(p.detach()) for cut, p in zip(cuts, one, strict=True)], "ZeRO's partitions")


def deepspeed_zero(rank: int, size: int, store: str) -> None:
    os.environ.update(DS_ACCELERATOR="cpu", LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(size))
    with world(rank, size, store):
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", dist_init_required=False)
        for stage in (0, 1, 2):
            for name in ("AMSGD, model", "AMAdamW, group", "MoMo"):
                model, one = network().float(), network().float()
                optimizer, other = (NAMED[name](m.parameters()) for m in (model, one))
                settings = {"zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True}
                settings |= {"gradient_clipping": 0.0, "train_micro_batch_size_per_gpu": 8 // size}
                engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
                for step in range(STEPS):
                    x, y = (part.float() for part in batch(step, rank, size))
                    loss = (engine(x) - y).square().mean()
                    engine.backward(loss)
                    optimizer.observe(loss.detach())
                    engine.step()
                    x, y = (part.float() for part in batch(step))
                    other.zero_grad()
                    loss = (one(x) - y).square().mean()
                    loss.backward()
                    other.step(loss=loss.detach())
                for p, q in zip(model.parameters(), one.parameters(), strict=True):
                    torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def hidden_by_freeze(rank: int, size: int) -> None:
    models = [flatten(network(), use_orig_params=use) for use in (False, True)]
    gc.freeze()
    for model in models:
        optimizer = AMSGD(model.parameters())
        x, y = batch(0, rank, size)
        (model(x) - y).square().mean().backward()
        with pytest.raises(RuntimeError, match=r"whose record of the cut can be found, got one .* before gc\.freeze"):
            optimizer.step()
        agrees(gathered(model), [p.detach() for p in network().parameters()], "FSDP1, refused")
    gc.unfreeze()
    for model in models:
        AMSGD(model.parameters()).step()


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


@pytest.mark.parametrize("size", [2, 4])
def test_pieces_of_fsdp1_step_like_one_process(size: int, tmp_path: Path) -> None:
    spawn(cut, size, tmp_path)


def test_parts_that_are_not_enough_are_refused(tmp_path: Path) -> None:
    spawn(refuses, 2, tmp_path)


def test_deepspeed_steps_like_one_process(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    spawn(deepspeed_zero, 2, tmp_path)


def test_checkpoints_of_four_ranks_are_continued_by_two(tmp_path: Path) -> None:
    spawn(saves, 4, tmp_path, str(tmp_path))
    spawn(loads, 2, tmp_path, str(tmp_path))
