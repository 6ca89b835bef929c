"""The model of planes in a metric as a small dual problem, and its solution; `in_norm` is the same for norms.

What the model says is said here alone: its heights, Q and c, and the slope of what is active. How long the step is and
what it leaves for the next one is said by `Step`.
"""

from __future__ import annotations

from typing import Any

from proxmom.now import Now
from proxmom.planes import Array, Plane, namespace
from proxmom.solve import weights as solve
from proxmom.step.method import Method
from proxmom.step.records import MEMORY, Inputs, Solution


def solution(method: Method, inputs: Inputs, lr: Array, now: Now) -> Solution:
    """The planes of the rule, their weights and the direction, at the lr (T,) of this step."""
    products, scope, weight_decay = inputs.products, inputs.scope, inputs.weight_decay
    kappa = lr / (1 + lr * weight_decay)
    heights, slopes, floors = stack(method, now)
    gram = scope.total(kappa[:, None, None] * products.metric)
    quadratic = slopes @ gram @ namespace(slopes).matrix_transpose(slopes)
    linear = heights
    for strength, row in ((method.inertia, products.pull), (weight_decay, products.decay)):
        if row is not None:
            linear = linear - (slopes @ scope.total((kappa * strength)[:, None] * row)[..., None])[..., 0]
    weights = solve(linear, quadratic, heights=heights, floors=floors)
    if method.mass_in_metric:
        weights = _first_step(weights, slopes, inputs.mass)
    direction, slope_weight, stays = _direction(weights, slopes, heights, linear, floors)
    return Solution(
        direction=direction,
        slope_weight=slope_weight,
        stays=stays,
        weights=weights,
        heights=heights,
        slopes=slopes,
        linear=linear,
        quadratic=quadratic,
    )


def stack(method: Method, now: Now) -> tuple[Array, Array, list[int]]:
    """Heights (S, K), slopes (S, K, B), and which planes are floors."""
    name = type(method.rule).__name__
    planes: Any = method.rule.planes(now)
    planes = list(planes) if isinstance(planes, (tuple, list)) else [planes]
    if not planes or not all(isinstance(plane, Plane) for plane in planes):
        raise TypeError(f"{name}.planes(now) must return a tuple of one to 16 Planes, got {planes!r}.")
    floors = [k for k, plane in enumerate(planes) if plane.is_floor]
    if len(floors) == len(planes):
        raise ValueError(f"{name}.planes(now) must return at least one plane with a slope, got only lower bounds.")
    if floors and not (method.facts.normalised and method.facts.needs_loss):
        raise ValueError(f"{name} has a floor, so the class must say normalised = True and needs_loss = True.")
    xp = namespace(now.step)
    row = 0 * now.step
    heights = xp.stack([row + plane.height for plane in planes], axis=1)
    slopes = xp.stack([row[:, None] + plane.slope.coefficients for plane in planes], axis=-2)
    return heights, slopes, floors


def _first_step(weights: Array, slopes: Array, mass: Array) -> Array:
    """While memory is empty (bounded mass) the plane that leans most on it counts: beta = beta_max, as in AdamW."""
    xp = namespace(weights)
    last = weights.shape[1] - 1 - xp.argmax(xp.flip(slopes[..., MEMORY], axis=1), axis=1)
    chosen = xp.arange(weights.shape[-1], device=weights.device) == last[:, None]
    # an empty memory moves nothing: the weights of its planes are told apart by beta_max alone
    return xp.where(mass[:, None] > 0, weights, xp.astype(chosen, weights.dtype))


def _direction(
    weights: Array, slopes: Array, heights: Array, linear: Array, floors: list[int]
) -> tuple[Array, Array, Array]:
    """The active model's slope over the planes that have one, (S, B), their weight, and whether all stays, (S,).

    Where the floor has all the weight, memory stays if f is at or below its bound. Above it only weight decay leads
    there, and then the plane next in line is what memory becomes: averaging goes on, as in the published MoMo.
    """
    xp = namespace(weights)
    blend = (weights[..., None, :] @ slopes)[..., 0, :]
    if not floors:
        return blend, 0 * weights[..., 0] + 1, weights[..., 0] < 0
    sloped = [k for k in range(weights.shape[-1]) if k not in floors]
    slope_weight = sum(weights[..., k] for k in sloped)
    rank = xp.stack([linear[..., k] for k in sloped], axis=-1)
    first = xp.astype(rank == xp.max(rank, axis=-1, keepdims=True), rank.dtype)
    first = first / xp.sum(first, axis=-1, keepdims=True)
    following = sum(first[..., i, None] * slopes[..., k, :] for i, k in enumerate(sloped))
    moves = slope_weight > 0
    # where the floors have all the weight, there is nothing to divide
    direction = xp.where(moves[..., None], blend / xp.where(moves, slope_weight, 1.0)[..., None], following)
    stays = ~moves & (xp.max(xp.stack([heights[..., k] for k in floors], axis=-1), axis=-1) >= 0)
    same = xp.zeros_like(blend)
    same[..., MEMORY] = 1.0
    # f is at or below its bound: nothing is left to gain
    return xp.where(stays[..., None], same, direction), slope_weight, stays
