"""Training runs: tasks are functions of seed and step, and a run does not depend on who interrupts or shares it."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import multiprocessing
import os
import signal
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy

from proxmom.study.problems import data as datasets
from proxmom.study.problems.collection import build_problem
from proxmom.study.record.store import CHECKPOINT, METRICS, Outcome, RunWriter
from proxmom.study.training import (
    TASKS,
    Task,
    arguments_of,
    build_task,
    data_digest,
    describe_task,
    factor,
    make_optimizer,
    rehearse,
    train,
)
from proxmom.study.training import text as texts
from proxmom.study.training.convex import KINDS
from proxmom.study.training.images import read_idx, split_indices
from proxmom.study.training.language import GPT
from proxmom.study.training.seeds import Order

MNIST = "mnist/t10k-images-idx3-ubyte.gz"
TINY: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": 8, "batch": 16},
    "cnn": {"channels": 4, "blocks": 2, "batch": 8, "shift": 1},
    "language": {"megabytes": 0.05, "layers": 1, "width": 8, "heads": 2, "context": 8, "batch": 4},
    **{kind: {"batch": 8} for kind in KINDS},
}
AMADAMW = {"torch": "AMAdamW", "lr": 0.01}
SGD = {"torch": "torch.optim:SGD", "lr": 0.1}


def tiny(kind: str, seed: int = 0, **arguments: Any) -> Any:
    return build_task(kind, seed=seed, **{**TINY[kind], **arguments})


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings as a study fills them in."""
    of_rules = {"arguments": {}, "inertia": 0.0, "weight_decay": 0.0, "decay": "decoupled", "metric": "Euclidean"}
    return {"folder": "", **(of_rules if "rule" in given else {"arguments": {}}), **given}


def run(
    method: Mapping[str, Any], task: Task, directory: Path, *, point: Any = None, steps: int = 20, **options: Any
) -> tuple[Outcome, list[dict[str, Any]]]:
    """Trains, with the records in a file as a study writes them."""
    given = {"schedule": "cosine", "warmup": 0.0, "test": False, **options}
    with RunWriter(directory, {}) as writer:
        found = train(
            settings(method), task, point or {}, steps=steps, directory=directory, record=writer.record, **given
        )
    return found, [json.loads(line) for line in (directory / METRICS).read_text().splitlines()]


def flat(task: Task) -> Tensor:
    return torch.cat([p.detach().flatten() for p in task.parameters.values()])


def gradients(task: Task) -> Tensor:
    return torch.cat([p.grad.flatten() for p in task.parameters.values() if p.grad is not None])


def copy(task: Task, other: Task) -> None:
    with torch.no_grad():
        for p, q in zip(task.parameters.values(), other.parameters.values(), strict=True):
            p.copy_(q)


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("linear", 0.0, [1, 0.75, 0.5, 0.25]),
        ("cosine", 0.0, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("inverse-sqrt", 0.0, [1, 2**-0.5, 3**-0.5, 0.5]),
        ("constant", 0.5, [0.5, 1, 1, 1]),
        ("linear", 0.5, [0.5, 1, 1, 0.5]),
        ("cosine", 0.5, [0.5, 1, 1, 0.5]),
        ("inverse-sqrt", 0.5, [0.5, 1, 1, 1.5**-0.5]),
        ("linear", 0.99, [1 / 3, 2 / 3, 1, 1]),
    ],
)
def test_schedules(schedule: str, warmup: float, expected: list[float]) -> None:
    assert [factor(schedule, warmup, step, 4) for step in range(4)] == pytest.approx(expected)


def test_schedules_end_near_zero_and_refuse_what_they_do_not_know() -> None:
    assert factor("cosine", 0.1, 999, 1000) < 1e-5
    assert factor("linear", 0.1, 999, 1000) < 2e-3
    assert factor("cosine", 0.5, 0, 1) == 1
    with pytest.raises(ValueError, match="schedule must be one of constant, linear, cosine, inverse-sqrt, got 'step'"):
        factor("step", 0.0, 0, 10)
    for warmup in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"warmup must be in \[0, 1\)"):
            factor("linear", warmup, 0, 10)


# --- tasks -----------------------------------------------------------------------------------------------------------


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


def test_splits_are_disjoint_and_complete() -> None:
    parts = split_indices(1797)
    assert [len(part) for part in parts.values()] == [1078, 360, 359]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1797))
    assert list(split_indices(10)["test"]) == [8, 1]  # other splits would make other results of the same key
    text = bytes(range(256)) * 40
    examples = texts.TextExamples(text, context=8, batch=2, seed=0, device=torch.device("cpu"))
    pieces = [bytes(examples._texts[name].numpy()) for name in ("train", "validation", "test")]
    assert b"".join(pieces) == text
    assert [len(piece) for piece in pieces] == [9216, 512, 512]


