"""Data files of tasks, by path: absolute, or relative to the data directory."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

from proxmom.study.problems.data import ENVIRONMENT_VARIABLE, directory


def find_file(data: str, data_dir: Path | None, embedded: str, what: str) -> Path:
    """The file that `data` names.

    embedded: the name of the data that need no file; what: the file's kind; both for messages.

    Raises:
        ValueError: if there is none.
    """
    start = directory(data_dir)
    path = Path(data) if start is None else start / data
    if path.is_file() and (start is not None or path.is_absolute()):
        return path
    reason = f"there is no file {path}"
    if start is None and not path.is_absolute():
        reason = "the path is relative, and no data directory was given"
    raise ValueError(
        f"data must be {embedded!r} or the path of {what}, got {data!r}: {reason}. Put the file into a directory, and "
        f"name that directory with --data or the environment variable {ENVIRONMENT_VARIABLE}."
    )


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if its name ends in .gz; ValueError if it cannot be."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def digest(*contents: bytes) -> str:
    """16 hex digits for what was read."""
    found = hashlib.sha256()
    for content in contents:
        found.update(len(content).to_bytes(8, "big") + content)
    return found.hexdigest()[:16]
