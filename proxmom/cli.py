"""The command line: `proxmom rules | verify | same | run | report | power | draw | conformance | bench`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from proxmom import __version__
from proxmom.lookup import find_metric, find_rule
from proxmom.rules import RULES

EXTRAS = {
    "cvxpy": "verify",
    "clarabel": "verify",
    "torch": "torch",
    "submitit": "cluster",
}  # of missing packages; any other is of "study"
FOLDER = click.Path(file_okay=False, path_type=Path)


class _ToWrite(click.Path):
    """A file to write, whose folder is there, so that nothing is computed in vain."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        file = Path(str(super().convert(value, param, ctx)))
        if not file.parent.is_dir():
            self.fail(f"must be in a folder that exists, got {file}: make the folder first.", param, ctx)
        return file


TO_WRITE = _ToWrite(dir_okay=False, path_type=Path)


@contextmanager
def _clear_errors(command: str) -> Iterator[None]:
    """Errors of the user's making become one line; anything else keeps its traceback."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "", "study")
        raise click.ClickException(
            f"proxmom {command} needs the {extra} extra: pip install 'proxmom[{extra}]' (no module {error.name!r})."
        ) from error
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise click.ClickException(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="proxmom")
def main() -> None:
    """Momentum optimizers as exact proximal steps on a model of planes.

    A rule says which planes model the loss. RULE is a name from `proxmom rules`, with arguments if wanted, or an import
    path: AdaptiveMemory, "MoMo(lower_bound=0.1)", my_rules.py:MyRule, "package.module:MyRule(beta=0.5)".
    """


@main.command()
def rules() -> None:
    """List the rules, one line each."""
    width = max(map(len, RULES))
    for name, rule in RULES.items():
        click.echo(f"{name:<{width}}  {(rule.__doc__ or '').strip().splitlines()[0]}")


@main.command(short_help="Compare the steps of a rule with a convex solver's.")
@click.argument("rule", nargs=-1)
@click.option("--trials", default=200, type=click.IntRange(min=1), help="States compared for each setting.")
@click.option("--metric", multiple=True, help="A name or import path, repeatable; without it every one.")
@click.option("--inertia", multiple=True, type=float, help="Repeatable; without it 0, and 0.1 where P is diagonal.")
@click.option("--weight-decay", multiple=True, type=float, help="Repeatable; without it 0 and 0.05.")
@click.option("--decay", multiple=True, help="Repeatable; without it every form that the metric takes.")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Trial i depends on (seed, i) alone.")
@click.option("--jobs", default=1, type=click.IntRange(min=1), help="Processes.")
def verify(
    rule: tuple[str, ...],
    trials: int,
    metric: tuple[str, ...],
    inertia: tuple[float, ...],
    weight_decay: tuple[float, ...],
    decay: tuple[str, ...],
    seed: int,
    jobs: int,
) -> None:
    """Compare every step of RULE (without it: all rules) with an independent convex solver.

    On random and degenerate states. The table shows, relative and at worst, the error of the step, its duality gap, and
    the excess of its objective over the convex solver's; and the trial nearest to its limits, which the seed and its
    number reproduce. In a norm the error is one of length, because the best step need not be unique. Rules with a
    lower bound must refuse inertia and coupled decay, norms proximal decay and rules that ask for inner products; that
    is checked instead. Exits with 1 if a step is wrong: error or excess above 1e-6, or gap above 1e-10.
    """
    with _clear_errors("verify"):
        from proxmom.reference import convex_solver
        from proxmom.verify import settings as plan

        convex_solver()  # if it is missing, say so first
        settings = plan.grid(rule, metric, inertia, weight_decay, decay)
        plan.check_names(settings)
        ready = plan.check_settings(settings, trials=trials, seed=seed, jobs=jobs)
        with click.progressbar(ready, length=len(settings), label="verify", file=sys.stderr, show_pos=True) as bar:
            reports = list(bar)
    click.echo(plan.table(reports))
    sys.exit(0 if all(report.ok for report in reports) else 1)


@main.command(short_help="Whether two rules take the same steps.")
@click.argument("a")
@click.argument("b")
@click.option("--metric", multiple=True, default=("Euclidean",), help="A name or import path, repeatable.")
@click.option("--inertia", default=0.0, help="λ >= 0.")
@click.option("--weight-decay", default=0.0, help="μ >= 0.")
@click.option("--decay", default="decoupled", help="coupled, decoupled or proximal.")
@click.option("--trials", default=200, type=click.IntRange(min=1), help="States compared in each metric.")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="State i depends on (seed, i) and A alone.")
def same(
    a: str,
    b: str,
    metric: tuple[str, ...],
    inertia: float,
    weight_decay: float,
    decay: str,
    trials: int,
    seed: int,
) -> None:
    """Compare the steps of the rules A and B on random and degenerate states, and along runs.

    A and B are shown the same gradients. Says "the same to rounding" where every step agrees to 1e-9, relative, or
    names the first state where they differ, and by how much. Exits with 1 if they differ in any of the metrics.
    """
    with _clear_errors("same"):
        from proxmom.verify.same import check_same
        from proxmom.verify.settings import build_rule

        rules = build_rule(a), build_rule(b)
        options: Any = {
            "inertia": inertia,
            "weight_decay": weight_decay,
            "decay": decay,
            "trials": trials,
            "seed": seed,
        }
        found = [check_same(*rules, metric=find_metric(each), **options) for each in metric]
    click.echo("\n".join(map(str, found)))
    sys.exit(0 if all(each.same for each in found) else 1)


@main.command(short_help="Run a study and write its report.")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--out", type=FOLDER, help="Where results go; without it results/<name of the study>.")
@click.option(
    "--jobs", default=-1, help="Runs at a time; -1 is one per core, per GPU on cuda, and with slurm all at once."
)
@click.option("--data", type=FOLDER, envvar="PROXMOM_DATA", show_envvar=True, help="Folder of real data files.")
@click.option("--check", is_flag=True, help="Only read and plan the study: its runs, and how long those left may take.")
@click.option("--retry-failed", is_flag=True, help="Run again what raised an error; what diverged is a result.")
@click.option("--rule", multiple=True, help="A further method: a rule by name or import path, lr tuned. Repeatable.")
@click.option("--steps", type=click.IntRange(min=1), help="Instead of a training study's; NAME becomes NAME-STEPS.")
@click.option(
    "--executor",
    default="joblib",
    type=click.Choice(["joblib", "slurm", "local"]),
    help="Who runs: processes here; jobs of SLURM; or such jobs here, to try it.",
)
@click.option(
    "--slurm",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="For sbatch: time=MINUTES (needed), partition=NAME, gpus_per_node=1, mem=8GB, setup=COMMAND, ... Repeatable.",
)
def run(
    study: Path,
    out: Path | None,
    jobs: int,
    data: Path | None,
    check: bool,
    retry_failed: bool,
    rule: tuple[str, ...],
    steps: int | None,
    executor: str,
    options: tuple[str, ...],
) -> None:
    """Run a STUDY (a TOML file), print its table and write its report.

    Imports what the study names (my_rules.py:MyRule), so that its code runs with your rights.

    Only what is missing is run: stop or kill it at any time and start it again. A further method, problem or seed in
    the file adds its own runs and repeats none.

    A study with max_evaluations and target counts gradient evaluations to a relative gap, on functions whose optimum is
    known. A study with steps and seeds trains (with torch): the points of each method are compared by validation loss,
    its best one is trained with every seed, and the test split is read at the end of those runs alone. A
    training run saves a checkpoint every minute and continues from it. With search_seeds = 3 in [study] each point is
    trained with three seeds, other ones than the final runs have, and the best one has the smallest mean validation
    loss; there a run that diverged or ended above its initial loss counts as that loss.

    With --executor slurm (pip install 'proxmom[cluster]') the folder of results must be on a disk that all nodes share.
    Jobs go on if this process ends; the next start waits for those that are still there.

    torchrun --nproc-per-node 2 -m proxmom run STUDY trains run after run, each spread over the processes.

    What the machine ends (no disk, no memory, a killed process) is no result and is done again by the next start. Exits
    with 1 if a run failed, was ended by the machine, or is missing; the report is written all the same.
    """
    with _clear_errors("run"):
        if check:
            from proxmom.study.run.check import check_study

            click.echo(check_study(study, out, data, rule, steps))
            return
        from proxmom.study.record.store import shortfall
        from proxmom.study.report.write import terminal_table, write_report
        from proxmom.study.run.runner import run_study

        with _engine(executor, jobs, options) as engine:
            if not getattr(engine, "leads", True):
                engine.follow()
                return
            try:
                results = run_study(
                    study, out, data=data, retry_failed=retry_failed, rules=rule, engine=engine, steps=steps
                )
            except KeyboardInterrupt:  # the runner has said how to go on
                sys.exit(130)
        lacking = shortfall(results)
        for line in lacking:
            click.echo(line, err=True)
        page = write_report([results])
        click.echo(terminal_table([results]))
    click.echo(f"report: {page}")
    if lacking:
        sys.exit(1)


def _engine(executor: str, jobs: int, options: tuple[str, ...]) -> Any:
    """What runs the cells of a study, as a context manager."""
    from proxmom.study.run.engines import Processes, under_torchrun

    values = dict(option.partition("=")[::2] for option in options)
    if not all(values.values()):
        raise ValueError(f"--slurm must read KEY=VALUE, got {' '.join(options)}.")
    if values and executor != "slurm":
        raise ValueError(f"--slurm goes with --executor slurm, got {executor}.")
    if under_torchrun():
        from proxmom.study.run.torchrun import Torchrun

        if executor != "joblib":
            raise ValueError(f"torchrun starts the processes itself: leave --executor {executor} out.")
        return Torchrun()
    if executor == "joblib":
        return nullcontext(Processes(jobs))
    from proxmom.study.run.cluster import Cluster

    return nullcontext(Cluster(executor, jobs, values))


@main.command(short_help="Tables and report of finished runs.")
@click.argument("directory", nargs=-1, required=True, type=FOLDER)
@click.option("--out", type=TO_WRITE, help="Without it report.html in DIRECTORY.")
@click.option("--reference", help="Method that ratios are to; without it the first study's.")
@click.option("--csv", type=TO_WRITE, help="A row for each run there, beside it their origin.")
@click.option("--parquet", type=TO_WRITE, help="The same as Parquet.")
@click.option("--curves", type=TO_WRITE, help="A row for each record of each run there, .csv or .parquet.")
def report(
    directory: tuple[Path, ...],
    out: Path | None,
    reference: str | None,
    csv: Path | None,
    parquet: Path | None,
    curves: Path | None,
) -> None:
    """Tables and report.html from the finished runs in each DIRECTORY.

    That is a results directory, or a folder NAME of exported rows, NAME/runs.csv, with the study NAME.toml beside it.
    Reads TOML and JSON, and runs nothing: no rule's file is imported, no checkpoint and no pickle is loaded.
    """
    with _clear_errors("report"):
        from proxmom.study.report.export import check_curves, write_csv, write_curves, write_parquet
        from proxmom.study.report.write import terminal_table, write_report

        if curves is not None:
            check_curves(curves)
        page = write_report(directory, out=out, reference=reference)
        for write, file in ((write_csv, csv), (write_parquet, parquet), (write_curves, curves)):
            if file is not None:
                write(directory, file)
        click.echo(terminal_table(directory, reference))
    click.echo(f"report: {page}")


@main.command(short_help="How many seeds tell a difference.")
@click.argument("directory", nargs=-1, required=True, type=FOLDER)
@click.option("--difference", "differences", multiple=True, default=(0.02, 0.05), help="Of the loss, repeatable.")
@click.option("--power", "chance", default=0.8, help="Chance of telling it, > 0.05 and < 1.")
@click.option("--reference", help="Method that all others are compared with; without it the first study's.")
@click.option(
    "--search-seeds", type=click.IntRange(min=1), help="That choose a point; without it as many as there were."
)
def power(
    directory: tuple[Path, ...],
    differences: tuple[float, ...],
    chance: float,
    reference: str | None,
    search_seeds: int | None,
) -> None:
    """How many final seeds tell a difference of the loss, by the variance of the runs in each DIRECTORY.

    DIRECTORY is as for `report`, and holds a training study. Problem by problem, each method against the reference,
    paired by seed: whether its loss is lower, higher or level, or how many more seeds would decide; with how many
    Student's two-sided 5% test tells a difference of 2% or 5%; and how much of the spread comes from the choice of the
    point, which the search made by few seeds, and which no number of final seeds makes smaller.
    """
    with _clear_errors("power"):
        from proxmom.study.report.power import power_table

        click.echo(power_table(directory, reference, differences, chance, search_seeds))


@main.command(short_help="In how many steps methods get to a loss.")
@click.argument("directory", nargs=-1, required=True, type=FOLDER)
@click.option("--target", type=float, help="A validation loss; without it what the reference's search reached.")
@click.option("--reference", help="Method that all others are compared with; without it the study's.")
@click.option("--picture", type=TO_WRITE, help="Loss against steps, as a file there.")
def speedrun(directory: tuple[Path, ...], target: float | None, reference: str | None, picture: Path | None) -> None:
    """In how many steps each method gets to a validation loss, from runs of one study at several lengths.

    \b
        proxmom run STUDY --steps 500    # and with 650 and 850: each length with its own schedule and search
        proxmom speedrun results/NAME-500 results/NAME-650 results/NAME-850

    Under a schedule only the end of a run counts, so the number of steps is read between the two lengths whose mean
    losses enclose the target. Without --target that is the validation loss of the reference's best point in its search
    at the middle length, which no final run has a part in. Methods are compared by Student's one-sided test of the
    logarithms of their steps, paired by seed.
    """
    with _clear_errors("speedrun"):
        from proxmom.study.report.speedrun import speed_table

        click.echo(speed_table(directory, reference, target, picture))


@main.command(short_help="Draw the paths of rules, or one step.")
@click.argument("rule", nargs=-1, required=True)
@click.option(
    "--on",
    default="rosenbrock",
    help="quadratic, rosenbrock, himmelblau; a function of yours, my_functions.py:valley; or model: f, planes, step.",
)
@click.option("--lr", type=float, help="Step size; without it one that suits the function.")
@click.option("--start", type=(float, float), multiple=True, metavar="X Y", help="Repeatable; not with --on model.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps drawn.")
@click.option("--metric", default="Euclidean", help="Euclidean, Adam or an import path.")
@click.option("--inertia", default=0.0, help="λ >= 0.")
@click.option("--view", type=(float, float, float, float), metavar="LEFT RIGHT BOTTOM TOP", help="Of the plane.")
@click.option(
    "--out",
    type=TO_WRITE,
    help=".png, .svg, .pdf, or .pgf (with LaTeX); without it a name is made.",
)
@click.option(
    "--animate",
    type=TO_WRITE,
    help="With --on model, the planes step by step instead: .gif, or .html with a slider.",
)
@click.option("--dpi", type=float, help="Of a .png (200) or an animation (100).", show_default=False)
@click.option("--title/--no-title", default=True, help="The names above.")
@click.option("--caption/--no-caption", default=True, help="The settings, and what came of them.")
def draw(
    rule: tuple[str, ...],
    on: str,
    start: tuple[tuple[float, float], ...],
    view: tuple[float, ...] | None,
    metric: str,
    out: Path | None,
    animate: Path | None,
    **settings: Any,
) -> None:
    """Draw each RULE: its path on a function of two variables, or the model it solves (--on model).

    Several rules share a picture. A function of yours is fun(x) -> (f, gradient), x of shape (2,), and goes with --lr
    and --start.
    """
    with _clear_errors("draw"):
        from proxmom.draw import FUNCTIONS, animate_model, draw_model, draw_path

        if on not in (*FUNCTIONS, "model") and ":" not in on:
            known = ", ".join(FUNCTIONS)
            raise ValueError(f"--on must be one of {known}, model, or an import path like my.py:valley, got {on!r}.")
        if on == "model" and (start or view):
            raise ValueError("--start and --view go with functions of two variables: leave them out with --on model.")
        if animate is not None and (on != "model" or out is not None or len(rule) > 1):
            raise ValueError("--animate goes with --on model and one RULE, and without --out.")
        rules = [find_rule(text) for text in rule]
        given = {name: value for name, value in settings.items() if value is not None}
        name = on.rpartition(":")[2].partition("(")[0]
        target = out if out is not None else Path(f"{type(rules[0]).__name__.lower()}-{name}.png")
        given |= {"metric": find_metric(metric), "out": animate or target}
        if animate is not None:
            animate_model(rules[0], **given)
        elif on == "model":
            draw_model(rules, **given)
        else:
            draw_path(rules, on, starts=start or None, view=view, **given)  # type: ignore[arg-type]
    click.echo(animate or target)


@main.command(short_help="Test a torch optimizer.")
@click.argument("optimizer", nargs=-1)
@click.option("--torch", "torchs", is_flag=True, help="torch's own too, which do not count for the exit code.")
@click.option("--markdown", is_flag=True, help="A Markdown table, which says what each row means.")
@click.option("--json", "file", type=TO_WRITE, help="Also write all outcomes there.")
def conformance(optimizer: tuple[str, ...], torchs: bool, markdown: bool, file: Path | None) -> None:
    """Ask some forty questions of each torch OPTIMIZER: state, groups, precision, layouts, what it costs.

    OPTIMIZER is one of ours by name, or an import path, with arguments by name if wanted: AMSGD,
    my_file.py:MyOptimizer, "torch.optim:AdamW(lr=0.01)". Without it, and without --torch, all of ours. Exits with 1 if
    a row that must hold FAILs; one that "fails", in small letters, is good to have, and a number is only reported.
    """
    with _clear_errors("conformance"):
        from proxmom.testing import ROWS, check_optimizer, side_by_side
        from proxmom.testing.known import OURS, named, torchs_own

        asked = named(optimizer) if optimizer or torchs else OURS
        shown = {**asked, **(torchs_own() if torchs else {}), **asked}  # what was asked for comes first
        with click.progressbar(length=len(shown) * len(ROWS), label="conformance", file=sys.stderr) as bar:
            reports = {
                name: check_optimizer(factory, progress=lambda: bar.update(1)) for name, factory in shown.items()
            }
        if file is not None:
            file.write_text(json.dumps({name: report.to_dict() for name, report in reports.items()}, indent=2) + "\n")
    click.echo(side_by_side(reports, markdown=markdown))
    sys.exit(0 if all(reports[name].ok for name in asked) else 1)


@main.command(short_help="Time a step and the solver.")
@click.option("--device", default="cpu", help="cpu or cuda.")
@click.option("--set", "sets", multiple=True, help="Parameter set, repeatable; without it all that suit the device.")
@click.option("--threads", multiple=True, type=int, help="Repeatable; without it torch's own choice.")
@click.option("--rounds", type=int, help="Steps timed of each optimizer; without it 7 to 60, within about 20 seconds.")
@click.option("--only", help="torch or numpy; without it both.")
@click.option("--compile", "compiled", is_flag=True, help="Also steps through torch.compile, which takes minutes.")
@click.option("--metrics", is_flag=True, help="Instead of all that, memory and time of a step in every metric.")
@click.option("--json", "file", type=TO_WRITE, help="Also write raw figures there.")
@click.option("--from", "source", type=click.Path(dir_okay=False, path_type=Path), help="Only show a file of --json.")
@click.option("--markdown", is_flag=True, help="Tables in Markdown.")
def bench(file: Path | None, source: Path | None, markdown: bool, **settings: Any) -> None:
    """Time and memory of a step, beside torch's own optimizers; and the solver, beside a convex one.

    Sets: resnet18, gpt2, many-small, one-large, and on cuda llama1b. The contenders take turns, so ratios can be
    trusted more than times, and neither while something else computes. Without torch only the solver and NumPy are
    timed.

    --metrics has sets of its own, a transformer block and many-small, and goes without --set, --only, --compile.
    """
    with _clear_errors("bench"):
        from proxmom.bench import Plan, load, measure, render

        plan = Plan(**settings)
        if source is not None and (file is not None or plan not in (Plan(), Plan(metrics=True))):
            raise ValueError("--from measures nothing: it goes with --markdown alone.")
        for figures in measure(plan) if source is None else [load(source)]:
            if file is not None:  # figures grow: what is measured is not lost when the rest is interrupted
                file.write_text(json.dumps(figures) + "\n")
        page = render(figures, markdown=markdown)
    click.echo(page)


if __name__ == "__main__":
    main()
