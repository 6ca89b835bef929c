"""Processes of tests that begin with torch imported: an import takes seconds, a fork of one who has it does not."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

PRELOADED = ["torch._dynamo", "torch.distributed.fsdp", "torch.distributed.nn", "proxmom.cli", "proxmom.study.training"]
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def context() -> Any:
    """What starts them: they share nothing with this process, as after "spawn"."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    return multiprocessing.get_context(METHOD)


# What a script leaves is not torn down: where a DistributedDataParallel is the last to hold its process group, its end
# waits, with the GIL, for a thread of gloo's that wants the GIL.
_ENDED: list[dict[str, Any]] = []


def start(worker: Callable[..., None], args: tuple[Any, ...], size: int) -> None:
    """`worker(rank, *args)` in as many processes; what one raises is raised here."""
    context()
    torch.multiprocessing.start_processes(worker, args, nprocs=size, start_method=METHOD)


def commands(
    words: Sequence[object], environments: Iterable[Mapping[str, str]], folder: Path, seconds: float = 300
) -> list[subprocess.CompletedProcess[str]]:
    """Beside each other in a folder, one for each environment: a script, or `-m module`, with its arguments."""
    started = []
    for number, environment in enumerate(environments):
        said = [folder / f"{number}.{stream}" for stream in ("out", "err")]
        process = context().Process(target=_command, args=(list(map(str, words)), dict(environment), folder, said))
        process.start()
        started.append((process, said))
    done = []
    for process, said in started:
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
        out, err = (file.read_text() for file in said)
        done.append(subprocess.CompletedProcess(words, process.exitcode, out, err))
    return done


def as_torchrun(size: int) -> list[dict[str, str]]:
    """What torchrun tells each of its processes on this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
    return [{**here, "RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(size)} for i in range(size)]


def _command(words: list[str], environment: dict[str, str], folder: Path, said: list[Path]) -> None:
    for number, file in enumerate(said, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    os.environ.update(environment)
    module = words[0] == "-m"
    sys.argv = words[1:] if module else words
    if module:
        _ENDED.append(runpy.run_module(words[1], run_name="__main__", alter_sys=True))
    else:
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        _ENDED.append(runpy.run_path(words[0], run_name="__main__"))
