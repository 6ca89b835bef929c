"""Where a number comes from: versions, commit, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """What is stored with every run; "commit" and "dirty" are None unless the package is a git checkout."""
    commit = _git("rev-parse", "--short", "HEAD") if _git("ls-files", Path(__file__).name) else None
    return {
        "proxmom": _version("proxmom"),
        "python": platform.python_version(),
        "numpy": _version("numpy"),
        "scipy": _version("scipy"),
        "commit": commit or None,
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None,
        **machine(),
    }


def machine() -> dict[str, Any]:
    """This computer, which on a cluster is not the one that a study was started on."""
    return {"processor": _processor(), "cores": os.cpu_count()}


def accelerated(device: str) -> dict[str, Any]:
    """Of a training run: torch's version, the GPU's name (None on "cpu"), and how many processes train together."""
    import torch

    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    ranks = {"processes": torch.distributed.get_world_size()} if together else {}
    name = torch.cuda.get_device_name() if device == "cuda" else None
    return {"torch": _version("torch"), "accelerator": name, **ranks}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """The output of a git command in this file's folder; None where there is no git, or no repository."""
    command = ("git", "-C", str(Path(__file__).parent), *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    """The processor's model: Linux says it in /proc/cpuinfo, other systems through `platform`."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
