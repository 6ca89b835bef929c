"""The package as others get it: wheel and source archive, in an environment with the core dependencies only.

Slow, and needs a package index: everything is built from a copy of the tree, so nothing here touches the working one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
OFFLINE = "No matching distribution|Could not find a version|NewConnectionError|ConnectTimeout"

TYPED = """
from proxmom import AdaptiveMemory, HeavyBall, Plane
from proxmom.numpy import Optimizer, minimize

rule: AdaptiveMemory = AdaptiveMemory(beta_max=0.9)
optimizer = Optimizer([0.0, 1.0], HeavyBall(), lr=0.1)
optimizer.lr = 0.2
step: float = optimizer.lr
"""
MISTAKES = """
from proxmom import AdaptiveMemory
from proxmom.numpy import Optimizer

AdaptiveMemory(beta_max="large")
Optimizer([0.0], AdaptiveMemory(), lr=None)
Optimizer([0.0], 3, lr=0.1)
"""


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(Path.home()), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=600
    )


def succeed(*words: object, cwd: Path | None = None) -> str:
    result = run(*words, cwd=cwd)
    assert result.returncode == 0, f"{words}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def environment(folder: Path, *packages: object) -> Path:
    """A new virtual environment with these packages; the path of its python. Skips where nothing can be fetched."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    result = run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    if re.search(OFFLINE, result.stderr) and result.returncode:
        pytest.skip("no package index")
    assert result.returncode == 0, result.stderr
    return python


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel, the source archive, and a wheel built from the source archive."""
    folder = tmp_path_factory.mktemp("archives")
    source = folder / "source"
    names = succeed("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    builder = environment(folder / "builder", "hatchling")
    succeed(builder, "-m", "hatchling", "build", "-d", folder / "dist", "-t", "sdist", "-t", "wheel", cwd=source)
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    pip = (builder, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    succeed(*pip, "-w", folder / "again", sdist, cwd=folder)
    (again,) = (folder / "again").glob("*.whl")
    return {"wheel": wheel, "sdist": sdist, "again": again}


@pytest.fixture(scope="module")
def python(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment with the wheel and what it asks for."""
    return environment(tmp_path_factory.mktemp("clean") / "venv", archives["wheel"])


def test_the_archives_hold_what_they_should(archives: dict[str, Path]) -> None:
    wheel = set(zipfile.ZipFile(archives["wheel"]).namelist())
    assert {
        "proxmom/py.typed",
        "proxmom/kernels/passes.cpp",
        "proxmom/kernels/signs.h",
        "proxmom/kernels/vectors.h",
        "proxmom/study/report/counts.html.jinja",
    } <= wheel
    assert all(name.startswith("proxmom") for name in wheel)
    assert any(name.endswith("LICENSE") for name in wheel)
    assert wheel == set(zipfile.ZipFile(archives["again"]).namelist())
    with tarfile.open(archives["sdist"]) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    assert {"hatch_build.py", "LICENSE", "README.md", "tests/conftest.py", "theory/claims.py"} <= source
    assert not [name for name in source if name.startswith((".ci", "results")) or name.endswith(".so")]


def test_kernels_come_with_the_wheel_where_there_is_a_compiler(python: Path) -> None:
    why_not = succeed(python, "-W", "error", "-c", "import proxmom.kernels; print(proxmom.kernels.why_not())").strip()
    assert not why_not or not (shutil.which("c++") or shutil.which("g++"))


def test_the_core_works_alone(python: Path, tmp_path: Path) -> None:
    installed = succeed(python, "-m", "pip", "list", "--disable-pip-version-check").lower()
    assert not {"torch", "matplotlib", "cvxpy", "scikit-learn", "pandas"} & set(installed.split())
    listed = succeed(python.parent / "proxmom", "rules", cwd=tmp_path)
    assert "AdaptiveMemory" in listed
    (example,) = re.findall(r"## Ten lines of NumPy\n+```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "fell below gtol" in succeed(python, "-c", example, cwd=tmp_path)


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("verify HeavyBall", "verify"),
        ("run experiments/convex/quick.toml", "study"),
        ("report .", "study"),
        ("draw HeavyBall", "study"),
        ("draw HeavyBall --on model", "study"),
        ("conformance AMSGD", "torch"),
    ],
)
def test_missing_extras_are_named(python: Path, command: str, extra: str) -> None:
    result = run(python.parent / "proxmom", *command.split(), cwd=ROOT)
    assert result.returncode == 1
    assert f"pip install 'proxmom[{extra}]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_bench_works_with_what_there_is(python: Path, tmp_path: Path) -> None:
    result = run(python.parent / "proxmom", "bench", "--only", "torch", cwd=tmp_path)
    assert result.returncode == 1
    assert "proxmom[torch]" in result.stderr
    assert "Traceback" not in result.stderr
    assert "NumPy" in succeed(python.parent / "proxmom", "bench", "--only", "numpy", "--rounds", "1", cwd=tmp_path)


def test_importing_torch_without_torch_says_what_to_install(python: Path) -> None:
    result = run(python, "-c", "import proxmom.torch")
    assert "proxmom.torch needs the torch extra: pip install 'proxmom[torch]'" in result.stderr


def test_types_are_seen_from_outside(python: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")

    def mypy(text: str) -> tuple[int, str]:
        (tmp_path / "user.py").write_text(text)
        words = ("-m", "mypy", "--strict", "--python-executable", python, "user.py")
        result = run(sys.executable, *words, cwd=tmp_path)
        return result.returncode, result.stdout

    assert mypy(TYPED)[0] == 0, mypy(TYPED)
    code, said = mypy(MISTAKES)
    assert code == 1
    assert said.count("error:") == 3, said