def test_images_are_classified_by_their_own_labels() -> None:
    """A classifier that knows the data by heart has accuracy 1; evaluations are means over the whole split."""
    task = tiny("mlp")
    digits, part = datasets.digits(), split_indices(1797)["test"]
    train = digits.features[split_indices(1797)["train"]]
    inputs = torch.tensor((digits.features[part] - train.mean()) / train.std(), dtype=torch.float32).view(-1, 8, 8)
    labels = torch.tensor(digits.target[part]).long()
    with torch.no_grad():
        scores = task.module(inputs)
    expected = {
        "loss": float(cross_entropy(scores, labels)),
        "accuracy": float((scores.argmax(1) == labels).float().mean()),
    }
    assert task.evaluate("test") == pytest.approx(expected, rel=1e-5)


def corners(images: Tensor, others: Tensor) -> list[set[tuple[int, int]]]:
    """Where each of the others may lie in its image, which has two pixels of background around it."""
    padded = nn.functional.pad(images, (2, 2, 2, 2), value=float(images.min()))
    places = [(i, j) for i in range(5) for j in range(5)]
    return [
        {(i, j) for i, j in places if torch.equal(image[i : i + 8, j : j + 8], other)}
        for image, other in zip(padded, others, strict=True)
    ]


def test_shifted_images_are_moved_copies() -> None:
    plain, moved = tiny("mlp")._examples, tiny("mlp", shift=2)._examples
    labels, (others, same) = plain.training(5)[1], moved.training(5)
    assert torch.equal(labels, same)
    offsets = [corners(plain.training(step)[0], moved.training(step)[0]) for step in (5, 6)]
    assert all(found for step in offsets for found in step)
    assert not set.intersection(*offsets[0])  # each image by its own amount
    assert any(not one & two for one, two in zip(*offsets, strict=True))  # and each step
    assert torch.equal(tiny("mlp", shift=2)._examples.training(5)[0], others)
    for (a, _), (b, _) in zip(plain.split("validation"), moved.split("validation"), strict=True):
        assert torch.equal(a, b)


def test_text_targets_are_the_next_bytes_and_the_model_does_not_look_ahead() -> None:
    examples = texts.TextExamples(bytes(range(200)) * 3, context=8, batch=4, seed=0, device=torch.device("cpu"))
    for inputs, targets in (examples.training(0), *examples.split("validation"), *examples.split("test")):
        assert inputs.dtype == torch.int64
        assert torch.equal((inputs + 1) % 200, targets)
    torch.manual_seed(0)
    model = GPT(layers=2, width=16, heads=2, context=8)
    values = torch.arange(8)[None]
    changed = values.clone()
    changed[0, 5] = 99
    first, second = model(values), model(changed)
    assert torch.equal(first[0, :5], second[0, :5])
    assert not torch.equal(first[0, 5:], second[0, 5:])


def test_a_language_model_starts_near_the_uniform_distribution_and_has_the_size_of_its_name() -> None:
    assert tiny("language").evaluate("validation")["loss"] == pytest.approx(math.log(256), abs=0.1)
    default = build_task("language", seed=0)
    assert sum(p.numel() for p in default.parameters.values()) == 119_104
    with torch.device("meta"):
        sizes = {name: GPT(**texts_preset(name)) for name in ("25M", "85M")}
    counts = {name: sum(p.numel() for p in model.layers.parameters()) / 1e6 for name, model in sizes.items()}
    assert counts == pytest.approx({"25M": 25, "85M": 85}, rel=0.01)


def texts_preset(name: str) -> dict[str, int]:
    from proxmom.study.training.language import PRESETS

    return PRESETS[name]


def test_the_standard_librarys_text_leaves_out_what_is_no_code_and_keeps_to_its_size() -> None:
    files = texts.stdlib_files(0.5)
    names = [file.as_posix() for file in files]
    assert names == sorted(names)
    assert not [
        name for name in names if any(part in name for part in ("/test/", "/tests/", "site-packages", "/idlelib/"))
    ]
    assert 0.4e6 < sum(file.stat().st_size for file in files) <= 0.5e6
    assert len({file.name[0] for file in files}) > 10  # spread over the library
    assert set(files) != set(texts.stdlib_files(0.1))
    assert data_digest("language", megabytes=0.1) != data_digest("language", megabytes=0.2)
    assert len(texts.load_text("stdlib", None, None)) == pytest.approx(2e6, rel=0.05)


