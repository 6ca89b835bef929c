"""Which engine runs a study, and on which GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxmom.study.run import engines
from tests.study.run.engines.conftest import proxmom


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--executor", "joblib", "--slurm", "time=10"], "--slurm goes with --executor slurm, got joblib"),
        (["--executor", "slurm", "--slurm", "time"], "--slurm must read KEY=VALUE, got time"),
        (["--executor", "slurm"], "SLURM must be told a job's time in minutes, as in time=240, got None"),
        (["--executor", "slurm", "--slurm", "time=1:00"], "got '1:00'"),
        (["--executor", "slurm", "--slurm", "time=10", "--slurm", "colour=red"], r"['colour']"),
        (["--executor", "slurm", "--slurm", "time=10", "--jobs", "0"], "jobs must be >= 1"),
    ],
)
def test_bad_options_are_named(study: Any, tmp_path: Path, slurm: Any, arguments: Any, message: str) -> None:
    result = proxmom("run", study(), "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_no_slurm_is_a_clear_error(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = proxmom("run", study(), "--executor", "slurm", "--slurm", "time=10")
    assert "there is no SLURM here, that is no sbatch on the PATH" in result.output


def test_torchrun_starts_the_processes_itself(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    result = proxmom("run", study(), "--executor", "local")
    assert "torchrun starts the processes itself: leave --executor local out" in result.output


def test_submitit_is_asked_for_when_it_is_needed(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    result = proxmom("run", study(), "--executor", "local")
    assert "needs the cluster extra: pip install 'proxmom[cluster]'" in result.output


def test_each_process_takes_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    code = "import sys; from pathlib import Path; from proxmom.study.record import store; "
    code += f"print(store.try_lock(Path({str(tmp_path / 'gpu-0.lock')!r})), flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "True\n"
    engines._choose_gpu.cache_clear()
    engines._choose_gpu(tmp_path)
    engines._choose_gpu(tmp_path)
    other.communicate("")
    assert chosen == [1]
    assert engines._per_gpu(-1) == 2
    assert engines._per_gpu(5) == 5
