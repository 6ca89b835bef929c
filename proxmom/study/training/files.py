"""What stands in the data files of tasks."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path


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
