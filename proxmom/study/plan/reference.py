"""The reference of study files as a page: each key with its kind and default, each problem with its arguments.

Keys, defaults and arguments are those of the code that reads them; here stands what they mean. `python -m
proxmom.study.plan.reference` prints the page.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from proxmom.study.methods.method import SCIPY, SOLVERS
from proxmom.study.plan.decisions import (
    COUNTING,
    FAILS,
    HOLDS,
    KEYS,
    LEVEL,
    OPEN,
    PAIRED,
    TRAINED,
    WAYS,
)
from proxmom.study.plan.entries import DETERMINISTIC, TRAINING
from proxmom.study.plan.points import SCALES
from proxmom.study.plan.specs import FREEZABLE, MOST_SEEDS
from proxmom.study.problems.collection import PROBLEMS

__all__ = ["DECIDE", "EVALUATIONS", "MEASURES", "METHOD", "SEARCH", "STUDY", "TRAINS", "Key", "page"]


class Key(NamedTuple):
    """A key of a table: its kind as messages call it, its default ("needed" where there is none), what it means."""

    kind: str
    default: str
    meaning: str


STUDY = {
    "name": Key("a text", "needed", "names the folder of results: letters, digits, `.`, `_` and `-`"),
    "claim": Key("a text", "needed", "what the study is to show, written down before it is run"),
    "seed": Key("a whole number", "0", "of the quasi-random points, >= 0"),
    "points": Key("a whole number", "needed", "how many points each method tries of what it searches, >= 1"),
    "reference": Key("a text", "needed", "the method that ratios are to, by its name"),
}
EVALUATIONS = {
    "max_evaluations": Key(
        "a whole number", "needed", "the budget of each run, >= 1: a value and its gradient are one"
    ),
    "target": Key("a number", "needed", "the relative gap (f - f*) / (f(x0) - f*) that ends a run, > 0 and < 1"),
}
TRAINS = {
    "steps": Key("a whole number", "needed", "of each run, >= 1; this key makes it a training study"),
    "seeds": Key("a whole number", "needed", "with how many training seeds the best point of each method is run, >= 1"),
    "search_seeds": Key("a whole number", "1", f"with how many other seeds each point is tried, 1 to {MOST_SEEDS}"),
    "schedule": Key("a text", "constant", "of lr: `constant`, `linear`, `cosine`, `inverse-sqrt`"),
    "warmup": Key("a number", "0.0", "share of the steps in which lr rises from 0, >= 0 and < 1"),
    "device": Key("a text", "cpu", "`cpu` or `cuda`"),
    "targets": Key("a list", "[]", "validation losses > 0 whose first crossing is reported"),
}
SEARCH = {
    "low": Key("a number", "needed", "the lower end, below high"),
    "high": Key("a number", "needed", "the upper end"),
    "scale": Key("a text", "needed", f"on which points are uniform: {', '.join(f'`{scale}`' for scale in SCALES)}"),
}
METHOD = {  # kind and meaning; the default is the reading code's, or what its stand-in means
    "lr": Key("a number", "needed, here or in search", "the step size; in convex studies in units of 1/L"),
    "inertia": Key("a number", "", "λ >= 0, where the metric is diagonal"),
    "weight_decay": Key("a number", "", "μ >= 0"),
    "decay": Key("a text", "", "the form of weight decay: `coupled`, `decoupled`, `proximal`"),
    "metric": Key("a text", "", "what measures a move, a name or an import path"),
    "step_size": Key("a text", "none", "what multiplies lr, e.g. `Secant`; in convex studies lr may then be left out"),
    "scope": Key("a text", "", "`model` or `tensor`: who shares one model of planes"),
    "arguments": Key("a table", "{}", 'of the rule or optimizer; `"optimum"` stands for the least value'),
    "search": Key("a table", "{}", "what is searched: lr, inertia, ..., or an argument, each with low, high and scale"),
    "points": Key("a whole number", "the study's", "points of its own, >= 1"),
    "defaults": Key("a table", "{}", "a further row, run once: nothing searched, these values instead"),
    "freeze": Key(
        "a list", "[]", f"controls: any of {', '.join(f'`{what}`' for what in FREEZABLE)} frozen at its mean"
    ),
    "schedule": Key("a text", "the study's", "a schedule of its own"),
    "warmup": Key("a number", "the study's", "a warm-up of its own"),
}
DECIDE = {
    "part": Key("a text", "none", "which part of the claim this is, `(1)`"),
    "measure": Key("a text", "needed", "what is compared, one of those below"),
    "method": Key("a text", "needed", "a method or a variant, by its name in tables; a list: each of them"),
    "over": Key("a text", "needed where two are compared", "the method it is compared with; a list: with each of them"),
    "problems": Key("a text", "all", "those it is about, by name, `*` for any text; a list: any of these"),
    "at_most": Key("a number", "one of five", "the figure must be this or less"),
    "at_least": Key("a number", "one of five", "this or more"),
    "below": Key("a number", "one of five", "less than this"),
    "above": Key("a number", "one of five", "more than this"),
    "within": Key("a list", "one of five", "`[low, high]`: neither less nor more"),
    "by": Key(
        "a text",
        WAYS[0],
        "what must satisfy that: `interval`, the whole 95% interval; `mean`, the estimate alone; `overlap`, some of "
        "the interval, as where it is to contain a value",
    ),
    "share": Key(
        "a number", "all at once", "the part of the problems, > 0 and <= 1, on which it must hold, each by itself"
    ),
    "level": Key(
        "a list",
        f"{list(LEVEL)}",
        "with share, by the interval, and below or above equality: a problem whose ratio has its whole interval in "
        "here is level, and does not count as one on which it holds",
    ),
}
MEASURES = {
    "evaluations": "evaluations over those of `over`, the geometric mean over problems",
    "misses": "on how many problems the target was missed, less those of `over` if given",
    "loss": "the deciding loss over that of `over`, the geometric mean over seeds and problems",
    "loss difference": "the loss less that of `over`, paired by seed, the mean over seeds and problems",
    "lr-sensitivity": "the mean excess loss within a factor of ten of the best lr, over that of `over` if given; "
    "of methods with four points there or more",
    "lost seeds": "the share of final runs that diverged or failed, less that of `over` if given",
}
DECISIONS = f"""\
```toml
[[decide]]
measure = "evaluations"
method = "adaptive memory"
over = ["heavy ball 0.9", "heavy ball, tuned"]
at_most = 0.9
by = "interval"
```

