"""What a notebook shows, and Matplotlib under settings inherited from one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from proxmom import Adam, AdaptiveMemory, HeavyBall
from proxmom.notebook import Text, cell_output, html_of, import_matplotlib, shown
from proxmom.numpy import Optimizer, minimize
from proxmom.verify import check_rule


def html(thing: Any) -> str:
    return str(thing._repr_html_())


def test_a_text_shows_as_it_reads() -> None:
    text = Text("a < b\n  c")
    assert repr(text) == text == "a < b\n  c"
    assert html(text) == html_of(text) == "<pre>a &lt; b\n  c</pre>"


def test_an_optimizer_says_what_it_is() -> None:
    optimizer = Optimizer(np.zeros((2, 3)), HeavyBall(0.5), lr=0.25, metric=Adam(), inertia=0.1, weight_decay=0.01)
    optimizer.step(np.ones((2, 3)))
    text = repr(optimizer)
    assert text.startswith("Optimizer(rule=HeavyBall(beta=0.5), lr=0.25, metric=Adam(")
    assert "inertia=0.1, weight_decay=0.01, decay='" in text
    assert text.endswith("shape (2, 3), 1 steps")
    assert html(optimizer) == html_of(text)
    assert "weight_decay" not in repr(Optimizer([np.zeros(2), np.zeros(3)], AdaptiveMemory(), lr=1.0))


def test_a_result_shows_its_history_by_shapes() -> None:
    found = minimize(lambda x: (float(x @ x), 2 * x), np.ones(3), HeavyBall(0.5), lr=0.1, max_iter=50)
    text = repr(found)
    assert "fun (" in text
    assert len(text.splitlines()) < 30
    assert "success" in text
    assert html(found) == html_of(text)
    assert found.history["fun"].shape == (found.nfev,)


def test_a_check_shows_its_sentence() -> None:
    report = check_rule(HeavyBall(), trials=1)
    assert html(report) == html_of(str(report))


def test_a_torch_optimizer_shows_what_it_prints() -> None:
    torch = pytest.importorskip("torch")
    from proxmom.torch import AMSGD

    optimizer = AMSGD([torch.zeros(2, requires_grad=True)], lr=0.1)
    assert html(optimizer) == html_of(repr(optimizer))


def test_a_figure_shows_itself() -> None:
    pytest.importorskip("matplotlib")
    from proxmom.draw import draw_model

    assert draw_model(HeavyBall())._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert shown(plain := SimpleNamespace()) is plain


def test_a_text_below_a_cell_is_replaced(cell: list[str]) -> None:
    show = cell_output()
    assert show is not None
    show("1 of 2")
    show("2 of 2")
    assert cell == [html_of(""), html_of("1 of 2"), html_of("2 of 2")]


def test_outside_of_a_notebook_there_is_no_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert cell_output() is None
    for running in (None, SimpleNamespace()):  # imported in a script, and in a terminal
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda running=running: running))
        assert cell_output() is None


@pytest.mark.parametrize("backend", ["nonsense", "module://matplotlib_inline.backend_inline", "Agg"])
def test_an_inherited_backend_does_no_harm(backend: str) -> None:
    pytest.importorskip("matplotlib")
    code = (
        "import os, proxmom.draw as draw, proxmom; draw.draw_model(proxmom.HeavyBall()).draw_without_rendering(); "
        "import proxmom.study.report.pictures; print(os.environ['MPLBACKEND'])"
    )
    environment = {**os.environ, "MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == backend
    report = "import proxmom.study.report.pictures"
    assert subprocess.run([sys.executable, "-c", report], env=environment, check=False).returncode == 0


def test_a_command_draws_under_an_inherited_backend(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    environment = {**os.environ, "MPLBACKEND": "module://no_such_package.backend"}
    command = [sys.executable, "-m", "proxmom", "draw", "HeavyBall", "--on", "model", "--out", str(tmp_path / "a.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_any_other_error_of_matplotlib_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)

    def broken(name: str) -> None:
        raise ValueError("matplotlibrc is broken")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ValueError, match="matplotlibrc is broken"):
        import_matplotlib()
