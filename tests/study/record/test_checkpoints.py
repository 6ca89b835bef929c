"""Checkpoints that cannot be written or read."""

from __future__ import annotations

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

from proxmom.study.record.run import METRICS
from proxmom.study.record.store import RunWriter
from proxmom.study.training import build_task, checkpoint, train

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