Parts of the claim as numbers, decided by the runs; the report opens with what becomes of each. No run depends on them:
they may be added to a study that has been run, and the next `proxmom run` writes them into its folder. A part
**{HOLDS}**, or **{FAILS}**, or there are **{OPEN}** to say: an interval contains the bound, or runs are missing.

"""
SEEDS = f"""\
Intervals are those of the tables: of one problem Student's over its seeds, of several a bootstrap interval, and none
of fewer than three; that of `lr-sensitivity` on one problem is a bootstrap interval over its points. With `share`, a
problem on which the interval contains the bound is undecided, and the report says how many seeds more it would take to
decide, by the variance of those that were run. A count of evaluations is certain. `over` is needed for
{", ".join(f"`{name}`" for name in PAIRED)}.
"""
KINDS = {
    "rule": "a rule by name (`proxmom rules`) or import path, `my_rules.py:MyRule`",
    "solver": f"a method of the literature: {', '.join(f'`{name}`' for name in SOLVERS)}",
    "scipy": f"a minimiser of SciPy: {', '.join(f'`{name}`' for name in SCIPY)}; no tolerance ends it",
    "torch": "a torch optimizer by import path, `torch.optim:Adam`, or a function `my_file.py:mine` of (parameters, "
    "lr, ...) that makes one; in training studies one of ours by name too",
}
MODES = """\
Its step gets a closure that returns the loss; what has `train()` and `eval()` is evaluated between them. For several as
one, with a part of the parameters each, and for state that `state_dict()` leaves out, a function of yours returns a
`proxmom.study.training.Wrapped`, as those in `experiments/field/methods.py` do.

"""
OWN = """\
### `kind = "my_problem.py:name"`, a problem of your own

In convex studies: an import path of a function or class; all other keys are its arguments. What it makes has `x0` and
`fun(x) -> (f, gradient)`, and may have `optimum`, `smoothness`, `name` and `convex`. A file is looked for beside the
study, and **runs as code**. `data`, if it names a file beside the study, is handed over as its path.
"""
OWN_NETWORK = """\
### `kind = "my_network.py:Net"`, a network of your own

An import path of a function or class that takes `seed`, the training seed, and may take `device="cpu"`; all other keys
are its arguments. What it makes has `model`, a `torch.nn.Module` on the CPU; `loss(n)`, the differentiable loss of
batch number n; and `evaluate(split)`, of "validation" or "test", a number or a dictionary with "loss" and perhaps
"accuracy". It may have a `name`. Initial weights are drawn from the seed; let batches be a function of seed and n, so
that a run that was stopped goes on with the same ones. Losses are not negative. One process trains it, and a model
whose buffers change, as BatchNorm's do, is refused. A file is looked for beside the study, and **runs as code**.
`data`, if it names a file beside the study, is handed over as its path. [Swap one line](tutorials/train.md) has an
example.