def test_text_files_plain_and_packed(tmp_path: Path) -> None:
    content = bytes(np.random.default_rng(0).integers(0, 256, size=3000, dtype=np.uint8))
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content))
    (tmp_path / "bad.gz").write_bytes(gzip.compress(content)[:100])
    small = {"context": 8, "layers": 1, "width": 8, "heads": 2, "batch": 2}
    tasks = [build_task("language", seed=0, data_dir=tmp_path, data=data, **small) for data in ("a.txt", "a.txt.gz")]
    assert float(tasks[0].gradient(0)) == float(tasks[1].gradient(0))
    assert [task.name for task in tasks] == ["GPT 1x8, a, heads 2, context 8, batch 2"] * 2
    assert data_digest("language", tmp_path, data="a.txt") == data_digest("language", tmp_path, data="a.txt.gz")
    (tmp_path / "a.txt").write_bytes(content[:-1])
    assert data_digest("language", tmp_path, data="a.txt") != data_digest("language", tmp_path, data="a.txt.gz")
    with pytest.raises(ValueError, match=r"the text must be longer: 3000 bytes leave 150 to a split, and .* takes 201"):
        build_task("language", seed=0, data_dir=tmp_path, data="a.txt.gz", context=200)
    with pytest.raises(ValueError, match=r"bad.gz cannot be read"):
        build_task("language", seed=0, data_dir=tmp_path, data="bad.gz")


def write_idx(path: Path, values: np.ndarray[Any, Any], magic: int | None = None) -> None:
    header = struct.pack(f">{1 + values.ndim}I", magic or 0x800 + values.ndim, *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_idx_files(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 256, size=(50, 20, 20)), random.integers(0, 10, size=50)
    images = tmp_path / "few-images-idx3-ubyte.gz"
    write_idx(images, pixels)
    with pytest.raises(ValueError, match=r"has no labels: there is no file .*few-labels-idx1-ubyte\.gz"):
        build_task("mlp", seed=0, data_dir=tmp_path, data=images.name)
    write_idx(tmp_path / "few-labels-idx1-ubyte.gz", labels)
    task = build_task("cnn", seed=0, data_dir=tmp_path, data=images.name, channels=4, batch=10)
    assert task.name == "CNN 2x4, few, batch 10"
    assert math.isfinite(float(task.gradient(0)))
    assert np.array_equal(read_idx(images, 3), pixels)
    before = data_digest("cnn", tmp_path, data=images.name)
    write_idx(tmp_path / "few-labels-idx1-ubyte.gz", labels[:-1])
    assert data_digest("cnn", tmp_path, data=images.name) != before
    with pytest.raises(ValueError, match=r"has 50 images, .* has 49 labels"):
        build_task("mlp", seed=0, data_dir=tmp_path, data=images.name)


def test_broken_idx_files(tmp_path: Path) -> None:
    file = tmp_path / "x"
    write_idx(file, np.zeros((3, 2, 2)), magic=2049)
    with pytest.raises(ValueError, match="starts with the number 2051; it starts with 2049"):
        read_idx(file, 3)
    write_idx(file, np.zeros((3, 2, 2)))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="must have 12 bytes after its header, has 11"):
        read_idx(file, 3)
    file.write_bytes(b"abc")
    with pytest.raises(ValueError, match="is no IDX file: it has 3 bytes"):
        read_idx(file, 3)


def test_mnist_by_path() -> None:
    folder = datasets.directory(None)
    if folder is None or not (folder / MNIST).is_file():
        pytest.skip("PROXMOM_DATA names no folder with mnist/t10k-images-idx3-ubyte.gz")
    task = build_task("mlp", seed=0, data=MNIST)
    assert task.name == "MLP 64-64, mnist/t10k"
    assert sum(p.numel() for p in task.parameters.values()) == 55_050
    assert len(data_digest("mlp", data=MNIST)) == 16


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


