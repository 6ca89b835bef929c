"""Compile `passes.cpp` into a shared library beside it. Standard library only: the build hook loads this by path.

Beside the library stands its record: size, digest, and what it was made of and for. Whoever loads the library checks
that first, for mapping one that is cut short, or runs instructions this processor lacks, ends the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCE = "passes.cpp"
INCLUDED = ("signs.h", "tape.h", "vectors.h")  # by the source
LIBRARY = "passes" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
RECORD = "passes.json"
# No -ffast-math: NaN and infinity must arrive. Without contraction every instruction set rounds alike.
FLAGS = (
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra"),
    *("-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
)
PLAIN = "-DPROXMOM_NO_CLONES"  # where a compiler or C library has no clones: one instruction set, the default
TIMEOUT = 600  # seconds

_RECORDED = {
    **{"fingerprint": str, "size": int, "digest": str, "source": str},
    **{"flags": list, "command": list, "cxx": str, "processor": str},
}
# -m64, -mtune and the like change no instruction set.
_FOR_A_PROCESSOR = re.compile(r"-march=|-mcpu=|-m(sse|ssse|avx|fma|f16c|bmi|lzcnt|popcnt|abm|amx|adx|aes|sha)|-x[A-Z]")
# Predefined where a wrapper or a configuration file adds such arguments; plain x86-64 has SSE2 and none of these.
_BEYOND_ANY = re.compile(r"^#define __(SSE3|SSSE3|SSE4_1|POPCNT|BMI|FMA|AVX)__ ", re.MULTILINE)

_reason = "build() was not called"


def switched_off() -> bool:
    """Whether the environment variable PROXMOM_KERNELS says no: then nothing is built on installation, or used."""
    return os.environ.get("PROXMOM_KERNELS", "").lower() in ("0", "off", "false", "no")


def why_not() -> str:
    """Why the last `build` made nothing, the compiler's message included; empty if it made a library."""
    return _reason


def fingerprint(folder: Path, command: list[str], cxx: str, processor: str) -> str:
    """16 hexadecimal digits of all that a library depends on; it answers with them once it is loaded.

    command: compiler and arguments; cxx: $CXX; processor: the only one it runs on, or empty.
    """
    made_of = json.dumps([_source(folder), FLAGS, command, cxx, processor])
    return hashlib.sha256(made_of.encode()).hexdigest()[:16]


def recorded(folder: Path) -> dict[str, Any]:
    """What the record in `folder` says of the library there, checked against source, flags, $CXX and processor.

    Reads the library, and does not map it.

    Raises:
        ValueError: if there is no record, or it is not of this library, or the library is not of this source, these
            flags, this $CXX or for this processor; the message says which, as the end of "the library ...".
    """
    record = _record(folder / RECORD)
    library = folder / LIBRARY
    if library.stat().st_size != record["size"]:
        raise ValueError(f"has {library.stat().st_size} bytes, not the {record['size']} that were built: it is cut off")
    if _digest(library) != record["digest"]:
        raise ValueError("has other content than was built: it is damaged, or another one")
    if record["source"] != _source(folder):
        raise ValueError("is of another source")
    if record["flags"] != list(FLAGS):
        raise ValueError(f"was built with other flags ({shlex.join(record['flags'])})")
    cxx = os.environ.get("CXX", record["cxx"])  # a variable that is not set says nothing of how to build
    if cxx != record["cxx"]:
        before = f"$CXX = {record['cxx']!r}" if record["cxx"] else "no $CXX"
        raise ValueError(f"was built with {before}, and now $CXX is {cxx!r}")
    if record["processor"] and record["processor"] != processor():
        raise ValueError(
            f"was built for the processor {record['processor']!r} alone ({shlex.join(record['command'])}), and this is "
            f"{processor()!r}"
        )
    made_of = fingerprint(folder, record["command"], record["cxx"], record["processor"])
    if record["fingerprint"] != made_of:
        raise ValueError(f"has the fingerprint {record['fingerprint']}, and its record would have {made_of}")
    return record


def processor() -> str:
    """This processor: its kind, model, and a digest of the instructions it knows, as far as the system tells."""
    known: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = (part.strip() for part in line.partition(":"))
            known.setdefault(name, value)
    except OSError:
        pass
    model = known.get("model name") or known.get("CPU part") or platform.processor()
    flags = " ".join(sorted((known.get("flags") or known.get("Features") or "").split()))
    return f"{platform.machine()} {model} {hashlib.sha256(flags.encode()).hexdigest()[:8]}"


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
    cxx, only = os.environ.get("CXX", ""), processor() if _bound(command) else ""
    made_of = fingerprint(folder, command, cxx, only)
    mark = f'-DPROXMOM_FINGERPRINT="{made_of}"'
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
        made = Path(scratch) / LIBRARY
        arguments = [*command, *FLAGS, mark, str(folder / SOURCE), "-o", str(made)]
        try:
            run = subprocess.run(arguments, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{shlex.join(arguments)}\n{error}"
        if run.returncode or not made.exists():
            return f"{shlex.join(arguments)}\n{run.stderr.strip() or f'exit status {run.returncode}'}"
        record = {
            "fingerprint": made_of,
            "size": made.stat().st_size,
            "digest": _digest(made),
            "source": _source(folder),
            "flags": FLAGS,
            "command": command,
            "cxx": cxx,
            "processor": only,
        }
        described = Path(scratch) / RECORD
        described.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        # By rename, so that a process that has the old library loaded keeps it whole. Between the two the record is
        # of the other library, and whoever loads it then refuses it.
        made.replace(folder / LIBRARY)
        described.replace(folder / RECORD)
    return ""


def _bound(command: list[str]) -> bool:
    """Whether this command makes code for some processors only: by its arguments, or what the compiler adds to them."""
    if any(_FOR_A_PROCESSOR.match(argument) for argument in command[1:]):
        return True
    asked = [*command, "-dM", "-E", "-x", "c++", os.devnull]
    try:
        run = subprocess.run(asked, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return _BEYOND_ANY.search(run.stdout) is not None


def _record(file: Path) -> dict[str, Any]:
    """A record as it was written; ValueError if it is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"has no record {file.name} of what it was built from") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has a record {file.name} that is damaged") from error
    if not isinstance(found, dict):
        raise ValueError(f"has a record {file.name} that is damaged")
    for name, kind in _RECORDED.items():
        value = found.get(name)
        texts = not isinstance(value, list) or all(isinstance(entry, str) for entry in value)
        if type(value) is not kind or not texts:
            raise ValueError(f"has a record {file.name} without its {name}")
    return found


def _source(folder: Path) -> str:
    """The digest of the source and of what it includes, as far as that is there."""
    files = [folder / SOURCE, *(file for name in INCLUDED if (file := folder / name).exists())]
    return hashlib.sha256("".join(map(_digest, files)).encode()).hexdigest()


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