"""
HEAD = """\
# The study file

Every key of the TOML files that `proxmom run` reads. This page is printed by `python -m proxmom.study.plan.reference`
from the code that reads them. A study has one table `[study]`, at least one `[[problem]]` and one `[[method]]`, and
may have tables `[[decide]]`. An unknown key is refused with its line; `proxmom run --check STUDY` reads a file and runs
nothing. How one goes about it stands in [Study a convex problem](tutorials/convex.md).

"""
DATA = """\
`data` names an embedded set (`breast_cancer`, `digits`, `digits 0-1` or any other pair, `diabetes`), for least squares
and Huber's loss `synthetic`, or a file: LIBSVM by its path, a table by its path and its target, `houses.csv:price` or
`houses.npz:price`. A relative path starts in the folder of `--data` or PROXMOM_DATA, and of convex studies also beside
the study file.

"""


def page() -> str:
    """The whole page, in Markdown; torch is needed for the tasks of training studies."""
    from proxmom.study.training.tasks import OF_THE_RUN, TASKS

    study = _table(STUDY), "In a convex study, which counts evaluations:\n\n" + _table(EVALUATIONS)
    parts = [HEAD + "## `[study]`\n\n", "\n".join([*study, "In a training study:\n\n" + _table(TRAINS)])]
    own = {"name": Key("a text", "made of its arguments", "how tables call it")}
    parts.append("\n## `[[problem]]`\n\nA list of values in place of one makes a problem of each.\n\n")
    parts.append(_table({"kind": Key("a text", "needed", "one of the following"), **own}) + "\n" + DATA)
    parts.append("".join(_problem(kind, builder, ("data_dir",)) for kind, builder in PROBLEMS.items()) + OWN)
    parts.append("\n## `[[problem]]` of training studies\n\n")
    parts.append("".join(_problem(kind, builder, OF_THE_RUN) for kind, builder in TASKS.items()) + OWN_NETWORK)
    parts.append("## `[[method]]`\n\nOne of the keys in these titles, `name`, and the keys below them.\n\n")
    for title, dialect in (("convex studies", DETERMINISTIC), ("training studies", TRAINING)):
        parts += [_method(kind, title, keys) for kind, keys in dialect.kinds.items()]
    parts.append("## `search.NAME`\n\n" + _table(SEARCH))
    return "".join(parts) + _decide()


def _decide() -> str:
    parts = ["\n## `[[decide]]`\n\n" + DECISIONS + _table({name: DECIDE[name] for name in KEYS})]
    for title, names in (("convex studies", COUNTING), ("training studies", TRAINED)):
        parts.append(f"\nMeasures of {title}:\n\n" + "".join(f"* `{name}`: {MEASURES[name]}\n" for name in names))
    return "".join(parts) + "\n" + SEEDS


def _method(kind: str, where: str, keys: Mapping[str, Any]) -> str:
    said = MODES if (kind, where) == ("torch", "training studies") else ""
    head = f"### `{kind}`, in {where}\n\n{KINDS[kind][0].upper()}{KINDS[kind][1:]}.\n\n{said}"
    return head + _table({name: _filled(METHOD[name], default) for name, default in keys.items()}) + "\n"


def _filled(key: Key, default: Any) -> Key:
    return key if key.default else key._replace(default=str(default))


def _problem(kind: str, builder: Callable[..., Any], hidden: Iterable[str]) -> str:
    """Its docstring, as far as it speaks to whoever writes a study, and its arguments with their defaults."""
    said = (inspect.getdoc(builder) or "").partition("\nRaises:")[0].rstrip()
    takes = {name: value for name, value in inspect.signature(builder).parameters.items() if name not in hidden}
    given = [f"{name} = {_default(argument.default)}" for name, argument in takes.items()]
    return f'### `kind = "{kind}"`\n\n```text\n{said}\n\n{", ".join(given)}\n```\n\n'


def _default(value: Any) -> str:
    if value is None:
        return "(left out)"
    return f'"{value}"' if isinstance(value, str) else f"{value}"


def _table(keys: Mapping[str, Key]) -> str:
    if not keys:
        return "No further key.\n"
    rows = [f"| `{name}` | {key.kind} | {key.default} | {key.meaning} |" for name, key in keys.items()]
    return "\n".join(["| key | kind | default | meaning |", "|---|---|---|---|", *rows, ""])


if __name__ == "__main__":
    print(page(), end="")
