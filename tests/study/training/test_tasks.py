"""Tasks: gradients, seeds, arguments, and what cannot be built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from proxmom.study.training import (
    TASKS,
    Task,
    arguments_of,
    build_task,
    data_digest,
    describe_task,
)
from proxmom.study.training.convex import KINDS
from proxmom.study.training.seeds import Order
from tests.study.training.conftest import TINY, flat, gradients, tiny


def copy(task: Task, other: Task) -> None:
    with torch.no_grad():
        for p, q in zip(task.parameters.values(), other.parameters.values(), strict=True):
            p.copy_(q)


def doubled(kind: str) -> Any:
    """A tiny task in float64, somewhere else than at its start, so that differences are precise."""
    task = tiny(kind)
    if kind not in KINDS:
        task.module.double()
    if kind in ("mlp", "cnn"):
        task._examples._pixels = {name: pixels.double() for name, pixels in task._examples._pixels.items()}
    elsewhere(task)
    return task


def elsewhere(task: Task) -> None:
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in task.parameters.values():
            p += 0.1 * torch.randn(p.shape, generator=random).to(p)


@pytest.mark.parametrize("kind", TASKS)
def test_gradients_are_those_of_the_loss(kind: str) -> None:
    """The slope along the gradient, by central differences of the same batch's loss, is its norm."""
    task = doubled(kind)
    loss = task.gradient(3)
    gradient = gradients(task)
    assert loss.shape == ()
    assert not loss.requires_grad
    assert gradient.shape == flat(task).shape
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in task.parameters.values())
    values, width = [], 1e-5
    for sign in (1, -1):
        moved = doubled(kind)
        there = flat(task) + sign * width * gradient / gradient.norm()
        torch.nn.utils.vector_to_parameters(there, list(moved.parameters.values()))
        values.append(float(moved.gradient(3)))
    assert (values[0] - values[1]) / (2 * width) == pytest.approx(float(gradient.norm()), rel=1e-6)


@pytest.mark.parametrize("kind", TASKS)
def test_a_batch_is_a_function_of_seed_and_step(kind: str) -> None:
    task, again, other = tiny(kind), tiny(kind), tiny(kind, seed=1)
    elsewhere(task)
    losses = [float(task.gradient(step)) for step in range(6)]
    assert len(set(losses)) == 6
    copy(again, task)
    assert float(again.gradient(5)) == losses[5]  # whatever came before
    assert torch.equal(gradients(again), gradients(task))
    copy(other, task)
    assert float(other.gradient(5)) != losses[5]
    assert other.evaluate("validation") == task.evaluate("validation")  # splits do not depend on the seed
    assert other.evaluate("test") == task.evaluate("test")


@pytest.mark.parametrize("kind", TASKS)
def test_the_seed_changes_initial_weights_of_networks_and_torchs_state_is_left_alone(kind: str) -> None:
    before = torch.get_rng_state()
    assert torch.equal(flat(tiny(kind)), flat(tiny(kind)))
    assert torch.equal(flat(tiny(kind)), flat(tiny(kind, seed=1))) == (kind in KINDS)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_is_a_permutation_and_batches_go_on_across_epochs() -> None:
    order = Order(10, 4, seed=3)
    drawn = np.concatenate([order(step) for step in range(10)])
    epochs = drawn.reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert np.array_equal(Order(10, 4, seed=3)(7), drawn[28:32])
    assert not np.array_equal(Order(10, 4, seed=4)(0), drawn[:4])
    with pytest.raises(ValueError, match="batch must be <= 10, the number of training samples, got 11"):
        Order(10, 11, seed=0)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("gan", {}, "kind must be one of mlp, cnn, language, .*, got 'gan'"),
        ("mlp", {"layers": 2}, "mlp takes data, hidden, batch, shift and name, got 'layers'"),
        ("mlp", {"hidden": 0}, "hidden must be >= 1"),
        ("mlp", {"batch": 5000}, "batch must be <= 1078, the number of training samples, got 5000"),
        ("mlp", {"shift": 9}, "shift must be >= 0 and <= 8"),
        ("mlp", {"data": "nothing.gz"}, "data must be 'digits' or the path of MNIST's images"),
        ("cnn", {"channels": 6}, "channels must be a multiple of 4, got 6"),
        ("language", {"preset": "7B"}, "preset must be one of small, 25M, 85M, got '7B'"),
        ("language", {"width": 30}, "width must be a multiple of heads, got 30 and 4"),
        ("language", {"megabytes": 0.0}, "megabytes must be > 0"),
        ("language", {"precision": "half", "megabytes": 0.1}, "precision must be one of float32, bfloat16, got 'half'"),
        ("language", {"data": "nothing.txt"}, "data must be 'stdlib' or the path of a text file"),
        ("logistic", {"batch": 0}, "batch must be >= 1"),
        ("logistic", {"batch": 570}, "batch must be <= 569"),
        ("logistic", {"device": "cuda"}, "logistic trains on the CPU only, got device 'cuda'"),
    ],
)
def test_what_cannot_be_built(kind: str, arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build_task(kind, seed=0, data_dir=tmp_path, **arguments)


def test_arguments_of_the_wrong_kind() -> None:
    for arguments in ({"hidden": 8.5}, {"data": 3}, {"hidden": [8]}):
        with pytest.raises(TypeError):
            build_task("mlp", seed=0, **arguments)


@pytest.mark.parametrize("kind", TASKS)
def test_a_study_learns_arguments_names_and_digests_without_the_task(kind: str) -> None:
    assert not {"seed", "data_dir", "device"} & set(arguments_of(kind))
    assert arguments_of(kind)["batch"] in (16, 32, 64)
    assert describe_task(kind, None, **TINY[kind]) == tiny(kind).name
    assert describe_task(kind, None, **TINY[kind]) != describe_task(kind, None, **{**TINY[kind], "batch": 5})
    assert tiny(kind, name="mine").name == describe_task(kind, None, name="mine") == "mine"
    assert (data_digest(kind, None, **TINY[kind]) != "") == (kind == "language")


def test_the_digest_of_a_table_is_that_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "made.csv").write_text("a,y\n1,2\n3,4\n")
    first = data_digest("least_squares", tmp_path, data="made.csv:y")
    assert first
    (tmp_path / "made.csv").write_text("a,y\n1,2\n3,5\n")
    assert data_digest("least_squares", tmp_path, data="made.csv:y") not in ("", first)
