"""Is steady memory unbiased where adaptive memory is not, and still immediate where gradients are exact?

    python experiments/unbiased/unbiased.py
    python experiments/unbiased/unbiased.py --tables

The first writes errors.csv, skewed.csv, progress.csv, counts.csv and unbiased.png beside this file and prints what the
README states; some minutes on two cores. It may be stopped at any time: what is done is kept in results/unbiased. The
second runs nothing and prints it from the files.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn import datasets

from proxmom import AdaptiveMemory, HeavyBall, Plane, SteadyMemory, mix
from proxmom.numpy import Runs, minimize
from proxmom.planes import namespace
from proxmom.study.plan.config import load_study
from proxmom.study.problems.collection import build_problem
from proxmom.study.run.parts import kept

Array = NDArray[np.float64]
HERE = Path(__file__).resolve().parent
INSTANCES, PARTS = HERE.parent / "convex" / "small.toml", HERE.parents[1] / "results" / "unbiased"
BATCHES = (1, 8, 64)
SEEDS, STEPS, LR = 4, 60_000, 0.05
LENGTHS = (30, 100, 300, 1000)
SPREAD = np.geomspace(0.01, 100, 13)  # lr of `progress`, in units of 1/L
NOISE = ((0.1, 0.05), (0.01, 0.05), (0.1, 0.01), (0.01, 0.01))  # lr, probability of the long gradient
BUDGET, MISS, TARGET = 1500, 15_000, 1e-6
L2 = 0.01


@dataclass(frozen=True)
class PredictableMemory:
    """Weight of memory from earlier batches only: the ratio of running averages of ||g||² and ||g - d||²."""

    beta_max: float = 0.9
    horizon: float = 50.0
    scalars: ClassVar[Mapping[str, float]] = {"top": 0.0, "bottom": 0.0}

    def planes(self, now: Any) -> Sequence[Plane]:
        xp, top, bottom = namespace(now.step), now.recall("top"), now.recall("bottom")
        beta = xp.clip(xp.where(bottom > 0, top / xp.where(bottom > 0, bottom, 1.0), 1.0), 0.0, self.beta_max)
        return (mix(now.gradient_plane, now.memory_plane(0.0), beta),)

    def remember(self, now: Any) -> Mapping[str, Any]:
        apart = now.gradient - now.memory
        new = {"top": now.dot(now.gradient, now.gradient), "bottom": now.dot(apart, apart)}
        return {name: now.recall(name) + (value - now.recall(name)) / self.horizon for name, value in new.items()}


RULES: dict[str, tuple[Any, float]] = {  # rule, inertia
    "heavy ball 0.9": (HeavyBall(0.9), 0.0),
    "adaptive memory": (AdaptiveMemory(), 0.1),
    "steady memory": (SteadyMemory(), 0.1),
    "predictable memory": (PredictableMemory(), 0.0),
}


def runs_of(name: str, x: Array, lr: Array | float) -> Runs:
    """N runs of a rule at once, from x (N, n)."""
    rule, inertia = RULES[name]
    return Runs(x, rule, lr=lr, inertia=inertia)


class Regression:
    """Logistic regression with an l2 term on rows -label · features (samples, n), and its minimiser."""

    def __init__(self, features: Array, positive: NDArray[np.bool_]) -> None:
        self.rows = -features * np.where(positive, 1.0, -1.0)[:, None]
        self.best = np.zeros(features.shape[1])
        for _ in range(50):
            p = expit(self.rows @ self.best)
            hessian = (self.rows.T * (p * (1 - p))) @ self.rows / len(p) + L2 * np.eye(self.best.size)
            self.best -= np.linalg.solve(hessian, self.rows.T @ p / len(p) + L2 * self.best)
        self.smoothness = np.linalg.eigvalsh(self.rows.T @ self.rows / len(self.rows)).max() / 4 + L2

    def value(self, x: Array) -> Array:
        """f of points (N, n), (N,)."""
        return np.logaddexp(0, x @ self.rows.T).mean(axis=1) + L2 / 2 * (x * x).sum(axis=1)


def regressions() -> dict[str, Regression]:
    """Eight data sets with six features; none of them served to find the rule."""
    random, found = np.random.default_rng(2026), {}

    def labelled(features: Array, offset: float = 0.0) -> Regression:
        return Regression(features, random.random(len(features)) < expit(features @ random.normal(size=6) + offset))

    def measured(features: Array, positive: Any) -> Regression:
        return Regression((features - features.mean(axis=0)) / features.std(axis=0), np.asarray(positive))

    found["Gaussian"] = labelled(random.normal(size=(200, 6)))
    found["skewed"] = labelled(random.exponential(size=(200, 6)) - 1)
    found["heavy tails"] = labelled(random.standard_t(4, size=(200, 6)) / np.sqrt(2))
    found["rare class"] = labelled(np.hstack([np.ones((300, 1)), random.normal(size=(300, 5))]), -2.5)
    cancer, wine, digits, iris = (
        load() for load in (datasets.load_breast_cancer, datasets.load_wine, datasets.load_digits, datasets.load_iris)
    )
    found["breast cancer"] = measured(cancer.data[::3, [2, 6, 7, 11, 21, 24]], cancer.target[::3] == 1)
    found["wine"] = measured(wine.data[:, [6, 7, 8, 9, 11, 12]], wine.target == 0)
    pair = np.isin(digits.target, (3, 8))
    centred = digits.data[pair] - digits.data[pair].mean(axis=0)
    found["digits"] = measured(centred @ np.linalg.svd(centred, full_matrices=False)[2][:6].T, digits.target[pair] == 3)
    crossed = np.hstack([iris.data, iris.data[:, :1] * iris.data[:, 1:2], iris.data[:, 2:3] * iris.data[:, 3:]])
    found["iris"] = measured(crossed, iris.target == 1)
    return found


def errors(name: str) -> list[list[Any]]:
    """Relative error of the averaged weights of runs from the optimum, for each batch size, data set and seed."""
    sets, random = regressions(), np.random.default_rng(1)
    sizes = np.repeat([len(r.rows) for r in sets.values()], SEEDS)
    first = np.repeat(np.cumsum([0, *(len(r.rows) for r in sets.values())])[:-1], SEEDS)
    rows, best = np.concatenate([r.rows for r in sets.values()]), np.repeat([r.best for r in sets.values()], SEEDS, 0)
    runs, total, count = runs_of(name, np.tile(best, (len(BATCHES), 1)), LR), 0.0, len(best)
    for t in range(STEPS):
        if t % 500 == 0:
            shares = [random.random((500, count, batch)) for batch in BATCHES]
            chosen = [first[:, None] + (share * sizes[:, None]).astype(int) for share in shares]
        parts = [runs.x[k * count : (k + 1) * count] for k in range(len(BATCHES))]
        examples = [rows[part[t % 500]] for part in chosen]
        runs.step(np.concatenate([gradient(e, x) for e, x in zip(examples, parts, strict=True)]))
        if t >= STEPS // 4:
            total = total + runs.x
    goal = np.tile(best, (len(BATCHES), 1))
    apart = np.linalg.norm(total / (STEPS - STEPS // 4) - goal, axis=1) / np.linalg.norm(goal, axis=1)
    keys = [(batch, data, seed) for batch in BATCHES for data in sets for seed in range(SEEDS)]
    return [[name, *key, error] for key, error in zip(keys, apart, strict=True)]


def gradient(examples: Array, x: Array) -> Array:
    """Of each run its mini-batch gradient: examples (N, batch, n), x (N, n)."""
    margin = (examples @ x[:, :, None])[:, :, 0]
    return (expit(margin)[:, None] @ examples)[:, 0] / examples.shape[1] + L2 * x


def skewed(name: str, lr: float, chance: float) -> list[list[Any]]:
    """Mean of x, and its standard error over 500 runs: f = ½x², noise 1/chance - 1 with that chance, -1 else."""
    random, runs, total = np.random.default_rng(0), runs_of(name, np.zeros((500, 1)), lr), 0.0
    for t in range(4000):
        runs.step(runs.x + np.where(random.random((500, 1)) < chance, 1 / chance - 1, -1.0))
        if t >= 2000:
            total = total + runs.x / 2000
    return [[name, lr, chance, float(np.mean(total)), float(np.std(total)) / np.sqrt(500)]]


def progress(name: str, data: str) -> list[list[Any]]:
    """Relative gap of the last quarter's average after so many steps from 0, at the best lr, for each batch size."""
    problem, seeds, random = regressions()[data], 8, np.random.default_rng(2)
    best, start = problem.value(problem.best[None])[0], problem.value(np.zeros((1, 6)))[0]
    shape = (len(BATCHES), SPREAD.size, seeds, 6)
    lr = np.broadcast_to(SPREAD[:, None], shape[:-1]).ravel() / problem.smoothness
    runs, sums, found = runs_of(name, np.zeros((lr.size, 6)), lr), {0: np.zeros((lr.size, 6))}, []
    for t in range(max(LENGTHS)):
        parts = []
        for batch, x in zip(BATCHES, runs.x.reshape(shape[0], -1, 6), strict=True):
            examples = problem.rows[random.integers(len(problem.rows), size=(seeds, batch))]
            parts.append(gradient(np.tile(examples, (SPREAD.size, 1, 1)), x))
        runs.step(np.concatenate(parts))
        sums[t + 1] = sums[t] + runs.x
    for steps in LENGTHS:
        early = 3 * steps // 4
        gaps = (problem.value((sums[steps] - sums[early]) / (steps - early)) - best) / (start - best)
        gaps = np.exp(np.log(np.maximum(gaps, 1e-16)).reshape(shape[:-1]).mean(axis=2)).min(axis=1)
        found += [[name, batch, data, steps, float(gap)] for batch, gap in zip(BATCHES, gaps, strict=True)]
    return found


