"""Compile `passes.cpp` into a shared library beside it. Standard library only: the build hook loads this by path."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = "passes.cpp"
LIBRARY = "passes" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
# No -ffast-math: NaN and infinity must arrive. Without contraction every instruction set rounds alike.
FLAGS = (
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra"),
    *("-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
)
PLAIN = "-DPROXMOM_NO_CLONES"  # where a compiler or C library has no clones: one instruction set, the default
TIMEOUT = 600  # seconds

_reason = "build() was not called"


def switched_off() -> bool:
    """Whether the environment variable PROXMOM_KERNELS says no: then nothing is built on installation, or used."""
    return os.environ.get("PROXMOM_KERNELS", "").lower() in ("0", "off", "false", "no")


def why_not() -> str:
    """Why the last `build` made nothing, the compiler's message included; empty if it made a library."""
    return _reason


def fingerprint(folder: Path) -> str:
    """What a library built now from the source in `folder` would answer: 16 hexadecimal digits of source and flags."""
    return hashlib.sha256((folder / SOURCE).read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:16]


def compilers() -> list[list[str]]:
    """The commands to try, in order: $CXX (which may contain arguments), c++, g++, clang++, as far as they exist."""
    named = [shlex.split(os.environ.get("CXX", "")), ["c++"], ["g++"], ["clang++"]]
    return [command for command in named if command and shutil.which(command[0])]


def build(folder: Path) -> Path | None:
    """Compile `folder`/passes.cpp to a library in `folder`, replacing an older one only when that succeeds.

    Returns:
        The library's path, or None where there is no compiler or none succeeds; `why_not()` then says why.

    Raises:
        OSError: where `folder` cannot be read or written.
    """
    global _reason
    _reason = "" if (found := compilers()) else "no C++ compiler: none of $CXX, c++, g++, clang++ is on PATH"
    for command in found:
        for extra in ([], [PLAIN]):
            _reason = _compile(command + extra, folder)
            if not _reason:
                return folder / LIBRARY
    return None


def _compile(command: list[str], folder: Path) -> str:
    """One attempt; returns what went wrong, or an empty string."""
    mark = f'-DPROXMOM_FINGERPRINT="{fingerprint(folder)}"'
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
        made = Path(scratch) / LIBRARY
        arguments = [*command, *FLAGS, mark, str(folder / SOURCE), "-o", str(made)]
        try:
            run = subprocess.run(arguments, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{shlex.join(arguments)}\n{error}"
        if run.returncode or not made.exists():
            return f"{shlex.join(arguments)}\n{run.stderr.strip() or f'exit status {run.returncode}'}"
        # By rename, so that a process that has the old library loaded keeps it whole.
        made.replace(folder / LIBRARY)
    return ""
