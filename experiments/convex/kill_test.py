"""Kills a study with SIGKILL at 20 random moments, finishes it, and compares it with one that was left in peace.

    python experiments/convex/kill_test.py [--kills 20] [--seed 0] [--jobs 2] [--out kill_test.txt]

Every other kill takes the main process alone, whose workers must leave by themselves; the others take all processes.
Exits with 1 if a finished run was repeated, lost or half-written, or if anything but wall-clock columns differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxmom.study.record.store import load_runs
from proxmom.study.report.export import table
from proxmom.study.report.write import terminal_table

STUDY = Path(__file__).with_suffix(".toml")
Finished = dict[str, tuple[int, int]]  # by key: identity and time of the end marker


@dataclass(frozen=True)
class Kill:
    """One kill: after so many seconds, of the main process or all, and how many runs were finished then."""

    seconds: float
    whole_group: bool
    finished: int


def main() -> int:
    arguments = _arguments()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        calm, killed = Path(folder) / "calm", Path(folder) / "killed"
        seconds = _finish(calm, arguments.jobs)
        kills, problems = _kill_often(killed, arguments, seconds, chance)
        before = _finished(killed)
        _finish(killed, arguments.jobs)
        problems += _repeated(before, _finished(killed))
        problems += list(_differences(calm, killed))
        lines = [*_history(kills, len(_finished(calm)), arguments), *_verdict(problems), "", terminal_table([killed])]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    return 1 if problems else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the output there")
    return parser.parse_args()


def _start(out: Path, jobs: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "proxmom", "run", str(STUDY), "--out", str(out), "--jobs", str(jobs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def _finish(out: Path, jobs: int) -> float:
    """Runs the study to its end; the seconds it took."""
    started = time.monotonic()
    process = _start(out, jobs)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the study failed:\n{output.decode()}")
    return time.monotonic() - started


def _kill_often(
    out: Path, arguments: argparse.Namespace, seconds: float, chance: random.Random
) -> tuple[list[Kill], list[str]]:
    """Starts and kills the study; what was wrong between two starts."""
    kills: list[Kill] = []
    problems: list[str] = []
    while len(kills) < arguments.kills:
        before = _finished(out)
        process = _start(out, arguments.jobs)
        wait = chance.uniform(1, 1.8 * seconds / arguments.kills + 4)  # a start alone takes two or three seconds
        whole_group = bool(len(kills) % 2)
        try:
            process.wait(timeout=wait)
            raise SystemExit(f"the study was finished before kill {len(kills) + 1}: choose fewer kills.")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL) if whole_group else process.kill()
        process.communicate()  # ends when the last worker has gone
        after = _finished(out)
        problems += _repeated(before, after) + _half_written(out)
        kills.append(Kill(wait, whole_group, len(after)))
    return kills, problems


def _finished(out: Path) -> Finished:
    marks = {marker.parent.name: marker.stat() for marker in out.glob("runs/*/done.json")}
    return {key: (mark.st_ino, mark.st_mtime_ns) for key, mark in marks.items()}


def _repeated(before: Finished, after: Finished) -> list[str]:
    lost = [f"run {key} was finished and is gone" for key in before if key not in after]
    return lost + [
        f"run {key} was finished and was run again" for key in before if after.get(key, before[key]) != before[key]
    ]


def _half_written(out: Path) -> list[str]:
    """Finished runs that cannot be read, or whose records do not end where they say they do."""
    problems = []
    for marker in out.glob("runs/*/done.json"):
        try:
            outcome = json.loads(marker.read_text())
            json.loads((marker.parent / "run.json").read_text())
            records = [json.loads(line) for line in (marker.parent / "metrics.jsonl").read_text().splitlines()]
        except (OSError, ValueError) as error:
            problems.append(f"run {marker.parent.name} is half-written: {error}")
            continue
        if records[-1]["evaluations"] != outcome["evaluations"]:
            problems.append(f"run {marker.parent.name} ends at record {records[-1]}, its outcome is {outcome}")
    return problems


def _differences(calm: Path, killed: Path) -> Iterator[str]:
    """All that is not the same in both studies, but for seconds and dates."""
    rows, others = ([{**row, "seconds": None} for row in table([folder])] for folder in (calm, killed))
    if rows != others:
        wrong = sum(row != other for row, other in zip(rows, others, strict=False)) + abs(len(rows) - len(others))
        yield f"{wrong} of {len(rows)} rows of the exported tables differ"
    if terminal_table([calm]) != terminal_table([killed]):
        yield "the tables of results differ"
    records = [
        {run.key: (run.directory / "metrics.jsonl").read_bytes() for run in load_runs(f)} for f in (calm, killed)
    ]
    if records[0] != records[1]:
        yield "recorded curves differ"
    stray = [path for path in killed.glob("runs/*/*.tmp") if (path.parent / "done.json").exists()]
    yield from (f"{path.name} was left in the folder of a finished run" for path in stray)


def _history(kills: list[Kill], total: int, arguments: argparse.Namespace) -> Iterator[str]:
    yield f"{STUDY.name}: {total} runs, {arguments.jobs} processes; {len(kills)} times SIGKILL, seed {arguments.seed}"
    yield ""
    yield "kill  after   killed             finished runs then"
    for number, kill in enumerate(kills, start=1):
        who = "all processes" if kill.whole_group else "the main process"
        yield f"{number:4d}  {kill.seconds:4.1f} s  {who:<17}  {kill.finished}"
    yield ""


def _verdict(problems: list[str]) -> list[str]:
    good = (
        "No finished run was repeated, none was lost, none half-written; but for wall-clock columns, tables and curves"
    )
    return problems or [good, "are those of a study that was not killed."]


if __name__ == "__main__":
    sys.exit(main())