def counts(name: str, index: int) -> list[list[Any]]:
    """Fewest exact gradients to a relative gap of 1e-6 on one instance of the convex study, over its 24 lr."""
    study = load_study(INSTANCES)
    spec = study.problems[index]
    problem = build_problem(spec.kind, name=spec.name, **spec.arguments)
    points = next(m for m in study.methods if m.name == "adaptive memory").points(24, study.seed)
    gap0, fewest, (rule, inertia) = problem.fun(problem.x0)[0] - problem.optimum, BUDGET, RULES[name]
    reached = False

    def watch(intermediate_result: Any) -> None:
        gap = (intermediate_result.fun - problem.optimum) / gap0
        if gap <= TARGET or gap > 1e10:
            raise StopIteration

    for point in sorted(points, key=lambda point: abs(np.log(point["lr"] / 30))):
        with np.errstate(all="ignore"):
            run = minimize(
                problem.fun,
                problem.x0,
                rule,
                lr=point["lr"] / problem.smoothness,
                inertia=inertia,
                max_iter=fewest,
                gtol=0.0,
                callback=watch,
            )
        hits = np.flatnonzero(run.history["fun"] - problem.optimum <= TARGET * gap0)
        if hits.size and hits[0] + 1 <= fewest:
            fewest, reached = int(hits[0]) + 1, True
    return [[name, problem.name, fewest if reached else MISS]]


