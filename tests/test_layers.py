"""The house: what imports what, how light the package is, and that public names explain themselves."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import proxmom
import proxmom.kernels
import proxmom.numpy
import proxmom.testing
import proxmom.torch
from proxmom import active_set, certify, lookup, metrics, now, planes, reference, rules, solve, step, stepsize, verify

PACKAGE = Path(proxmom.__file__).parent
LAYERS = {
    "planes": 1,
    "active_set": 1,
    "solve": 1,
    "certify": 1,
    "now": 2,
    "rules": 2,
    "metrics": 2,
    "stepsize": 2,
    "memories": 2,
    "observed": 1,
    "secant": 2,
    "lookup": 2,
    "columns": 1,
    "notebook": 1,
    "step": 3,
    "tape": 3,
    "guard": 2,
    "kernels": 3,
    "numpy": 4,
    "torch": 4,
    "reference": 4,
    "verify": 5,
    "testing": 5,
    "study": 5,
    "draw": 5,
    "bench": 5,
    "cli": 6,
    "__main__": 6,
}
ROOMS = {"problems": 1, "record": 1, "methods": 2, "training": 3, "plan": 4, "report": 5, "run": 6}  # of proxmom.study
HEAVY = {
    "torch": {"torch", "testing", "bench", "study"},
    "cvxpy": {"reference"},
    "matplotlib": {"study", "draw"},
    "pandas": {"study"},
}


def _files() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.name != "__init__.py"]


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module in ("proxmom", "proxmom.study")  # what is imported from these are rooms
            names += [f"{node.module}.{alias.name}" for alias in node.names] if whole else [node.module]
    return names


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_own_and_lower_layers(path: Path) -> None:
    here = _room(path)
    for name in _imports(path):
        top, *rest = name.split(".")
        if top == "proxmom" and rest and rest[0] in LAYERS:
            assert LAYERS[rest[0]] <= LAYERS[here], name
        assert here in HEAVY.get(top, {here}), f"{here} imports {top}"


STUDY = PACKAGE / "study"


@pytest.mark.parametrize("path", sorted(STUDY.glob("*/*.py")), ids=lambda path: str(path.relative_to(STUDY)))
def test_a_room_of_the_study_imports_only_lower_rooms(path: Path) -> None:
    """Rooms of one level do not know each other, so that no circle is possible."""
    here = path.parent.name
    for name in _imports(path):
        if name.startswith("proxmom.study."):
            room = name.split(".")[2]
            assert room == here or ROOMS[room] < ROOMS[here], name


def test_every_room_of_the_study_has_a_level() -> None:
    assert {path.parent.name for path in STUDY.glob("*/*.py")} == set(ROOMS)
    assert [path.name for path in STUDY.glob("*.py")] == ["__init__.py"]


LAZY = sorted(p for p in STUDY.rglob("*.py") if p.parent.name != "training" and p.name != "torchrun.py")


@pytest.mark.parametrize("path", LAZY, ids=lambda path: str(path.relative_to(STUDY)))
def test_studies_without_networks_run_without_torch(path: Path) -> None:
    """Outside study/training torch, and what imports it, is imported within functions alone."""
    for node in ast.parse(path.read_text()).body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
        for name in names if isinstance(node, ast.Import | ast.ImportFrom) else []:
            assert not name.startswith(("torch", "proxmom.torch", "proxmom.study.training")), name


def test_import_is_light() -> None:
    code = """
import sys
import proxmom
heavy = {"torch", "cvxpy", "matplotlib", "pandas", "sklearn", "joblib", "scipy.optimize"} & set(sys.modules)
assert not heavy, heavy
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_backends_come_when_they_are_asked_for() -> None:
    assert proxmom.numpy.minimize is not None
    assert proxmom.verify.check_rule is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        proxmom.nothing  # noqa: B018


MODULES = [
    proxmom,
    active_set,
    certify,
    proxmom.kernels,
    lookup,
    metrics,
    now,
    planes,
    proxmom.numpy,
    proxmom.torch,
    reference,
    rules,
    solve,
    step,
    stepsize,
    proxmom.testing,
    verify,
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_public_names_have_docstrings(module: object) -> None:
    assert inspect.getdoc(module)
    for name, thing in vars(module).items():
        if name.startswith("_") or not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        if not thing.__module__.startswith("proxmom"):
            continue
        own = thing.__doc__
        assert own, f"{module.__name__}.{name}"
        assert not own.startswith(f"{name}("), f"{name}: only the docstring that a dataclass makes"