# --- convex tasks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 60])
def test_an_epochs_mean_gradient_is_the_full_one(kind: str, batch: int) -> None:
    data = {"softmax": {"data": "digits", "l2": 0.01}, "logistic": {"data": "digits 3-8"}}.get(kind, {})
    task, problem = build_task(kind, seed=1, batch=batch, **data), build_problem(kind, None, **data)
    random = np.random.default_rng(0)
    with torch.no_grad():
        task.parameters["x"].copy_(torch.tensor(0.3 * random.normal(size=problem.x0.size)))
    x = task.parameters["x"].detach().numpy()
    samples = task._order._samples
    steps = samples // math.gcd(samples, batch)  # a whole number of epochs
    values, sums = [], np.zeros_like(x)
    for step in range(steps):
        values.append(float(task.gradient(step)))
        sums += gradients(task).numpy()
    value, gradient = problem.fun(x)
    assert np.mean(values) == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose(sums / steps, gradient, rtol=1e-9, atol=1e-12)
    scale = problem.fun(problem.x0)[0] - problem.optimum
    assert task.evaluate("test")["loss"] == pytest.approx((value - problem.optimum) / scale)
    assert task.optimum == problem.optimum


def test_mini_batches_of_sparse_data(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        f"{random.integers(0, 2)} {random.integers(1, 4)}:1.5 {random.integers(4, 9)}:{random.normal():.3f}"
        for _ in range(40)
    ]
    (tmp_path / "a.txt").write_text("\n".join(rows) + "\n")
    task = build_task("logistic", seed=0, data_dir=tmp_path, data="a.txt", batch=40)
    task.gradient(0)
    problem = build_problem("logistic", tmp_path, data="a.txt")
    np.testing.assert_allclose(gradients(task).numpy(), problem.fun(problem.x0)[1], rtol=1e-10, atol=1e-14)
    assert len(data_digest("logistic", tmp_path, data="a.txt")) == 16


def test_the_seed_of_data_is_not_the_training_seed() -> None:
    names = {build_task("least_squares", seed=s, data="synthetic", data_seed=7).name for s in (0, 1)}
    assert names == {"least squares, synthetic 500 x 50, seed 7, batch 32"}


# --- optimizers ------------------------------------------------------------------------------------------------------


def made(method: Mapping[str, Any], point: Mapping[str, float] | None = None, optimum: float | None = None) -> Any:
    return make_optimizer(settings(method), point or {}, [nn.Parameter(torch.ones(2))], optimum)


def test_betas_are_put_together_from_what_is_given() -> None:
    adamw = {"torch": "torch.optim:AdamW"}
    assert made(adamw).param_groups[0]["betas"] == (0.9, 0.999)
    assert made(adamw, {"beta1": 0.5}).param_groups[0]["betas"] == (0.5, 0.999)
    assert made({**adamw, "arguments": {"beta2": 0.9}}, {"beta1": 0.5, "lr": 0.2}).param_groups[0]["betas"] == (
        0.5,
        0.9,
    )
    assert made({"torch": "torch.optim:AdamW(betas=(0.1, 0.2))"}, {"beta1": 0.5}).param_groups[0]["betas"] == (0.5, 0.2)
    assert made({"torch": "AMAdamW"}, {"beta1": 0.5})._step.method.facts.beta_max == 0.5
    assert made({"torch": "AMAdamW"}, {"beta2": 0.5})._step.metric.beta2 == 0.5
    assert made({**adamw, "lr": 0.3}, {"weight_decay": 0.2}).param_groups[0]["weight_decay"] == 0.2
    with pytest.raises(ValueError, match=r"'torch.optim:SGD' takes no betas, so beta1 and beta2 cannot be set"):
        made({"torch": "torch.optim:SGD"}, {"beta1": 0.5})