def interval(ratios: Array) -> str:
    """Geometric mean of ratios (groups, members), and its 95% bootstrap interval over groups and members."""
    random, logs = np.random.default_rng(0), np.log(ratios)
    means = []
    for _ in range(4000):
        picked = logs[random.integers(len(logs), size=len(logs))]
        inner = random.integers(logs.shape[1], size=picked.shape)
        means.append(np.take_along_axis(picked, inner, axis=1).mean())
    low, high = np.exp(np.quantile(means, [0.025, 0.975]))
    return f"{np.exp(logs.mean()):.2f} ({low:.2f} to {high:.2f})"


def write(file: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with (HERE / file).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)


def read(file: str) -> list[list[Any]]:
    """Committed rows, as the runs give them: numbers are numbers."""

    def value(text: str) -> Any:
        try:
            return int(text) if text.isdigit() else float(text)
        except ValueError:
            return text

    with (HERE / file).open(newline="", encoding="utf-8") as stream:
        return [list(map(value, row)) for row in list(csv.reader(stream))[1:]]


def columns(rows: Sequence[Sequence[Any]], **of: Any) -> Array:
    """The last entries of the rows that begin with these values."""
    return np.array([row[-1] for row in rows if list(row[: len(of)]) == list(of.values())], dtype=float)


