"""Parameters cut by FSDP1 and by DeepSpeed: the same as one process, or refused."""

from __future__ import annotations

import copy
import functools
import gc
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    ShardingStrategy,
    StateDictType,
)
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from proxmom.torch import AMSGD, ProxOptimizer
from tests.torch.processes import (
    NAMED,
    SAVED,
    STEPS,
    agrees,
    alone,
    batch,
    groups,
    network,
    spawn,
    train,
    world,
)

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")


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


@pytest.mark.parametrize("size", [2, 4])
def test_pieces_of_fsdp1_step_like_one_process(size: int, tmp_path: Path) -> None:
    spawn(cut, size, tmp_path)


def test_parts_that_are_not_enough_are_refused(tmp_path: Path) -> None:
    spawn(refuses, 2, tmp_path)


def test_deepspeed_steps_like_one_process(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    spawn(deepspeed_zero, 2, tmp_path)
