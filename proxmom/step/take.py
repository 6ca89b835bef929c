"""`Step`: from what a backend measured to what it must do.

The order of things: look, ask the step size, solve, write down the scalars for the next step.
"""

from __future__ import annotations

from dataclasses import replace

from proxmom.now import Now
from proxmom.planes import Array, Scalar, Vector, namespace
from proxmom.step.exchange import MEMORY, Outcome, Products, Scalars, Scope
from proxmom.step.finish import as_measured, blending, moved_on
from proxmom.step.method import Method
from proxmom.step.model import Given, Solution, look, mass_of, solution
from proxmom.stepsize import StepSize


class Step(Method):
    """A `Method`, made as one, that a backend asks for the factor of the metric and for what to do."""

    def factor(self, scalars: Scalars) -> Scalar:
        """The factor that the metric carries for the mass of memory, (T,), or the number 1."""
        return 1 - self.facts.beta_max * scalars.missing if self.bounded else 1.0

    def take(
        self,
        products: Products,
        scalars: Scalars,
        scope: Scope,
        *,
        lr: Array,
        weight_decay: Array,
        loss: Array | None,
    ) -> Outcome:
        """One step.

        Args:
            products: inner products, of finite gradients.
            scalars: what the last step left.
            scope: which tensors share a model.
            lr, weight_decay: of each tensor, (T,); weight_decay is 0 where decay is coupled (the gradient then has it).
            loss: f(x), (S,), finite, or None.
        """
        given = Given(products, scalars, scope, lr, weight_decay, loss)
        now = look(self, given)
        if self.step_size is None:
            return self._outcome(given, now, solution(self, given, now))
        if self.habits.finish is None:
            return self._sized(given, now, self.step_size)
        reach, again = self.habits.finish(now)
        blend = blending(self, scope.spread(reach), now)
        finished = moved_on(self, given, now, scope.spread(reach), blend)
        out = self._sized(finished, look(self, finished, now.scalars), self.step_size)
        return as_measured(self, given, finished, now, out, scope.spread(reach), again, blending(self, reach, now))

    def _sized(self, given: Given, now: Now, step_size: StepSize) -> Outcome:
        """The step at the length that the step size says."""
        scope, lr = given.scope, given.lr
        factor = step_size.factor(now) + 0 * now.step
        given = given._replace(lr=lr * scope.spread(factor))
        solved = solution(self, given, now)
        if self.habits.along is not None:
            factor = self.habits.along(now, Vector(solved.direction))
            given = given._replace(lr=lr * scope.spread(factor))
        return self._outcome(given, now, solved)

    def _outcome(self, given: Given, now: Now, solved: Solution) -> Outcome:
        direction, kept, stays, weights, heights, slopes, linear, quadratic = solved
        left = self._leave(given, now, direction, kept, stays)
        beta = direction[..., MEMORY]
        return Outcome(direction, kept, beta, weights, heights, slopes, linear, quadratic, left, given.lr)

    def _leave(self, given: Given, now: Now, direction: Array, kept: Array, stays: Array) -> Scalars:
        """The scalars for the next step."""
        products, scalars, scope, lr, weight_decay, _ = given
        xp = namespace(direction)
        share, mass = direction[..., MEMORY], mass_of(scalars, scope)
        beta = share / (share + mass * (1 - share) + (mass == 0)) if self.facts.normalised else share
        beta = xp.where(stays, 1.0, xp.where(mass > 0, beta, self.facts.beta_max))
        left = Scalars(scalars.step + 1, lr, scope.spread(kept), missing=scalars.missing * scope.spread(beta))
        if self.scalars:
            left = replace(left, own=dict(now.scalars))
        if not self.facts.needs_loss:
            return left
        scale = lr / (1 + lr * weight_decay) if self.decay == "proximal" else lr
        slope = direction[..., None]
        image = scope.total(scale[:, None, None] * products.dual) @ slope * kept[..., None, None]
        if products.decay is not None:
            image = image + scope.total((scale * weight_decay)[:, None] * products.decay)[..., None]
        change = xp.sum(slope * image, axis=(-2, -1))
        return replace(left, loss=now.loss, memory_height=share * now.memory_height - change)