def test_rules_become_optimizers_of_their_own() -> None:
    method = {
        "rule": "AdaptiveMemory",
        "arguments": {"beta_max": 0.7},
        "inertia": 0.2,
        "metric": "Adam",
        "scope": "tensor",
    }
    optimizer = made(method, {"lr": 0.3, "weight_decay": 0.1})
    assert optimizer._step.rule.beta_max == 0.7
    assert (optimizer._step.inertia, optimizer._scope) == (0.2, "tensor")
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert made({**method, "arguments": {}}, {"lr": 0.3, "beta_max": 0.6})._step.rule.beta_max == 0.6
    momo = {"rule": "MoMo", "arguments": {"lower_bound": "optimum"}, "lr": 1.0}
    assert made(momo, optimum=0.25)._step.rule.lower_bound == 0.25
    assert made({"torch": "MoMo", "arguments": {"lower_bound": "optimum"}}, optimum=0.25)._step.rule.lower_bound == 0.25
    with pytest.raises(ValueError, match="lower_bound = 'optimum' needs a task whose optimum is known"):
        made(momo)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"rule": "Nothing", "lr": 1.0}, "rule must be one of"),
        ({"rule": "MoMo", "lr": 1.0}, "cannot be made"),
        ({"rule": "MoMo", "arguments": {"lower_bound": 0}, "lr": 1.0, "inertia": 0.1}, "inertia"),
        ({"torch": "Nothing"}, "optimizer must be one of AMSGD, AMAdamW, .*, or an import path"),
        ({"torch": "torch.optim:AdamW", "arguments": {"momentum": 0.9}}, "cannot be made: .*momentum"),
        ({"torch": "collections:OrderedDict"}, "must make a torch.optim.Optimizer, got OrderedDict|cannot be made"),
        ({"torch": "torch.optim:SGD", "lr": -1.0}, "Invalid learning rate"),
    ],
)
def test_methods_are_rehearsed(method: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rehearse(settings(method), {})


def test_rehearsals_that_pass(tmp_path: Path) -> None:
    for method in (AMADAMW, SGD, {"rule": "TruncatedMemory", "arguments": {"lower_bound": "optimum"}, "lr": 1.0}):
        rehearse(settings(method), {"lr": 0.5})
    (tmp_path / "mine.py").write_text("import torch\nclass Mine(torch.optim.SGD):\n    pass\n")
    rehearse({**settings({"torch": "mine.py:Mine(momentum=0.9)", "lr": 0.1}), "folder": str(tmp_path)}, {})


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "logistic"])
def test_heavy_ball_is_sgd_with_dampening(kind: str, tmp_path: Path) -> None:
    rule = {"rule": "HeavyBall", "arguments": {"beta": 0.8}, "lr": 0.2}
    sgd = {"torch": "torch.optim:SGD", "arguments": {"momentum": 0.8, "dampening": 0.8}, "lr": 0.2}
    one, two = (run(method, tiny(kind), tmp_path / str(i), steps=80)[1] for i, method in enumerate((rule, sgd)))
    tolerance = 1e-10 if kind == "logistic" else 1e-4
    for name in ("step", "train", "validation"):
        assert [row[name] for row in one] == pytest.approx([row[name] for row in two], rel=tolerance)
    assert one[-1]["validation"] < 0.9 * one[0]["validation"]


def test_rows_and_finals(tmp_path: Path) -> None:
    task = tiny("mlp")
    initial = task.evaluate("validation")["loss"]
    found, rows = run(AMADAMW, task, tmp_path, steps=90, test=True)
    assert (found.status, found.evaluations, found.message) == ("finished", 90, "")
    assert len(rows) == 40
    assert rows[-1]["step"] == 90
    assert {b["step"] - a["step"] for a, b in itertools.pairwise(rows)} == {2, 3}
    assert found.best_gap == min(row["validation"] for row in rows)
    assert found.final["initial loss"] == initial
    assert found.final["validation loss"] == rows[-1]["validation"] == task.evaluate("validation")["loss"]
    assert found.final["validation accuracy"] == task.evaluate("validation")["accuracy"] > 0.5
    assert found.final["test loss"] == task.evaluate("test")["loss"]
    assert found.final["test accuracy"] == task.evaluate("test")["accuracy"]
    assert all(len(row["beta"]) == 6 for row in rows)  # one for each tensor
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    assert found.seconds == rows[-1]["seconds"]


def test_training_losses_are_means_since_the_last_row_at_the_scheduled_lr(tmp_path: Path) -> None:
    """A run beside one by hand: 80 steps, so two for each row."""
    rows = run({**SGD, "warmup": 0.25}, tiny("mlp"), tmp_path, steps=80, schedule="linear", warmup=0.0)[1]
    task, losses = tiny("mlp"), []
    optimizer = torch.optim.SGD(task.parameters.values(), lr=1.0)
    for step in range(80):
        optimizer.param_groups[0]["lr"] = 0.1 * ((step + 1) / 20 if step < 20 else 1 - (step - 20) / 60)
        losses.append(float(task.gradient(step)))
        optimizer.step()
    means = np.reshape(losses, (40, 2)).mean(axis=1)
    assert [row["train"] for row in rows] == pytest.approx(list(means), rel=1e-5)
    assert rows[-1]["beta"] is None


class Watched:
    """A task that notes what is asked of it."""

    def __init__(self, task: Any, pause: float = 0.0) -> None:
        self.task, self.splits, self.pause = task, list[str](), pause
        self.name, self.parameters, self.optimum = task.name, task.parameters, task.optimum

    def gradient(self, step: int) -> Tensor:
        loss: Tensor = self.task.gradient(step)
        return loss

    def evaluate(self, split: str) -> dict[str, float]:
        self.splits.append(split)
        time.sleep(self.pause)
        found: dict[str, float] = self.task.evaluate(split)
        return found


