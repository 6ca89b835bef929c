"""`Descent`: one run of `minimize` over rows. Vectors stay on the device; the host reads numbers once an evaluation.

What is decided stands in `proxmom.guard`, over floats for one problem and arrays (N,) for N: here it is carried out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxmom.guard.criteria import SHORT, Criteria
from proxmom.guard.curved import CurvedJudge, cut
from proxmom.guard.judge import GOES_ON
from proxmom.guard.numbers import Number, Truth, divide, finite, largest, least, no, some, where
from proxmom.guard.start import BOLD, ROOM
from proxmom.metrics import QuasiNewton
from proxmom.numpy.arrays import SAFE
from proxmom.torch.full_batch.objective import Objective
from proxmom.torch.full_batch.pairs import Pairs
from proxmom.torch.full_batch.rows import Rows, choose, dot, each, highest, moved, nudged, shaped_numbers
from proxmom.torch.full_batch.steps import Scale, Spot, Step, exponent, root_of

SMALL_ROOM = 100  # as ROOM, where parameters are in float32
STEP, TURNS, NOISE = 0, 1, 2  # what an evaluation is for: a step, a look past a success, the rounding of f
EIGHT = 8  # eps: a relative change of f or x that says nothing
SAMPLES = 3  # of that, since f last fell by more
SAFETY = 4  # times the change of f that a move by one rounding of x made: what rounding may make of f

KEPT_APART = ("objective", "criteria", "judge", "pairs", "max_iter", "count", "_on_host")


class Descent:
    """From x0 on, evaluation by evaluation: `start`, then `propose` and `learn` while `going`.

    Attributes, each a number, a truth or (N,) of them:
        status: `GOES_ON`, or how the run ended. tried: evaluations but the first. kept: steps. mode: what the next
        evaluation is for. lr: of the next step. fresh: whether its direction is still to be found.
        shake: what rounding makes of f, where it was measured since f last fell by more; measured: how often.
    """

    def __init__(self, objective: Objective, metric: QuasiNewton, criteria: Criteria, max_iter: int) -> None:
        self.objective, self.criteria, self.max_iter = objective, criteria, max_iter
        count = self.count = objective.count
        self.x0 = self.x = self.best_x = objective.rows()
        self.judge, self.pairs = CurvedJudge(count), Pairs(metric, self.x0, count)
        self._on_host = count is None and objective.device.type == "cpu"  # there reading costs nothing
        self._cut: Tensor | None = None
        self._reach: Number = 0.0

        def start(value: Any) -> Any:
            return value if count is None else np.full(count, value)

        self.status, self.tried, self.kept, self.mode = start(GOES_ON), start(0), start(0), start(STEP)
        self.undone_elsewhere = start(0)
        self.lr, self.shake, self.fresh, self.measured = start(1.0), start(0.0), start(True), start(0)
        self.moved, self.stepped, self.calls, self.first_size = start(False), True, 0, 0.0

    # --- numbers -----------------------------------------------------------------------------------------------------

    def _read(self, rows: list[Tensor]) -> list[Any]:
        """The one time that the host waits for the device: numbers as floats, or arrays (N,)."""
        table = torch.stack([row.expand(self.count or 1) for row in rows]).cpu()
        return table[:, 0].tolist() if self.count is None else list(table.numpy())

    @property
    def grain(self) -> float:
        """Relative rounding of f, as its type says."""
        return EIGHT * float(self.objective.grain or 0.0)

    @property
    def _shortest(self) -> float:
        """Of a move, relative to x: below it is rounding."""
        return EIGHT * self.objective.coarsest

    def _half(self, step: Step) -> Number:
        """Half the digits of f: more is not taken for rounding, whatever was measured."""
        return float(self.objective.grain or 0.0) ** 0.5 * largest(abs(step.old.f), abs(step.new.f))

    @property
    def going(self) -> Truth:
        """Which problems are not at their end."""
        return (self.status == GOES_ON) & ((self.tried < self.max_iter) | (self.mode == TURNS))

    # --- the first evaluation ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Evaluates f at x0, and chooses the power of two by which it is scaled and how long the first step is."""
        f, g = self.objective(self.x0)
        top = highest(g)
        safe = torch.where((top > 0) & top.isfinite(), top, 1.0)
        unit = [part / safe[:, None].to(part.dtype) for part in g]
        told, high, length, xx = self._read([f, safe, dot(unit, unit).sqrt(), dot(self.x0, self.x0)])
        size, here = length * high, root_of(xx)
        room = ROOM if self.objective.precise else SMALL_ROOM
        with np.errstate(all="ignore"):
            self.scale = Scale(np.clip(np.minimum(-exponent(size), room - exponent(told)), -room, room))
            scaled = self.scale.up
            self.here = self.best = self.last = Spot(scaled(told), told, scaled(size), here)
            self.g = self.d = self.best_g = self.scale.rows(g)
            self.judge.begin(self.here)
            self.criteria.sizes = [size]
            self._end_at_once(high)
            lr = divide(BOLD * where(here > 0, here, 1.0), self.here.size)
        self.first_size, self.calls = self.here.size, 1
        self.judge.along = self.lr = where((lr > 0) & (lr < np.inf), lr, 1.0)

    def _end_at_once(self, component: Number) -> None:
        """Where x0 is a minimum, or f is not finite there."""
        zero = self.away = 0.0 * self.here.here
        step = self._step(self.here, [zero] * 6, component)
        step.shows = step.length > 0
        met = self.criteria.met(step, self.here.here, lambda: zero, lambda: component)
        self.status = where(self.here.finite, where(met, 0, self.status), 2)

    # --- the next point ----------------------------------------------------------------------------------------------

    def propose(self) -> Rows:
        """The x to look at next."""
        stepping = self.mode == STEP
        fresh = stepping & self.fresh & self.going
        if some(fresh):
            self.d = choose(fresh, self.pairs.image(self.g, fresh), self.d)
        lr = self._choose_length(fresh)
        there = moved(self.x, self.d, lr)
        if some(self.mode == TURNS):
            there = choose(self.mode == TURNS, moved(self.x, self.g, self._device(self._ahead())), there)
        if some(self.mode == NOISE):
            there = choose(self.mode == NOISE, nudged(self.x, self.calls), there)
        self.there = choose(self.going, there, self.x)
        return self.there

    def _ahead(self) -> Number:
        """The lr of a step along the gradient as long as the last one of a success may be."""
        return SHORT * largest(self.here.here, self.away) / where(self.here.size > 0, self.here.size, 1.0)

    def _device(self, value: Number) -> Any:
        return value if self.count is None else shaped_numbers([value], self.count, self.objective.device)[0]

    def _choose_length(self, fresh: Truth) -> Any:
        """The lr, and where steps are nearly level the gradient as their direction: a float, or a tensor (N,)."""
        if self._on_host and not fresh:
            return self.lr
        judge, free = self.judge, fresh & self.moved & (self.judge.tries == 0)
        known: Any = (self.here.size, self.lr, judge.longest, judge.level, judge.ratio, fresh & self.pairs.curved, free)
        reach: Any = dot(self.d, self.d).sqrt()
        slope: Any = dot(self.d, self.g)
        if self._on_host:
            reach, slope = reach.item(), slope.item()
        else:
            known = shaped_numbers(known, self.count, self.objective.device)
            known[-2:] = known[-2] > 0, known[-1] > 0
        size, lr, longest, level, ratio, curved, free = known
        bounds = {"longest": longest, "level": level, "ratio": ratio}
        found = cut(lr * reach, -lr * slope, size, lr, curved=curved, free=free, **bounds)
        self.d, self._reach = choose(found.forget, self.g, self.d), reach
        if self._on_host:
            self._take_cut(found.forget, found.lr, fresh)
        else:
            self._cut = torch.stack([found.forget.double(), found.lr, reach])
        return found.lr

    def _take_cut(self, forget: Truth, lr: Number, fresh: Truth) -> None:
        self.lr = where(fresh, lr, self.lr)
        self.judge.along = where(forget & fresh, lr, self.judge.along)
        self.pairs.forget(forget & fresh)

    # --- what was seen there -----------------------------------------------------------------------------------------

    def learn(self, f: Tensor, g: Rows) -> None:
        """Judges the evaluation at what was proposed, and says what is to be done next."""
        g = self.scale.rows(g)
        move, turn = each(torch.sub, self.there, self.x), each(torch.sub, g, self.g)
        away = each(torch.sub, self.there, self.x0)
        products = [(move, move), (turn, turn), (away, away), (move, self.g), (move, g), (move, turn), (g, g)]
        asked = [f, *(dot(one, other) for one, other in products), dot(self.there, self.there), highest(g)]
        asked += [] if self._cut is None else list(self._cut)
        with np.errstate(all="ignore"):
            told, *numbers = self._read(asked)
            if self._cut is not None:
                forget, lr, self._reach = numbers[-3:]
                self._take_cut(forget > 0, lr, (self.mode == STEP) & self.fresh)
            squares, (gg, xx, high) = numbers[:6], numbers[6:9]
            size = where(gg > SAFE[0], root_of(gg), high)  # a square that underflows must not look like a minimum
            new = Spot(self.scale.up(told), told, size, root_of(xx))
            step = self._step(new, squares, self.scale.down(high))
            seen = 1 if self.count is not None else len(self.criteria.sizes)  # of many problems, the first and the last
            self.criteria.sizes[seen:] = [self.scale.down(size)]
            self.last, self.calls = new, self.calls + 1
            forecast = -self.lr * squares[3]  # <s, Ps>, as s is -lr·P⁻¹g
            self._judge(step, (move, turn), (squares[0], squares[5], squares[1], forecast), g)

    def _step(self, new: Spot, squares: list[Any], component: Number) -> Step:
        length, turn, away = (root_of(square) for square in squares[:3])
        before, after, bend = squares[3:]
        shows = length > self._shortest * new.here
        step = Step(self.here, new, length, turn, before, after, bend, away, component, shows, self.grain, self.shake)
        step.shake = least(self.shake, self._half(step))
        return step

    def _judge(self, step: Step, pair: tuple[Rows, Rows], products: tuple[Any, ...], g: Rows) -> None:
        going, mode = self.going, self.mode
        sound = finite(self._reach)
        asked, turns, noise = going & (mode == STEP) & sound, going & (mode == TURNS), going & (mode == NOISE)
        kept, lr, along, improved = self._decided(step, asked)
        failed = asked & no(kept)
        onward = turns & step.new.finite & (step.after < 0)  # f falls further: no success yet
        self.status = where(going & (mode == STEP) & no(sound), 2, where(turns & no(onward), 0, self.status))
        self._look_at_rounding(step, failed, noise)
        self.lr = where(kept, 1.0, where(failed, lr, where(onward, self._ahead(), self.lr)))
        self.judge.along = where(onward, self.lr, self.judge.along)
        self.undone_elsewhere = self.undone_elsewhere + turns
        self.pairs.forget((failed & along) | onward)
        self.mode = where(noise | onward, STEP, self.mode)
        self._take(step, kept, improved, g)
        if some(kept):
            self.pairs.see(*pair, products, kept)
        self.d = choose(failed & along, self.g, self.d)
        self.fresh = kept | onward | (self.fresh & no(failed | noise))
        self.stepped = some(kept)
        self._end(step, kept, asked | onward)
        self.moved = self.moved | asked
        self.tried = where(going, self.tried + 1, self.tried)

    def _decided(self, step: Step, asked: Truth) -> tuple[Truth, Number, Truth, Truth]:
        """Of steps: whether they stand, the lr of the next try, whether along the gradient, whether x is the best."""
        judge, before = self.judge, self.judge.state()
        kept = judge.lowers(step) & asked
        lr, along = judge.retry(step, self.lr)
        judge.mark(step, kept)
        judge.along = where(asked & no(kept) & along, lr, judge.along)
        judge.settle(step.new.finite, kept)
        improved = judge.improved & asked
        judge.restore(before, no(asked))
        return kept, lr, along, improved

    def _look_at_rounding(self, step: Step, failed: Truth, noise: Truth) -> None:
        """Takes in what was measured, and asks for it where a step failed by so little that it may be rounding."""
        change, half = abs(step.new.f - step.old.f), self._half(step)
        told = where(finite(change), SAFETY * change, 0.0)
        self.shake = where(noise, where(self.measured > 0, largest(self.shake, told), told), self.shake)
        self.measured = where(noise, self.measured + 1, self.measured)
        small = (change <= half) & (abs(step.before) <= half) & (self.measured < SAMPLES)
        self.mode = where(failed & step.new.finite & small, NOISE, self.mode)

    def _take(self, step: Step, kept: Truth, improved: Truth, g: Rows) -> None:
        """What was proposed becomes x, and the best so far, where it is."""
        clear = kept & no(step.rounds)
        self.measured = where(clear, 0, self.measured)
        self.kept = where(kept, self.kept + 1, self.kept)
        self.x, self.g = choose(kept, self.there, self.x), choose(kept, g, self.g)
        self.here = step.new.where(kept, self.here)
        self.away = where(kept, step.away, self.away)
        self.best_x, self.best_g = choose(improved, self.there, self.best_x), choose(improved, g, self.best_g)
        self.best = step.new.where(improved, self.best)

    def _end(self, step: Step, kept: Truth, asked: Truth) -> None:
        """Which problems are at their end, or need a look past a success first."""
        blind: Truth = no(kept | no(kept))
        if some(kept):
            short = step.length <= self._shortest * step.new.here
            step.shows = step.shows & kept
            met = kept & self.criteria.met(step, step.new.here, lambda: step.away, lambda: step.component)
            blind = met & short & (step.new.size > 0) if self.criteria.gmax is None else met & no(met)
            self.status = where(met & no(blind), 0, self.status)
            self.mode = where(blind, TURNS, self.mode)
        self.status = where(asked & no(blind) & (self.status == GOES_ON), self.judge.ends(), self.status)

    # --- to go on later ----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that it knows, between `propose` and `learn`."""
        own = {name: value for name, value in vars(self).items() if name not in KEPT_APART}
        criteria, pairs = self.criteria, self.pairs
        return {
            **own,
            "judge": self.judge.state(),
            "criteria": (criteria.sizes, criteria.flatness),
            "pairs": (pairs.moves, pairs.turns, pairs.seen, pairs.identity),
            "grain": self.objective.grain,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        own = dict(state)
        self.judge.restore(own.pop("judge"))
        self.criteria.sizes, self.criteria.flatness = own.pop("criteria")
        pairs = self.pairs
        pairs.moves, pairs.turns, pairs.seen, pairs.identity = own.pop("pairs")
        self.objective.grain = own.pop("grain")
        vars(self).update(own)

    @property
    def undone(self) -> Number:
        """Evaluations that led to no step."""
        return self.judge.undone + self.undone_elsewhere
