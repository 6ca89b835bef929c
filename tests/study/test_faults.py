"""What goes wrong beside the methods: disks, memory, killed processes, damaged files. Nothing is lost or miscounted."""

from __future__ import annotations

import csv
import errno
import json
import math
import pickle
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from proxmom.cli import main
from proxmom.lookup import find_rule
from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import StudyError, load_study
from proxmom.study.record import faults, store
from proxmom.study.record.store import METRICS, RunWriter, aborted_runs, load_runs
from proxmom.study.report import export, finals
from proxmom.study.report.write import terminal_table, write_report
from proxmom.study.run.runner import run_study
from proxmom.study.training import build_task, checkpoint, train

HEAD = '[study]\nname = "s"\nclaim = "for tests"\nreference = "gradient"\n'
COUNTS = 'points = 3\nmax_evaluations = 60\ntarget = 1e-3\n\n[[problem]]\nkind = "quadratic"\ncondition = 10\nn = 4\n'
TRAINING = 'points = 3\nsteps = 12\nseeds = 2\n\n[[problem]]\nkind = "logistic"\nbatch = 16\n'
GRADIENT = '\n[[method]]\nname = "gradient"\nrule = "GradientDescent"\nlr = 0.5\n'
MINE = '\n[[method]]\nname = "mine"\nrule = "my_rules.py:Mine"\n'
FIXED, SEARCHED = "lr = 0.5\n", 'search = {lr = {low = 0.1, high = 1.0, scale = "log"}}\n'
RULES = """
import errno
from pathlib import Path
import torch
class Mine:
    def planes(self, now):
        if now.step > 1 and Path(__file__).with_name("broken").exists():
            {}
        return (now.gradient_plane,)
"""
BY_THE_MACHINE = {
    "disk": 'raise OSError(errno.ENOSPC, "No space left on device")',
    "memory": 'raise MemoryError("too large")',
    "GPU memory": 'raise torch.OutOfMemoryError("CUDA out of memory")',
    "a wrapped cause": 'raise ValueError("no data") from ConnectionResetError("gone")',
}
BY_THE_METHOD = {
    "a bug": 'raise RuntimeError("no third step")',
    "a value": 'raise ValueError("no")',
    "arithmetic": "1 / 0",
}


@pytest.fixture
def study(tmp_path: Path) -> Any:
    """Writes a study, and a rule that raises while a file "broken" lies beside it."""

    def write(raises: str, kind: str = TRAINING, more: str = FIXED) -> Path:
        (tmp_path / "my_rules.py").write_text(RULES.format(raises))
        (tmp_path / "broken").touch()
        file = tmp_path / "study.toml"
        file.write_text(HEAD + kind + GRADIENT + MINE + more)
        return file

    return write


def run(file: Path, **more: Any) -> Path:
    return run_study(file, file.parent / "out", jobs=1, quiet=True, **more)


def proxmom(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# --- whose fault -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "aborted"),
        (FileNotFoundError("gone"), "aborted"),
        (MemoryError(), "aborted"),
        (torch.OutOfMemoryError("CUDA out of memory"), "aborted"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "aborted"),
        (RuntimeError("shapes do not fit"), "failed"),
        (ValueError("out of memory is a word"), "failed"),
        (ZeroDivisionError(), "failed"),
    ],
)
def test_whose_fault_an_error_is(error: Exception, status: str) -> None:
    assert faults.status_of(error) == status


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        ("{SIGKILL(-9)}", "aborted"),
        ("{SIGTERM(-15)}", "aborted"),
        ("", "aborted"),
        ("{SIGSEGV(-11)}", "failed"),
        ("{SIGABRT(-6)}", "failed"),
        ("{EXIT(3)}", "failed"),
    ],
)
def test_whose_fault_the_end_of_a_process_is(codes: str, status: str) -> None:
    assert faults.status_of_process(codes) == status