def test_the_test_split_is_looked_at_only_if_asked_for_and_once(tmp_path: Path) -> None:
    task = Watched(tiny("mlp"))
    found = run(SGD, task, tmp_path / "a")[0]
    assert set(task.splits) == {"validation"}
    assert set(found.final) == {"initial loss", "validation loss", "validation accuracy"}
    task = Watched(tiny("mlp"))
    run(SGD, task, tmp_path / "b", test=True)
    assert task.splits.count("test") == 1
    assert task.splits[-1] == "test"


def test_evaluations_and_checkpoints_are_not_on_the_clock(tmp_path: Path) -> None:
    task, started = Watched(tiny("mlp"), pause=0.05), time.perf_counter()
    found = run(SGD, task, tmp_path, checkpoint_every=0.0)[0]
    assert 0 < found.seconds < time.perf_counter() - started - 1


def test_diverged_runs_are_flagged(tmp_path: Path) -> None:
    for i, method in enumerate(({**SGD, "lr": 1e4}, {"torch": "AMSGD", "lr": 1e30}, {**AMADAMW, "lr": 1e5})):
        found, rows = run(method, tiny("mlp"), tmp_path / str(i), steps=400, test=True)
        assert found.status == "diverged"
        assert found.evaluations == rows[-1]["step"] < 400
        assert found.message
        assert "initial loss" in found.final
    found = run({**SGD, "lr": 1e6}, tiny("least_squares"), tmp_path / "convex", steps=400)[0]
    assert found.status == "diverged"


class Loses(Watched):
    """A task with a NaN in one batch."""

    def gradient(self, step: int) -> Tensor:
        return self.task.gradient(step) * (math.nan if step == 7 else 1.0)


def test_a_single_loss_that_is_not_finite_ends_a_run(tmp_path: Path) -> None:
    found, rows = run(SGD, Loses(tiny("mlp")), tmp_path, steps=40)
    assert (found.status, found.message, len(rows)) == ("diverged", "a batch loss is not finite, by step 8", 8)
    assert rows[-1]["train"] is None


def test_a_method_that_raises_has_failed(tmp_path: Path) -> None:
    momo = {"rule": "MoMo", "arguments": {"lower_bound": "optimum"}, "lr": 1.0}
    assert run(momo, tiny("logistic"), tmp_path / "a")[0].status == "finished"
    found = run(momo, tiny("mlp"), tmp_path / "b")[0]
    assert (found.status, found.evaluations) == ("failed", 0)
    assert found.message.startswith("ValueError: lower_bound = 'optimum' needs")
    assert run(SGD, tiny("mlp"), tmp_path / "c", schedule="steps")[0].message.startswith("ValueError: schedule must be")


def test_means_over_the_steps(tmp_path: Path) -> None:
    heavy = run({"rule": "HeavyBall", "arguments": {"beta": 0.7}, "lr": 0.2}, tiny("mlp"), tmp_path / "a", steps=30)[0]
    assert (heavy.mean_beta, heavy.mean_step, heavy.capped) == pytest.approx((0.7, 0.2, 1.0))
    momo = {"rule": "MoMo", "arguments": {"lower_bound": 0.0}, "lr": 30.0}
    adaptive = {"rule": "AdaptiveMemory", "arguments": {"beta_max": 0.9}, "lr": 0.2, "scope": "tensor"}
    for i, method in enumerate((momo, adaptive)):
        found = run(method, tiny("mlp"), tmp_path / str(i), steps=30)[0]
        task = tiny("mlp")
        optimizer = make_optimizer(settings(method), {}, task.parameters.values())
        betas, kept = [], []
        for step in range(30):
            optimizer.param_groups[0]["lr"] = method["lr"] * factor("cosine", 0.0, step, 30)
            loss = task.gradient(step)
            optimizer.step(lambda loss=loss: loss)
            last = optimizer.diagnostics()
            betas.append(last["beta"].tolist())
            kept.append(1 - float(last["weights"][0, -1]) if method is momo else 1.0)
        assert found.mean_beta == pytest.approx(np.mean(betas), rel=1e-6)
        assert found.mean_step == pytest.approx(method["lr"] * np.mean(kept), rel=1e-5)
        assert found.capped == pytest.approx(np.mean(np.array(betas) >= 0.9 * (1 - 1e-6)))
        assert found.mean_step < method["lr"] or method is adaptive
    sgd = run(SGD, tiny("mlp"), tmp_path / "c")[0]
    assert (sgd.mean_beta, sgd.mean_step, sgd.capped) == (None, None, None)


