"""`check_rule`: any rule against an independent convex solver, on random and on degenerate states.

Each trial drives a NumPy `Optimizer` through a few random steps, so that memory, metric and mass are what they would be
in earnest, and then compares the next step with the convex solver's. A trial is reproduced by its seed and number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from proxmom.certify import certify
from proxmom.metrics import Euclidean, Metric, kind_of
from proxmom.notebook import html_of
from proxmom.numpy.measures import split
from proxmom.numpy.optimizer import Model, Optimizer
from proxmom.reference import objective, root_of, solve_step
from proxmom.rules import Facts, Rule
from proxmom.verify import norms
from proxmom.verify.cases import SIZE, Trial, Vector
from proxmom.verify.closed_form import ClosedForm, move_of
from proxmom.verify.several import check_several
from proxmom.verify.states import State, bound_of, draw, surroundings

ASYMMETRY = 1e-8  # relative
ROUNDING = 4 * float(np.finfo(float).eps)


@dataclass(frozen=True)
class Report:
    """What `check_rule` saw.

    rule, metric, inertia, weight_decay, decay, seed: what it was given, rule and metric as text.
    trials: by number; none where the setting was refused.
    refused: the message where the setting is one that must be refused, and was.
    closed_form: which formula was compared in the place of our solver's answer; None: none.
    """

    rule: str
    metric: str
    inertia: float
    weight_decay: float
    decay: str
    seed: int
    trials: tuple[Trial, ...]
    refused: str | None = None
    closed_form: str | None = None

    def worst(self, figure: str) -> Trial:
        """The trial with the largest "error", "gap", "excess" or "strain"; ValueError where the setting was refused."""
        if self.refused is not None:
            raise ValueError(f"no trial was made: the setting was refused, as it must be: {self.refused}")
        return max(self.trials, key=lambda trial: float(getattr(trial, figure)))

    def worst_figure(self, figure: str) -> float:
        """The largest "error", "gap" or "excess", as `worst`."""
        return float(getattr(self.worst(figure), figure))

    @property
    def ok(self) -> bool:
        """Whether every step agrees to 1e-6 and every duality gap is below 1e-10, both relative."""
        if self.refused is not None:
            return True
        return all(trial.strain <= 1 for trial in self.trials)

    def _repr_html_(self) -> str:
        return html_of(str(self))

    def __str__(self) -> str:
        setting = (
            f"{self.rule}, {self.metric}, inertia {self.inertia:g}, weight decay {self.weight_decay:g} ({self.decay})"
        )
        if self.closed_form is not None:
            setting = f"{setting}, {self.closed_form}"
        if self.refused is not None:
            return f"{setting}: refused, as it must be: {self.refused}"
        error, gap, excess = self.worst("error"), self.worst("gap"), self.worst("excess")
        return (
            f"{setting}: {len(self.trials)} trials, seed {self.seed}, "
            f"worst error {error.error:.1e} (trial {error.number}: {error.case}), "
            f"worst gap {gap.gap:.1e} (trial {gap.number}: {gap.case}), "
            f"worst excess {excess.excess:.1e} (trial {excess.number}: {excess.case}): {'ok' if self.ok else 'FAILED'}"
        )


def check_rule(
    rule: Rule,
    *,
    metric: Metric | None = None,
    inertia: float = 0.0,
    weight_decay: float = 0.0,
    decay: str | None = None,
    trials: int = 200,
    seed: int = 0,
    progress: Callable[[], Any] | None = None,
    closed_form: Callable[[Model], Any] | None = None,
    gives: str = "weights",
) -> Report:
    """Compare a rule's steps, or those of a formula for them, with the convex solver's.

    Args:
        rule: any rule; metric: default `Euclidean()`.
        inertia, weight_decay, decay: as for `Optimizer`. Proximal and coupled decay are compared in the new iterate,
            decoupled decay in the iterate that the solver's direction D leads to. Default of decay: "proximal", in a
            norm "decoupled".
        trials: >= 1, two thirds of them random, the others degenerate, see `sample_state`.
        seed: >= 0; trial i depends on (seed, i) alone.
        progress: called after each trial.
        closed_form: a formula of your own for the answer to the model of one step, `proxmom.numpy.optimizer.Model`:
            its answer is compared in the place of our solver's, in metrics.
        gives: what the formula returns: "weights" of the planes, (K,), >= 0 with the sum 1, which need not be unique
            and are judged by the move that they stand for; or "step", the move z, (n,), as `Model` has it.

    Returns:
        a `Report`; print it, or ask `.ok`. Where a step fails, it says whether the metric does, which must be linear,
        symmetric and positive definite, or in a norm homogeneous, convex and reached by its directions, or the rule. A
        rule that looks at the loss must refuse inertia and coupled decay, beta_max = 1 the metric of Adam, a metric
        without a diagonal inertia, and a norm proximal decay and rules that ask for inner products: where one is given,
        that is checked instead.

    Raises:
        ValueError, TypeError: for invalid arguments, for a rule that takes one model of planes but not several side by
            side, as with one beta for each tensor, for a norm without an `expression` or with inexact directions, and
            for a formula in a norm, or one that returns another shape.
    """
    if trials < 1:
        raise ValueError(f"trials must be >= 1, got {trials}.")
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}.")
    metric = Euclidean() if metric is None else metric
    in_norm = kind_of(metric) == "norm"
    decay = decay or ("decoupled" if in_norm else "proximal")
    describe = (text_of(rule), text_of(metric), inertia, weight_decay, decay, seed)
    formula = None if closed_form is None else ClosedForm(closed_form, gives)
    if in_norm:
        norms.check_verifiable(metric)
        if formula is not None:
            raise ValueError(f"closed_form goes with a metric, got the norm {text_of(metric)}. Leave one of them out.")
    shapes, cases = surroundings(metric)

    def optimizer(x: Vector) -> Optimizer:
        return Optimizer(
            split(x, shapes), rule, lr=1.0, metric=metric, inertia=inertia, weight_decay=weight_decay, decay=decay
        )

    if _must_refuse(rule, metric, inertia, decay):
        try:
            optimizer(np.zeros(SIZE))
        except ValueError as error:
            return Report(*describe, trials=(), refused=str(error))
        raise AssertionError(f"{rule}, {metric}, inertia {inertia:g}, {decay} decay: must be refused, and was not.")
    check_several(rule)
    facts, done = Facts.of(rule), []
    bound = bound_of(rule) if facts.needs_loss else None
    for number in range(trials):
        state = draw(optimizer, cases, number, seed, bound, facts.observed)
        model = state.model()
        judged = norms.compare(number, state.case, model) if in_norm else _compare(state, model, formula)
        done.append(judged)
        if progress is not None:
            progress()
    return Report(*describe, trials=tuple(done), closed_form=None if formula is None else str(formula))


def _must_refuse(rule: Rule, metric: Metric, inertia: float, decay: str) -> bool:
    facts, kind = Facts.of(rule), kind_of(metric)
    looks = facts.needs_loss and (inertia > 0 or decay == "coupled")
    stuck = facts.beta_max == 1 and not getattr(metric, "memory_from_gradient", False)
    flat = kind == "norm" and (decay == "proximal" or norms.asks_products(rule))
    return looks or stuck or flat or (inertia > 0 and kind != "diagonal")


def text_of(thing: object) -> str:
    """As one would write it; only its class where it does not say, so that no address in memory is shown."""
    kind = type(thing)
    silent = kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
    return kind.__name__ if silent else str(thing)


def _compare(state: State, model: Model, formula: ClosedForm | None) -> Trial:
    number, case = state.number, state.case
    quadratic = np.asarray(model.quadratic)
    scale = max(np.abs(model.heights).max(), np.abs(quadratic).max()) or 1.0
    weights, ours = model.weights, _move(model, state.optimizer.decay)
    if formula is not None:
        given = formula.answer(model)
        if fault := formula.fault(given):
            return Trial(number, f"{case}: {fault}", np.inf, np.inf, np.inf)
        weights, ours = (given, move_of(model, given)) if formula.gives == "weights" else (weights, given)
    gap = float(certify(model.linear, quadratic, weights).gap)
    if fault := metric_fault(model):
        return Trial(number, f"{case}: the metric is {fault}", np.inf, gap / scale, np.inf)
    try:
        move = solve_step(model)
    except RuntimeError:  # counts as a failure, and leaves the other trials standing
        return Trial(number, f"{case}: the convex solver failed", np.inf, gap / scale, np.inf)
    best = objective(model, move)
    excess = max(objective(model, ours) - best, 0.0) / max(scale, abs(best))
    return Trial(number, case, _error(model, ours, move), gap / scale, excess)


def _move(model: Model, decay: str) -> Vector:
    """Our move z; of decoupled decay the one that our direction amounts to in the problem."""
    if decay != "decoupled":
        return model.next_x - model.x
    eta, mu = model.lr, model.weight_decay
    image = ((1 - eta * mu) * model.x - model.next_x) / eta  # of the direction
    return -eta / (1 + eta * mu) * (image + mu * model.x)


def _error(model: Model, ours: Vector, move: Vector) -> float:
    """How far our move is from the solver's, relative to it or to the planes' own steps, beyond the rounding of x.

    Where P is no diagonal, in coordinates w, z = L w, in which it is the identity: there the solver works, and L would
    spread what error it leaves over coordinates in which the move itself may be small.
    """
    away, rounding = ours - move, ROUNDING * np.abs(model.x)  # x + z - x has lost of a tiny z what x could not hold
    if model.diagonal is not None:
        steps = model.slopes / model.diagonal
    else:
        root = root_of(model)
        back = solve_triangular(root, np.eye(len(root)), lower=True)
        away, move, rounding, steps = back @ away, back @ move, np.abs(back) @ rounding, model.slopes @ root
    kappa = model.lr / (1 + model.lr * model.weight_decay)
    size = max(np.abs(move).max(), kappa * np.abs(steps).max()) or 1.0
    return float(np.maximum(np.abs(away) - rounding, 0.0).max() / size)


def metric_fault(model: Model) -> str | None:
    """What P⁻¹ of a model is not: linear, symmetric, positive definite; None if it is all that."""
    inverse = model.inverse
    if not np.isfinite(inverse).all():
        return "not finite"
    largest = np.abs(inverse).max()
    probe = np.cos(np.arange(model.x.size))  # any vector that is not one of the units
    wrong = np.abs(model.image(probe) - inverse @ probe).max() / largest
    if wrong > ASYMMETRY:
        return f"not linear (P⁻¹ of a sum and the sum of P⁻¹ differ by {wrong:.1e}, relative)"
    askew = np.abs(inverse - inverse.T).max() / largest
    if askew > ASYMMETRY:
        return f"not symmetric (P⁻¹ and its transpose differ by {askew:.1e}, relative)"
    least = np.linalg.eigvalsh((inverse + inverse.T) / 2)[0]
    return None if least > 0 else f"not positive definite (P⁻¹ has the eigenvalue {least:.1e})"