@pytest.mark.parametrize("kind", [COUNTS, TRAINING], ids=["counts", "training"])
@pytest.mark.parametrize("fault", BY_THE_MACHINE)
def test_what_the_machine_ends_is_in_no_table_and_is_run_again(study: Any, kind: str, fault: str) -> None:
    file = study(BY_THE_MACHINE[fault], kind)
    out = run(file)
    others = {run.key: run.directory.joinpath("done.json").stat().st_mtime_ns for run in load_runs(out)}
    lost = aborted_runs(out)
    assert {run.method for run in lost} == {"mine"}
    assert {run.method for run in load_runs(out)} == {"gradient"}
    planned = len(list(plan(load_study(file), folder=out)))
    text = f"{len(lost)} of the {planned} runs of s are not finished; run it again."
    for shown in (terminal_table([out]), write_report([out]).read_text()):
        assert text in shown
        assert "mine on" in shown
    (file.parent / "broken").unlink()
    run(file)
    assert not aborted_runs(out)
    assert len(load_runs(out)) == planned
    assert {run.key: run.directory.joinpath("done.json").stat().st_mtime_ns for run in load_runs(out)}.items() >= (
        others.items()
    )


def test_a_seed_that_the_machine_ended_is_missing_and_one_that_the_method_ended_is_the_initial_loss(study: Any) -> None:
    tables = {}
    for name, raises in {"aborted": BY_THE_MACHINE["disk"], "failed": BY_THE_METHOD["a bug"]}.items():
        file = study(raises)
        out = run_study(file, file.parent / name, jobs=1, quiet=True)
        keys = [run.key for run in load_runs(out) + aborted_runs(out) if run.method == "mine"]
        done = store.run_directory(out, keys[0]) / "done.json"
        whole = next(run for run in load_runs(out) if run.method == "gradient")
        done.write_text((whole.directory / "done.json").read_text())  # one seed is whole
        tables[name] = finals.collect(load_runs(out), 12)
    column = tables["failed"].losses[0, tables["failed"].methods.index("mine")]
    assert column[1] == pytest.approx(1.0)  # the relative gap at the start
    missing = tables["aborted"].losses[0, tables["aborted"].methods.index("mine")]
    assert math.isnan(missing[1])
    assert missing[0] == column[0]
    assert finals.lost_seeds(tables["aborted"])[tables["aborted"].problems[0], "mine"] == (0, 0, 1)


def test_points_that_the_machine_ended_do_not_stop_a_study(study: Any) -> None:
    file = study(BY_THE_MACHINE["memory"], more=SEARCHED)
    out = run(file)  # it ends, though no best point can be told
    assert [run.stage for run in aborted_runs(out)] == ["search"] * 3
    assert not [run for run in load_runs(out) if run.method == "mine"]
    (file.parent / "broken").unlink()
    assert [run.stage for run in load_runs(run(file)) if run.method == "mine"] == ["search"] * 3 + ["final"] * 2


def test_the_best_point_is_told_from_those_that_ended(study: Any) -> None:
    file = study(BY_THE_METHOD["a bug"], more=SEARCHED)
    (file.parent / "broken").unlink()
    out = run(file)
    first = next(run for run in load_runs(out) if run.method == "mine")
    store.mark_ended(first.directory, "aborted", "OSError: gone")
    cells = [cell for cell in plan(load_study(file), folder=out) if cell.method.name == "mine"]
    assert all(cell.ready for cell in cells)
    assert {cell.point_index for cell in cells if cell.stage == "final"} <= {1, 2}


