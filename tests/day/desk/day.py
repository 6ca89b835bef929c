"""A researcher's day: every step does what the pages say, with the package as it was installed, and asserts what came.

`python day.py` in a folder with the files that lie beside this one; it writes what it makes there. Needs the extras
torch, study and verify, and nbclient, nbconvert, nbformat and ipykernel for the notebook.
"""

import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BIN = Path(sys.executable).parent
RUNS = 3 * (4 * 4 + 2)  # problems x (methods that search x points + methods that do not)


def proxmom(*words, fails=False, **environment):
    """What the command prints."""
    given = {**os.environ, **environment}
    done = subprocess.run([BIN / "proxmom", *map(str, words)], capture_output=True, text=True, env=given)
    assert (done.returncode != 0) == fails, f"proxmom {words}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def data_of_ones_own():
    """A table with a header, whose last column is the target."""
    random = np.random.default_rng(0)
    a = random.standard_normal((120, 8)) @ np.diag(np.logspace(0, -1, 8))
    price = a @ [2, -1, 0, 0, 3, 0, 0, 5] + 0.3 * random.standard_normal(120)
    header = "a,b,c,d,e,f,g,h,price"
    np.savetxt("houses.csv", np.column_stack([a, price]), delimiter=",", header=header, comments="")


def a_rule_is_judged():
    """The convex solver agrees with the steps of a rule with two memories, and with those in a metric of one's own."""
    said = proxmom("verify", "my_rules.py:TwoSpeeds", "--metric", "Euclidean", "--metric", "Adam", "--trials", 3)
    assert said.count(" ok\n") == 16, said
    said = proxmom("verify", "AdaptiveMemory", "--metric", "my_metrics.py:Scale", "--trials", 3)
    assert said.count(" ok\n") == 8, said


def a_rule_in_disguise_is_found():
    assert "the same to rounding" in proxmom("same", "my_rules.py:Descent", "HeavyBall(0.0)")
    assert "the steps differ by" in proxmom("same", "my_rules.py:TwoSpeeds", "AdaptiveMemory", fails=True)


def a_formula_is_judged():
    """The closed form for two planes is found right; one that forgets that weights are shares is caught."""
    from proxmom import AdaptiveMemory
    from proxmom.verify import check_rule

    def free(model):
        first, second = model.slopes
        change = second - first
        size = model.lr * change @ change
        gain = model.heights[1] - model.heights[0] - model.lr * first @ change
        return gain / size if size > 0 else float(gain >= 0)

    def right(model):
        return np.array([1 - (share := np.clip(free(model), 0, 1)), share])

    def wrong(model):
        return np.array([1 - free(model), free(model)])

    assert check_rule(AdaptiveMemory(), closed_form=right, trials=20).ok
    report = check_rule(AdaptiveMemory(), closed_form=wrong, trials=20)
    assert not report.ok
    assert "weights must be >= 0 with the sum 1" in str(report), report


def a_study_is_planned_and_run():
    """Own problem, data, rule and metric beside SciPy's and torch's methods; run once, then finished."""
    assert f"own: {RUNS} runs on 3 problems, {RUNS} to do" in proxmom("run", "--check", "own.toml")
    assert not Path("results").exists()
    said = proxmom("run", "own.toml", "--jobs", 2)
    for name in ("lasso, l1", "houses:price", "two speeds", "conjugate gradients", "Adam", "report: "):
        assert name in said, said
    assert f"own: {RUNS} runs on 3 problems, 0 to do" in proxmom("run", "--check", "own.toml")
    page = Path("results/own/report.html").read_text()
    assert "A slow memory beside a fast one saves evaluations" in page
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page)  # opens without a network


def rows_leave_for_ones_own_figures():
    proxmom("report", "results/own", "--csv", "runs.csv", "--curves", "curves.csv")
    runs, curves = (list(csv.DictReader(Path(name).read_text().splitlines())) for name in ("runs.csv", "curves.csv"))
    assert len(runs) == RUNS
    reached = {row["method"] for row in runs if row["status"] == "reached"}
    assert len(reached) == 6, reached
    gaps = [float(row["gap"]) for row in curves if row["method"] == "L-BFGS-B"]
    assert gaps
    assert min(gaps) <= 1e-4 < max(gaps)


def another_rule_is_put_beside_them():
    said = proxmom("run", "own.toml", "--jobs", 2, "--rule", "my_rules.py:Descent")
    assert "my_rules.py:Descent" in said
    assert f"{RUNS} runs on 3 problems, 0 to do" in proxmom("run", "--check", "own.toml")  # the others stay