class TwoFaced(torch.optim.SGD):
    """Evaluates other weights than it trains, as schedule-free methods do."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.mode = "train"

    def step(self, closure: Any = None) -> Any:
        assert self.mode == "train"
        return super().step(closure)

    def _move(self, mode: str, by: float) -> None:
        if mode != self.mode:
            self.mode = mode
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.add_(by)

    def train(self) -> None:
        self._move("train", -1.0)

    def eval(self) -> None:
        self._move("eval", 1.0)


def test_optimizers_with_modes_are_evaluated_in_theirs(tmp_path: Path) -> None:
    task = tiny("logistic")
    found = run({"torch": f"{__name__}:TwoFaced", "lr": 1e-12}, task, tmp_path, test=True)[0]
    assert found.status == "finished"
    assert float(task.parameters["x"].detach().abs().max()) < 1e-9
    problem = build_problem("logistic", None)
    one = (problem.fun(np.ones(problem.x0.size))[0] - problem.optimum) / (problem.fun(problem.x0)[0] - problem.optimum)
    assert found.final["validation loss"] == pytest.approx(one)
    assert found.final["test loss"] == pytest.approx(one)


def test_torch_is_left_as_it_was(tmp_path: Path) -> None:
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    seen = []

    class Looks(Watched):
        def gradient(self, step: int) -> Tensor:
            seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
            return super().gradient(step)

    try:
        run(SGD, Looks(tiny("mlp")), tmp_path)
        assert set(seen) == {(1, True)}
        assert torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.equal(torch.get_rng_state(), random)
    finally:
        torch.set_num_threads(threads)


# --- killed and continued --------------------------------------------------------------------------------------------

METHODS: dict[str, dict[str, Any]] = {
    "AMSGD": {"torch": "AMSGD", "lr": 0.3},
    "AMAdamW": AMADAMW,
    "SGD": {**SGD, "arguments": {"momentum": 0.9}},
    "AdamW": {"torch": "torch.optim:AdamW", "lr": 0.01},
    "MoMo": {"rule": "MoMo", "arguments": {"lower_bound": 0.0}, "lr": 1.0},
}
SAVED, KILLED = 12, 27


class Dies(Watched):
    """Waits once, so that a checkpoint is due, and some steps later its process is killed."""

    def gradient(self, step: int) -> Tensor:
        if step == SAVED:
            time.sleep(0.5)
        if step == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().gradient(step)


def dies(directory: Path) -> None:
    """All methods, each in a process of its own; what they import is there already."""
    run(AMADAMW, tiny("mlp"), directory / "imports", steps=1)
    for name, method in METHODS.items():
        if child := os.fork():
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        else:
            run(method, Dies(tiny("mlp")), directory / name, steps=60, checkpoint_every=0.5)


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=dies, args=(tmp_path,))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    for name, method in METHODS.items():
        left = (tmp_path / name / METRICS).read_text().splitlines()
        known = torch.load(tmp_path / name / CHECKPOINT)
        assert known["step"] > SAVED
        assert known["rows"] <= len(left) == 18
        task, whole = Watched(tiny("mlp")), tiny("mlp")
        found, rows = run(method, task, tmp_path / name, steps=60, test=True)
        expected, all_rows = run(method, whole, tmp_path / f"{name}, whole", steps=60, test=True)
        assert len(task.splits) < 41  # the rows before the checkpoint were not made again
        assert without_seconds(rows) == without_seconds(all_rows)
        assert torch.equal(flat(task), flat(whole))
        assert found.final == expected.final
        assert (found.mean_beta, found.mean_step, found.capped) == (
            expected.mean_beta,
            expected.mean_step,
            expected.capped,
        )
        assert (found.evaluations, found.best_gap) == (60, expected.best_gap)
        assert rows[0]["seconds"] == json.loads(left[0])["seconds"]
        assert found.seconds > 0.5  # what passed before the checkpoint counts


@pytest.mark.parametrize("harm", ["truncated", "halved", "of one byte", "no checkpoint", "rows missing"])
def test_what_is_left_of_a_run_without_its_checkpoint_is_not_used(harm: str, tmp_path: Path) -> None:
    class Stops(Watched):
        def gradient(self, step: int) -> Tensor:
            if step == 15:
                raise KeyboardInterrupt
            return super().gradient(step)

    with pytest.raises(KeyboardInterrupt):
        run(SGD, Stops(tiny("mlp")), tmp_path / "a", checkpoint_every=0.0)
    file, metrics = tmp_path / "a" / CHECKPOINT, tmp_path / "a" / METRICS
    assert file.is_file()
    if harm in (cuts := {"truncated": -100, "halved": file.stat().st_size // 2, "of one byte": 1}):
        file.write_bytes(file.read_bytes()[: cuts[harm]])
    elif harm == "rows missing":
        metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    else:
        file.unlink()
    rows = run(SGD, tiny("mlp"), tmp_path / "a")[1]
    assert without_seconds(rows) == without_seconds(run(SGD, tiny("mlp"), tmp_path / "b")[1])


@pytest.mark.parametrize("path", [f"{__name__}:Noisy", "schedulefree:AdamWScheduleFree"])
def test_an_optimizers_random_numbers_and_modes_go_on_where_they_were(path: str, tmp_path: Path) -> None:
    if path.startswith("schedulefree"):
        pytest.importorskip("schedulefree")
    method = {"torch": path, "lr": 0.01}

    class Stops(Watched):
        def gradient(self, step: int) -> Tensor:
            if step == 15:
                raise KeyboardInterrupt
            return super().gradient(step)

    with pytest.raises(KeyboardInterrupt):
        run(method, Stops(tiny("mlp")), tmp_path / "a", checkpoint_every=0.0)
    tasks = [tiny("mlp"), tiny("mlp")]
    found, expected = (run(method, task, tmp_path / name)[0] for task, name in zip(tasks, "ab", strict=True))
    assert (found.status, found.final) == ("finished", expected.final)
    assert torch.equal(flat(tasks[0]), flat(tasks[1]))


class Noisy(torch.optim.SGD):
    """Adds noise."""

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.add_(1e-3 * torch.randn_like(p))
        return found


# --- several processes -----------------------------------------------------------------------------------------------

SHARED = {
    "mlp": ({"torch": "AMAdamW", "lr": 0.01}, {"shift": 1}),
    "cnn": ({"torch": "AMSGD", "lr": 0.1}, {}),
    "language": ({"rule": "MoMo", "arguments": {"lower_bound": 0.0}, "lr": 1.0}, {}),
}


def shares(rank: int, size: int, store: str, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    for kind, (method, arguments) in SHARED.items():
        tasks, directory = [tiny(kind, **arguments) for _ in range(2)], Path(folder) / f"{kind}, {rank}"
        directory.mkdir()
        metrics = (directory / METRICS).open("a", buffering=1)
        given = {"schedule": "cosine", "warmup": 0.0, "test": True, "directory": directory}
        for task in tasks:  # the second one goes on from the last checkpoint, which the first process alone has
            found = train(
                settings(method),
                task,
                {},
                steps=6,
                checkpoint_every=0.0 if task is tasks[0] else math.inf,
                record=lambda row, file=metrics: print(json.dumps(row), file=file),
                **given,
            )
            assert (found.status, found.evaluations) == ("finished", 6), found.message
        assert {file.name for file in directory.iterdir()} == {METRICS, CHECKPOINT} if rank == 0 else {METRICS}
        rows = [json.loads(line) for line in (directory / METRICS).read_text().splitlines()]
        assert len(rows) == (6 if rank == 0 else 0)
        assert torch.equal(flat(tasks[0]), flat(tasks[1]))
        torch.save({"flat": flat(task), "rows": rows, "final": dict(found.final)}, directory / "found.pt")
    if rank == 0:  # the others do not take part
        assert describe_task("cnn", None, **TINY["cnn"]).startswith("CNN 2x4, digits")
        assert describe_task("logistic", None, batch=15).endswith("batch 15")
    for kind in ("logistic", "mlp"):
        with pytest.raises(ValueError, match=r"trains in one process, got 2|batch must be a multiple of .* 2, got 15"):
            build_task(kind, seed=0, batch=15)
    distributed.barrier()
    os._exit(0)


@pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(shares, (2, str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    for kind, (method, arguments) in SHARED.items():
        task = tiny(kind, **arguments)
        alone, rows = run(method, task, tmp_path / f"{kind}, alone", steps=6, test=True)
        found, other = (torch.load(tmp_path / f"{kind}, {rank}" / "found.pt") for rank in range(2))
        assert torch.equal(found["flat"], other["flat"])
        torch.testing.assert_close(found["flat"], flat(task), rtol=1e-4, atol=1e-5)
        assert found["final"] == other["final"] == pytest.approx(alone.final, rel=1e-4)
        for name in ("train", "validation"):
            assert [row[name] for row in found["rows"]] == pytest.approx([row[name] for row in rows], rel=1e-4)
