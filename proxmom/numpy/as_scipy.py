"""`scipy_method`: `minimize` as a method of `scipy.optimize.minimize`, with SciPy's options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult

from proxmom.guard.start import MAX_ITER, reporter
from proxmom.numpy.minimize import minimize
from proxmom.rules import Rule

GTOL = 1e-5  # SciPy's default
SETTINGS = [name for name, p in inspect.signature(minimize).parameters.items() if p.kind is p.KEYWORD_ONLY]
OPTIONS = sorted({"disp", "maxfun", "maxiter", "return_all", "tol", *SETTINGS} - {"callback"})


@dataclass(frozen=True)
class ScipyMethod:
    """What `scipy_method` returns: it can be pickled, as far as rule and settings can."""

    rule: Rule | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self,
        fun: Callable[..., Any],
        x0: ArrayLike,
        args: tuple[Any, ...] = (),
        *,
        jac: Any = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[..., Any] | None = None,
        **options: Any,
    ) -> OptimizeResult:
        """As SciPy calls it; hess and hessp are not used."""
        if not callable(jac):
            raise ValueError(f"jac must be a function or True, got {jac!r}: these rules need the gradient.")
        for name, value in (("bounds", bounds), ("constraints", constraints)):
            if not (value is None or (hasattr(value, "__len__") and len(value) == 0)):
                raise ValueError(f"{name} are not supported by proxmom; leave them out.")
        for name in options:
            if name not in OPTIONS:
                raise ValueError(f"options must be among {', '.join(OPTIONS)}, got {name!r}; leave it out.")
        disp, return_all = options.pop("disp", False), options.pop("return_all", False)
        report, points = reporter(callback), []

        def record(intermediate_result: OptimizeResult) -> None:
            points.append(intermediate_result.x.copy())
            if report is not None:
                report(intermediate_result)

        result = minimize(
            lambda x: (fun(x.copy(), *args), jac(x, *args)),
            x0,
            self.rule,
            callback=record,
            **self._with(options),
        )
        if return_all:
            result.allvecs = points if points and np.array_equal(points[-1], result.x) else [*points, result.x.copy()]
        if disp:
            print(f"{result.message}\n    f {result.fun:.6g}, {result.nit} steps, {result.nfev} evaluations")
        return result

    def _with(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, and over them SciPy's options in our words; None leaves a setting as it is."""
        given = {name: value for name, value in options.items() if value is not None}
        given.setdefault("gtol", given.pop("tol", None))
        given["gmax"] = given.pop("gtol")
        given["max_iter"] = given.pop("maxiter", given.get("max_iter"))
        given = {name: value for name, value in given.items() if value is not None}
        most = given.pop("maxfun", np.inf)
        if not most >= 1:
            raise ValueError(f"maxfun must be >= 1, got {most}.")
        settings = {"max_iter": MAX_ITER, **self.settings, **given}
        return {**settings, "max_iter": min(settings["max_iter"], most - 1)}  # x0 is evaluated too


def scipy_method(rule: Rule | None = None, *, lr: float | None = None, **settings: Any) -> ScipyMethod:
    """A `method` for `scipy.optimize.minimize(fun, x0, jac=..., method=scipy_method(rule, lr=...))`.

    gtol is SciPy's, the largest component of the gradient, absolute, 1e-5 unless `options` or `tol` say otherwise. Of
    the other `options` maxiter overrides max_iter, and maxfun is the largest number of evaluations; None means the
    default. disp prints how the run ended, return_all adds
    `allvecs` to the result: x0, and each x that was kept. The method raises ValueError without a gradient, for bounds
    or constraints, and for other options, by name.

    Args:
        rule, lr: as for `minimize`.
        **settings: further arguments of `minimize`; gtol stands for its gmax. Not callback, which is SciPy's.

    Raises:
        ValueError: for a callback.
    """
    if settings.get("callback") is not None:
        raise ValueError(
            f"callback must be left out of scipy_method, got {settings['callback']!r}: give it to "
            "scipy.optimize.minimize, which passes its own on."
        )
    gtol = settings.pop("gtol", None)
    return ScipyMethod(rule, {"lr": lr, "gmax": GTOL if gtol is None else gtol, **settings})