def figures_leave_in_three_formats():
    for name, start in {"paths.pdf": b"%PDF", "paths.svg": b"<?xml", "paths.png": b"\x89PNG"}.items():
        proxmom("draw", "my_rules.py:TwoSpeeds", "HeavyBall", "--on", "himmelblau", "--start", 0, 5, "--out", name)
        assert Path(name).read_bytes().startswith(start), name
    assert re.search(r"<text[^>]*>[^<]*TwoSpeeds", Path("paths.svg").read_text())  # can be edited, and searched


def a_step_moves():
    for name, start in {"planes.gif": b"GIF8", "planes.html": b"<"}.items():
        proxmom("draw", "my_rules.py:TwoSpeeds", "--on", "model", "--animate", name)
        assert Path(name).read_bytes().lstrip().startswith(start), name
    page = Path("planes.html").read_text()
    assert 'type="range"' in page
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page)


def a_backend_of_elsewhere_does_no_harm():
    elsewhere = {"MPLBACKEND": "module://no_such_package.backend"}
    proxmom("draw", "HeavyBall", "--on", "model", "--out", "elsewhere.png", **elsewhere)
    proxmom("report", "results/own", **elsewhere)
    proxmom("run", "own.toml", **elsewhere)


def a_notebook_shows_results():
    """Objects show themselves, a study shows how far it is, and a command started in a cell works."""
    import nbformat
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    notebook = nbformat.v4.new_notebook(cells=list(cells(Path("evening.md").read_text())))
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    nbformat.write(notebook, "evening.ipynb")
    shown = {cell.source.splitlines()[-1]: kinds(cell) for cell in notebook.cells if cell.cell_type == "code"}
    pictures = [line for line, found in shown.items() if "image/png" in found]
    assert len(pictures) == 3, shown
    for line in ("result", "optimizer", "check_rule(TwoSpeeds(), trials=2)", "study", "study.table"):
        assert "text/html" in shown[line], (line, shown)
    assert not any("error" in found for found in shown.values())
    assert sum(f"{RUNS}/{RUNS}" in str(cell.get("outputs")) for cell in notebook.cells) == 1  # how far the study is
    assert all(Path(name).stat().st_size for name in ("lr.pdf", "from_cell.png", "from_notebook/report.html"))
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert "adaptive memory, own metric" in page


def cells(text):
    """The cells of a notebook that is written as a page: text, Python, and commands."""
    import nbformat

    own = "{sys.executable} -m"  # the environment is not activated
    make = {"python": nbformat.v4.new_code_cell, "console": lambda line: nbformat.v4.new_code_cell(f"!{own} {line}")}
    for language, block, words in re.findall(
        r"^```(\w+)\n(.*?)\n```$|^([^`\n][^\n]*)$", text, re.MULTILINE | re.DOTALL
    ):
        yield make[language](block) if language else nbformat.v4.new_markdown_cell(words)


def kinds(cell):
    """What a cell shows: MIME types, "stream" and "error"."""
    return {kind for output in cell.outputs for kind in output.get("data", [output.output_type])}


def a_network_of_ones_own_is_trained():
    """A training study of it, its own baselines beside it; stopped and started again it repeats nothing."""
    runs = 2 * (3 + 2) + 2
    assert f"training: {runs} runs on 1 problem, {runs} to do" in proxmom("run", "--check", "training.toml")
    said = proxmom("run", "training.toml", "--jobs", 2)
    for name in ("AdamW", "two speeds", "SGD"):
        assert name in said, said
    assert "waves, hidden 16" in Path("results/training/report.html").read_text()
    assert f"training: {runs} runs on 1 problem, 0 to do" in proxmom("run", "--check", "training.toml")
    proxmom("report", "results/training", "--curves", "losses.csv")
    rows = list(csv.DictReader(Path("losses.csv").read_text().splitlines()))
    finals = [float(row["validation"]) for row in rows if row["method"] == "two speeds" and row["step"] == "100"]
    assert finals
    assert min(finals) < 0.5 * max(float(row["validation"]) for row in rows if row["method"] == "two speeds")


STEPS = (
    data_of_ones_own,
    a_rule_is_judged,
    a_rule_in_disguise_is_found,
    a_formula_is_judged,
    a_study_is_planned_and_run,
    rows_leave_for_ones_own_figures,
    another_rule_is_put_beside_them,
    figures_leave_in_three_formats,
    a_step_moves,
    a_backend_of_elsewhere_does_no_harm,
    a_notebook_shows_results,
    a_network_of_ones_own_is_trained,
)

if __name__ == "__main__":
    for step in STEPS:
        begin = time.perf_counter()
        step()
        print(f"{step.__name__.replace('_', ' ')}: {time.perf_counter() - begin:.0f} s", flush=True)