@pytest.mark.parametrize(
    ("raises", "more", "status", "said"),
    [
        (BY_THE_MACHINE["disk"], FIXED, 1, "aborted by the machine, to be run again: OSError: [Errno 28] No space"),
        (BY_THE_METHOD["a bug"], FIXED, 1, "failed: RuntimeError: no third step"),
        (BY_THE_MACHINE["memory"], SEARCHED, 1, "2 runs are not finished."),
        ("pass", FIXED, 0, ""),
        ("pass", "lr = 1e9\n", 0, ""),  # what diverges is a result
    ],
)
def test_the_exit_status_says_that_something_failed(
    study: Any, raises: str, more: str, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = study(raises, more=more)
    monkeypatch.chdir(file.parent)
    result = proxmom("run", file, "--out", "out", "--jobs", 1)
    assert result.exit_code == status, result.output
    assert said in result.output
    assert "report: out/report.html" in result.output  # it is written all the same


def test_a_study_of_which_nothing_is_left_says_why(study: Any) -> None:
    file = study(BY_THE_MACHINE["disk"])
    file.write_text(file.read_text().replace(GRADIENT, "").replace('"gradient"', '"mine"'))
    result = proxmom("run", file, "--out", file.parent / "out", "--jobs", 1)
    assert result.exit_code == 1
    assert "has no finished runs. 2 runs of mine on" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["done.json", "run.json", "plan.json"])
def test_a_disk_that_stays_full_ends_the_start_in_one_line_and_the_next_one_does_the_rest(
    study: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, write, left = study("pass"), store.write_atomically, [3 if name != "plan.json" else 1]

    def full(target: Path, content: Any) -> None:
        left[0] -= target.name == name
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(target, content)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_atomically", full)
        result = proxmom("run", file, "--out", file.parent / "out", "--jobs", 1)
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
    assert f"results cannot be written to {file.parent / 'out'} (No space left on device)" in result.output
    kept = set((file.parent / "out").glob("runs/*/done.json"))
    assert proxmom("run", file, "--out", file.parent / "out", "--jobs", 1).exit_code == 0
    assert len(kept) == (2 if name != "plan.json" else 0)


# --- checkpoints -----------------------------------------------------------------------------------------------------

METHOD = {"folder": "", "arguments": {"momentum": 0.9}, "torch": "torch.optim:SGD", "lr": 0.1}


class Watched:
    """A task that stops before a step, or calls something there."""

    def __init__(self, at: int, does: Any) -> None:
        self._task, self._at, self._does = build_task("mlp", seed=0, hidden=8, batch=16), at, does

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def gradient(self, step: int) -> Any:
        if step == self._at:
            self._does()
        return self._task.gradient(step)


def trained(directory: Path, at: int = -1, does: Any = None, every: float = 0.0, **more: Any) -> Any:
    task = Watched(at, does)
    with RunWriter(directory, {}) as writer:
        found = train(
            {**METHOD, **more},
            task,
            {},
            steps=20,
            schedule="cosine",
            warmup=0.0,
            test=False,
            directory=directory,
            record=writer.record,
            checkpoint_every=every,
        )
        rows = [json.loads(line) for line in (directory / METRICS).read_text().splitlines()]
        weights = torch.cat([p.detach().flatten() for p in task.parameters.values()])
        if found.status == "aborted":
            writer.finish(found)
    return found, [{name: row[name] for name in row if name != "seconds"} for row in rows], weights


def interrupt() -> None:
    raise KeyboardInterrupt


def same(one: Any, other: Any) -> bool:
    (a, rows_a, x), (b, rows_b, y) = one, other
    return (a.status, dict(a.final), rows_a) == (b.status, dict(b.final), rows_b) and torch.equal(x, y)


def _raising(error: Exception) -> Any:
    def save(*_: Any, **__: Any) -> None:
        raise error

    return save


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError("read-only"),
        RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 704 vs 598"),
        pickle.PicklingError("a lambda"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("function", ["torch.save", "os.replace", "os.fsync"])
def test_a_checkpoint_that_cannot_be_written_is_a_warning_and_the_earlier_one_stays(
    error: Exception, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint.save(tmp_path, {"step": 1})
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(function, _raising(error))
        assert not checkpoint.save(tmp_path, {"step": 2})
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert "cannot be written" in (said := capsys.readouterr().err)
    assert "the earlier one stays" in said
    assert checkpoint.save(tmp_path, {"step": 3})
    assert checkpoint.load(tmp_path) == {"step": 3, "format": checkpoint.FORMAT}


def test_a_run_goes_on_where_a_disk_is_full_for_a_while(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = trained(tmp_path / "whole", every=math.inf)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))

    try:
        assert same(trained(tmp_path / "full", 5, full), whole)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "the earlier one stays, and the run goes on" in capsys.readouterr().err
    assert checkpoint.load(tmp_path / "full")["step"] == 5  # type: ignore[index]


def test_what_the_machine_ends_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "a bad sector")

    found, _, _ = trained(tmp_path / "a", 15, fail)
    assert (found.status, found.evaluations) == ("aborted", 15)
    assert (tmp_path / "a/done.json").is_file()
    visited: list[int] = []
    assert same(trained(tmp_path / "a", 15, lambda: visited.append(15)), trained(tmp_path / "b"))
    assert visited == [15]


def test_a_disk_that_fails_while_reading_loses_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "a", 15, interrupt)
    rows = (tmp_path / "a" / METRICS).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("torch.load", _raising(OSError(errno.ESTALE, "Stale file handle")))
        assert trained(tmp_path / "a")[0].status == "aborted"
    assert (tmp_path / "a" / METRICS).read_bytes() == rows
    assert same(trained(tmp_path / "a"), trained(tmp_path / "b"))