def tell(found: Mapping[str, list[list[Any]]]) -> None:
    """The tables of the README."""
    print("error of the averaged weights, mean over 8 data sets x 4 seeds, and over heavy ball's (geometric mean)")
    for name in RULES:
        cells = []
        for batch in BATCHES:
            error, ball = (
                columns(found["errors"], rule=r, batch=batch).reshape(-1, SEEDS) for r in (name, "heavy ball 0.9")
            )
            cells.append(f"{100 * error.mean():5.2f}%  {interval(error / ball)}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("\nmean of x under skewed noise, for (lr, chance) = " + ", ".join(map(str, NOISE)))
    for name in RULES:
        print(
            f"| {name} | "
            + " | ".join(f"{row[3]:.3f} ± {2 * row[4]:.3f}" for row in found["skewed"] if row[0] == name)
            + " |"
        )
    print(
        "\ngap over the better one of heavy ball and adaptive memory, geometric mean over data sets, after "
        + str(LENGTHS)
    )
    for batch in BATCHES:
        table = {
            n: np.array(
                [[row[-1] for row in found["progress"] if row[:2] == [n, batch] and row[3] == k] for k in LENGTHS]
            )
            for n in RULES
        }
        means = {n: np.exp(np.log(t).mean(axis=1)) for n, t in table.items()}
        better = np.minimum(means["heavy ball 0.9"], means["adaptive memory"])
        for name in RULES:
            print(f"| {batch} | {name} | " + " | ".join(f"{v:.2f}" for v in means[name] / better) + " |")
    print("\nexact gradients: evaluations, geometric mean over 28 instances, and over adaptive memory's")
    reference = columns(found["counts"], rule="adaptive memory")
    for name in RULES:
        count = columns(found["counts"], rule=name)
        ratio, fewer, more = (
            interval((count / reference)[:, None]),
            (count < reference).sum(),
            (count > reference).sum(),
        )
        print(f"| {name} | {np.exp(np.log(count).mean()):.1f} | {ratio} | {fewer} | {more} |")


def picture(found: Mapping[str, list[list[Any]]]) -> None:
    """Bias against batch size, and evaluations on exact gradients."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    marks = dict(zip(RULES, "os^v", strict=True))
    for name, mark in marks.items():
        error = [100 * columns(found["errors"], rule=name, batch=b).mean() for b in BATCHES]
        left.loglog(BATCHES, error, mark + "-", alpha=0.8)
        count = np.sort(columns(found["counts"], rule=name))
        right.semilogx(
            count[count < MISS], np.arange(1, 1 + np.sum(count < MISS)), mark + "-", ms=3, alpha=0.8, label=name
        )
    left.set(xlabel="batch", title="error of the averaged weights, %", xticks=BATCHES)
    left.xaxis.set_major_formatter("{x:.0f}")
    left.minorticks_off()
    right.legend(fontsize="small")
    right.set(xlabel="exact gradients", title="instances at a relative gap of 1e-6")
    figure.savefig(HERE / "unbiased.png", dpi=100, metadata={"Software": None})


def committed() -> list[list[Any]]:
    """Fewest evaluations of heavy ball and adaptive memory, from the convex study's runs of 24 lr each."""
    fewest: dict[tuple[str, str], int] = {}
    with (HERE.parent / "convex" / "small" / "runs.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["method"] in RULES and not row["variant_of"]:
                count = int(row["evaluations"]) if row["status"] == "reached" else MISS
                key = row["method"], row["problem"]
                fewest[key] = min(count, fewest.get(key, MISS))
    return [[*key, count] for key, count in fewest.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--tables", action="store_true", help="nothing is run: the tables from the committed rows")
    options = parser.parse_args()
    ours = ("steady memory", "predictable memory")
    work: dict[str, tuple[Any, list[tuple[Any, ...]], tuple[str, ...]]] = {
        "errors": (errors, [(n,) for n in RULES], ("rule", "batch", "data", "seed", "error")),
        "counts": (counts, [(n, i) for n in ours for i in range(28)], ("rule", "problem", "evaluations")),
        "progress": (
            progress,
            [(n, d) for n in RULES for d in regressions()],
            ("rule", "batch", "data", "steps", "gap"),
        ),
        "skewed": (skewed, [(n, *noise) for n in RULES for noise in NOISE], ("rule", "lr", "chance", "mean", "error")),
    }
    if options.tables:
        tell({what: read(f"{what}.csv") for what in work})
        return
    found = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        waiting = {
            what: [pool.submit(job, *given) for given in arguments]
            for what, (run, arguments, _) in work.items()
            for job in [kept(run, PARTS, INSTANCES)]
        }
        for what, futures in waiting.items():
            found[what] = [row for future in futures for row in future.result()]
            found[what] = committed() + found[what] if what == "counts" else found[what]
            write(f"{what}.csv", work[what][2], found[what])
    picture(found)
    tell(found)


if __name__ == "__main__":
    main()
