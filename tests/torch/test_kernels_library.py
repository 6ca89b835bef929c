"""The library of C++ kernels: built with a record, refused where it is not what that says, and done without."""

from __future__ import annotations

import ctypes
import json
import platform
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from proxmom import kernels
from proxmom.kernels import __main__ as command
from proxmom.kernels import build
from tests.torch.test_kernels import Tensors, U

usable = pytest.mark.skipif(not kernels.available(), reason=kernels.why_not())
compiler = pytest.mark.skipif(not build.compilers(), reason="no C++ compiler")
Array = NDArray[Any]
FOLDER = Path(kernels.__file__).parent


def test_the_environment_switches_the_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXMOM_KERNELS", "0")
    assert not kernels.available()
    assert "PROXMOM_KERNELS" in kernels.why_not()


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the library, its source and its record; $CXX as it was when the library was built."""
    for name in (build.SOURCE, *build.INCLUDED, build.LIBRARY, build.RECORD):
        shutil.copy(FOLDER / name, tmp_path)
    kernels._load.cache_clear()
    return tmp_path


def refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Why a library is refused, which is before it is mapped, and with a warning."""
    kernels._load.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda path: pytest.fail("it was mapped"))
        with pytest.warns(UserWarning, match="proxmom computes without its kernels: .*build it: python -m proxmom"):
            reason = kernels._load(str(folder))
    kernels._load.cache_clear()
    assert isinstance(reason, str)
    return reason


def rewrite(folder: Path, **changes: Any) -> None:
    """The record with other entries, or without those that are None."""
    file = folder / build.RECORD
    record = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in record.items() if value is not None}))