def _no_group_key(state: dict[str, Any]) -> None:
    del state["optimizer"]["param_groups"][0]["dampening"]


def _other_momentum(state: dict[str, Any]) -> None:
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(3, 5)


def _as(name: str, change: Any) -> Any:
    def harm(state: dict[str, Any]) -> None:
        state["parameters"][name] = change(state["parameters"][name])

    return harm


HARMS: dict[str, Any] = {
    "no format": lambda state: state.pop("format"),
    "another format": lambda state: state.update(format=0),
    "no parameters": lambda state: state.pop("parameters"),
    "a parameter less": lambda state: state["parameters"].popitem(),
    "a parameter more": lambda state: state["parameters"].update(more=torch.zeros(1)),
    "another order": lambda state: state["parameters"].update({"1.weight": state["parameters"].pop("1.weight")}),
    "a shape that broadcasts": _as("1.weight", lambda x: x[:1]),
    "another type": _as("1.weight", torch.Tensor.double),
    "no tensor": _as("1.weight", lambda x: x.tolist()),
    "a parameter group more": lambda state: state["optimizer"]["param_groups"].append({"params": []}),
    "a key that later versions need": _no_group_key,
    "state of another shape": _other_momentum,
    "rows as text": lambda state: state.update(rows="three"),
    "no step": lambda state: state.update(step=None),
    "counts of no run": lambda state: state.update(last_row=10**6),
    "no initial loss": lambda state: state.update(final={}),
    "means of another shape": lambda state: state.update(means={"count": 1, "sums": torch.zeros(1)}),
    "no random numbers": lambda state: state.pop("random"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_checkpoint_of_another_version_restarts_the_run_and_says_so(
    harm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "a", 15, interrupt)
    file = tmp_path / "a/checkpoint.pt"
    state = torch.load(file, weights_only=True)
    HARMS[harm](state)
    torch.save(state, file)
    assert same(trained(tmp_path / "a", every=math.inf), trained(tmp_path / "b"))
    said = capsys.readouterr().err
    assert f"Warning: the checkpoint {file} is damaged, or of another version: " in said
    assert "The run starts afresh." in said
    assert not file.exists()


def test_a_method_that_fails_after_a_checkpoint_has_failed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "a", 15, interrupt)

    def fail() -> None:
        raise ValueError("no")

    assert trained(tmp_path / "a", 16, fail)[0].message == "ValueError: no"


# --- damaged files ---------------------------------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000
DAMAGE = {
    "done.json": ["null", "[]", "3", '"text"', DEEP, "{", "\xff"],
    "run.json": ["null", "[1]", "3", DEEP, '{"a": ' * 500 + "1" + "}" * 500, "NaN"],
    "plan.json": ["null", "{}", "3", "[null]", "[[]]", DEEP, "[{}]"],
}
WRONG = {  # a value of another kind under a key
    "done.json": {"seconds": "long", "evaluations": None, "best_gap": "small", "status": [], "mean_beta": {}}
    | {"message": 3, "final": [1], "capped": True},
    "run.json": {"seed": "one", "point_index": None, "configuration": [], "provenance": "here", "key": 3}
    | {"provenance ": {"dirty": ["yes"]}, "configuration ": {"problem": {}, "method": {}, "point": {"lr": "large"}}},
    "plan.json": {"seed": "one", "point_index": 1.5, "problem": None, "key": 7, "method": {}},
}
CASES = [(name, text) for name, texts in DAMAGE.items() for text in texts]
CASES += [(name, (key, value)) for name, values in WRONG.items() for key, value in values.items()]


@pytest.fixture(scope="module", params=[COUNTS, TRAINING], ids=["counts", "training"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "study.toml").write_text(HEAD + request.param + GRADIENT)
    return run_study(folder / "study.toml", folder / "out", jobs=1, quiet=True)


@pytest.mark.parametrize(("name", "damage"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_a_damaged_file_is_one_line_with_its_name(finished: Path, name: str, damage: Any) -> None:
    file = finished / name if name == "plan.json" else load_runs(finished)[0].directory / name
    before = file.read_bytes()
    if isinstance(damage, str):
        file.write_bytes(damage.encode("latin-1"))
    else:
        content = json.loads(before)
        (content[0] if name == "plan.json" else content)[damage[0].strip()] = damage[1]
        file.write_text(json.dumps(content))
    try:
        result = proxmom("report", finished)
    finally:
        file.write_bytes(before)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.output.startswith("Error: ")
    assert str(file) in result.output
    assert "run the study again" in result.output.lower()
    assert len(result.output.strip().splitlines()) == 1
    assert proxmom("report", finished).exit_code == 0


@pytest.mark.parametrize(
    "line", ["null", "3", '"text"', DEEP, '{"step": 1}', '{"evaluations": "9", "gap": "8", "beta": "7"}']
)
def test_damaged_records_are_one_line_with_the_files_name(finished: Path, line: str) -> None:
    file = load_runs(finished)[0].directory / METRICS
    before = file.read_bytes()
    file.write_text(line + "\n")
    try:
        with pytest.raises(ValueError, match=f"{METRICS} is truncated or unreadable"):
            load_runs(finished)[0].curve()
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("line", ["null", "3", "[]", DEEP, "{", '{"kind": "local", "job": "1", "keys": 3}'])
def test_a_damaged_list_of_jobs_is_skipped(tmp_path: Path, line: str) -> None:
    pytest.importorskip("submitit")
    from proxmom.study.run.cluster import Cluster

    (tmp_path / "submitted.jsonl").write_text(line + "\n")
    assert Cluster("local", 1)._earlier(tmp_path, ["key"]) == []


def test_a_study_with_a_byte_order_mark_reads(tmp_path: Path) -> None:
    file, text = tmp_path / "study.toml", HEAD + COUNTS + GRADIENT
    file.write_text(text, encoding="utf-8-sig")
    assert load_study(file).text == text
    out = run(file)
    assert (out / "study.toml").read_bytes() == text.encode()
    (out / "study.toml").write_text(text, encoding="utf-8-sig")  # what another editor made of it
    assert "gradient" in terminal_table([out])
    file.write_text(text.replace('"s"', "3"), encoding="utf-8-sig")
    with pytest.raises(StudyError, match="line 2: name must be a text"):
        load_study(file)


@pytest.mark.parametrize("values", ["[" * 100_000, "[" * 5000 + "]" * 5000, "{a = " * 3000 + "1" + "}" * 3000])
def test_a_study_that_is_nested_too_deep_is_one_line(tmp_path: Path, values: str) -> None:
    file = tmp_path / "study.toml"
    file.write_text(f"a = {values}")
    with pytest.raises(StudyError, match=r"study.toml is no study: its values are nested too deep"):
        load_study(file)


FORMULAS = ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=HYPERLINK('x')"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_of_a_table_is_a_formula(finished: Path, text: str, tmp_path: Path) -> None:
    before = {file: file.read_text() for file in [finished / "plan.json", *finished.glob("runs/*/done.json")]}
    plan = json.loads(before[finished / "plan.json"])
    (finished / "plan.json").write_text(json.dumps([{**entry, "method": text} for entry in plan]))
    for file in finished.glob("runs/*/done.json"):
        content = json.loads(before[file])
        content |= {"message": text, "best_gap": -0.5, "final": {text: 1.0, **content.get("final", {})}}
        file.write_text(json.dumps(content))
    try:
        export.write_csv([finished], tmp_path / "runs.csv")
        assert [row["method"] for row in export.table([finished])] == [text] * len(load_runs(finished))  # as it is
    finally:
        for file, content in before.items():
            file.write_text(content)
    with (tmp_path / "runs.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert not [cell for cell in header if cell.startswith(tuple("=+-@\t\r\n"))]
    for row in rows:
        named = dict(zip(header, row, strict=True))
        assert (named["method"], named["message"]) == 2 * ("'" + text.replace("\r", "\n"),)
        assert float(named["best_gap"]) == -0.5  # a number stays one


# --- what runs code --------------------------------------------------------------------------------------------------

TRAP = "from pathlib import Path\nPath(__file__).with_name('was run').touch()\n"


class Touches:
    """Runs code where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("kind", [COUNTS, TRAINING], ids=["counts", "training"])
@pytest.mark.parametrize("arguments", [(), ("--csv", "runs.csv"), ("--reference", "mine", "--out", "page.html")])
def test_a_report_runs_nothing(
    study: Any, kind: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = study("pass", kind)
    out, traced = run(file), file.parent / "was run"
    for place in (file.parent, out, file.parent / "elsewhere"):  # where a rule is looked for: beside, and where we are
        place.mkdir(exist_ok=True)
        (place / "my_rules.py").write_text(TRAP + (file.parent / "my_rules.py").read_text())
    (out / "jobs").mkdir()
    for pickled in (out / "jobs/1_0_result.pkl", load_runs(out)[0].directory / "checkpoint.pt"):
        pickled.write_bytes(pickle.dumps(Touches(traced)))
    monkeypatch.chdir(file.parent / "elsewhere")
    result = proxmom("report", out, *arguments)
    assert result.exit_code == 0, result.output
    assert "mine" in result.output
    assert not list(file.parent.rglob("was run"))
    load_study(file)
    assert traced.exists()  # the trap is one: a start imports the rule


@pytest.mark.parametrize("save", [pickle.dumps, "torch"], ids=["pickle", "torch.save"])
def test_a_checkpoint_runs_nothing(save: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"format": checkpoint.FORMAT, "rows": 0, "step": Touches(tmp_path / "was run")}
    if save == "torch":
        torch.save(state, tmp_path / "checkpoint.pt")
    else:
        (tmp_path / "checkpoint.pt").write_bytes(save(state))
    assert checkpoint.load(tmp_path) is None
    assert not (tmp_path / "was run").exists()
    assert "it cannot be read (UnpicklingError)" in capsys.readouterr().err
    pickle.loads(pickle.dumps(Touches(tmp_path / "was run")))
    assert (tmp_path / "was run").exists()  # the trap is one


@pytest.mark.parametrize("text", ["GradientDescent(__import__('os'))", "MoMo(lower_bound=1+f())", "MoMo(*[0])"])
def test_arguments_run_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="with literals only"):
        find_rule(text)