@usable
def test_a_library_that_is_as_it_was_built_loads(there: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not isinstance(kernels._load(str(there)), str)


@usable
@pytest.mark.parametrize("keep", [0, 1, 4096, 0.5, 0.99, -1])
def test_a_library_that_is_cut_off_is_refused(keep: float, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (there / build.LIBRARY).read_bytes()
    size = int(keep * len(content)) if isinstance(keep, float) else keep % len(content)
    (there / build.LIBRARY).write_bytes(content[:size])
    assert f"has {size} bytes, not the {len(content)} that were built" in refused(there, monkeypatch)


@usable
@pytest.mark.parametrize("at", [0.0, 0.3, 0.999])
def test_a_library_with_other_content_is_refused(at: float, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray((there / build.LIBRARY).read_bytes())
    content[int(at * len(content))] ^= 1
    (there / build.LIBRARY).write_bytes(content)
    assert "has other content than was built" in refused(there, monkeypatch)


@usable
@pytest.mark.parametrize("record", [None, "", "{", "null", "[]", "[" * 100_000, '{"size": 3}'])
def test_a_library_without_its_record_is_refused(record: Any, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (there / build.RECORD).unlink()
    if record is not None:
        (there / build.RECORD).write_text(record)
    assert re.search(r"has (no|a) record passes.json ", refused(there, monkeypatch))


@usable
@pytest.mark.parametrize("name", ["fingerprint", "size", "digest", "source", "flags", "command", "cxx", "processor"])
@pytest.mark.parametrize("value", [None, {}, [3]])
def test_a_record_must_have_all_entries(name: str, value: Any, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(there, **{name: value})
    assert f"has a record passes.json without its {name}" in refused(there, monkeypatch)


@usable
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source": "0"}, "is of another source"),
        ({"flags": ["-O0"]}, r"was built with other flags \(-O0\)"),
        (
            {"processor": "a Z80", "command": ["g++", "-march=native"]},
            r"for the processor 'a Z80' alone \(g\+\+",
        ),
        ({"command": ["clang++"]}, "has the fingerprint .*, and its record would have"),
        ({"fingerprint": "0" * 16}, "has the fingerprint 0000000000000000, and its record would have"),
    ],
)
def test_a_library_made_of_or_for_something_else_is_refused(
    changes: dict[str, Any], reason: str, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(there, **changes)
    assert re.search(reason, refused(there, monkeypatch))


@usable
@pytest.mark.parametrize("name", [build.SOURCE, *build.INCLUDED])
def test_another_source_beside_a_library_refuses_it(name: str, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = there / name
    source.write_text(source.read_text() + "// newer\n")
    assert "is of another source" in refused(there, monkeypatch)


@usable
@pytest.mark.parametrize("cxx", ["g++ -march=native", "clang++ -O1", "/opt/other/c++"])
def test_another_compiler_in_the_environment_refuses_a_library(
    cxx: str, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", cxx)
    assert f"and now $CXX is '{cxx}'" in refused(there, monkeypatch)
    monkeypatch.delenv("CXX")  # a variable that is not set says nothing
    assert not isinstance(kernels._load(str(there)), str)


SMALL = """
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT const char *proxmom_fingerprint() { return PROXMOM_FINGERPRINT; }
EXPORT int proxmom_measure() { return 0; }
EXPORT int proxmom_move() { return 0; }
EXPORT int proxmom_measure_vectors() { return 0; }
EXPORT int proxmom_move_vectors() { return 0; }
EXPORT int proxmom_lie_as() { return 1; }
"""


@compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the arguments are those of x86-64")
@pytest.mark.parametrize("arguments", ["-march=native", "-mavx2", "-march=x86-64-v3", "wrapper"])
def test_code_for_one_processor_is_not_run_on_another(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = " ".join([*build.compilers()[0], arguments])
    if arguments == "wrapper":
        command = str(tmp_path / "wrapper")
        Path(command).write_text(f'#!/bin/sh\nexec {build.compilers()[0][0]} -mavx2 "$@"\n')
        Path(command).chmod(0o755)
    (tmp_path / build.SOURCE).write_text(SMALL)
    monkeypatch.setenv("CXX", command)
    assert build.build(tmp_path) == tmp_path / build.LIBRARY, build.why_not()
    kernels._load.cache_clear()
    assert not isinstance(kernels._load(str(tmp_path)), str)
    monkeypatch.delenv("CXX")
    assert json.loads((tmp_path / build.RECORD).read_text())["processor"] == build.processor()
    monkeypatch.setattr(build, "processor", lambda: "x86_64 another")
    assert "was built for the processor" in refused(tmp_path, monkeypatch)


@compiler
@pytest.mark.parametrize("arguments", ["", "-O2", "-mtune=generic"])
def test_code_for_any_processor_is_run_on_another(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / build.SOURCE).write_text(SMALL)
    monkeypatch.setenv("CXX", " ".join([*build.compilers()[0], arguments]))
    assert build.build(tmp_path) == tmp_path / build.LIBRARY, build.why_not()
    monkeypatch.setattr(build, "processor", lambda: "another")
    kernels._load.cache_clear()
    assert not isinstance(kernels._load(str(tmp_path)), str)


def test_fingerprints_depend_on_all_that_a_library_depends_on(tmp_path: Path) -> None:
    (tmp_path / build.SOURCE).write_text(SMALL)
    parts = [["c++"], "", ""], [["c++", "-O0"], "", ""], [["c++"], "c++", ""], [["c++"], "", "x86_64"]
    prints = [build.fingerprint(tmp_path, *given) for given in parts]  # type: ignore[arg-type]
    (tmp_path / build.SOURCE).write_text(SMALL + "// newer")
    prints.append(build.fingerprint(tmp_path, ["c++"], "", ""))
    assert len(set(prints)) == 5


def test_a_missing_or_broken_library_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # where nothing was built nothing is amiss
        assert "there is no library" in kernels._load(str(tmp_path))
    (tmp_path / build.LIBRARY).write_text("not a library")
    assert "has no record" in refused(tmp_path, monkeypatch)


def test_a_call_without_the_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_load", lambda folder: "there is no library; build it.")
    with pytest.raises(RuntimeError, match="build it"):
        kernels.measure(Tensors("float32").batch(), U)


def test_without_a_compiler_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.build(tmp_path) is None
    assert "no C++ compiler" in build.why_not()


@compiler
def test_a_compiler_that_fails_is_quoted_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / build.SOURCE).write_text("this is not C++\n")
    (tmp_path / build.LIBRARY).write_text("older")
    assert build.build(tmp_path) is None
    assert "this" in build.why_not()
    assert "error" in build.why_not()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([build.SOURCE, build.LIBRARY])
    assert (tmp_path / build.LIBRARY).read_text() == "older"
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "__init__.py"))
    assert command.main() == 1
    assert "not built" in capsys.readouterr().err


@compiler
def test_a_build_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / build.SOURCE).write_text(SMALL)
    monkeypatch.delenv("PROXMOM_KERNELS", raising=False)
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "__init__.py"))
    assert command.main() == 0
    assert "usable for float32" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([build.SOURCE, build.LIBRARY, build.RECORD])


@usable
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted by /proc")
def test_the_threads_are_those_of_openmp_that_was_loaded_later() -> None:
    """Threads of its own would live as long as a call, and share the cores with torch's, which stay awake."""
    program = """
import os
from proxmom import kernels
assert kernels.available()
import numpy as np, torch
x = np.zeros(2**20, dtype=np.float32)
at = np.array([x.ctypes.data], dtype=np.uint64)
one, zero = np.array([x.size]), np.array([0])
batch = kernels.Batch(dtype="float32", size=one, unit=zero, x=at, gradient=at, memory=at)
before = len(os.listdir("/proc/self/task"))
kernels.measure(batch, 1, threads=2)
print(len(os.listdir("/proc/self/task")) - before, torch.get_num_threads())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split()[0] == "1"
