"""`python -m proxmom.kernels`: build the kernels in place, and say what came of it."""

from __future__ import annotations

import sys
from pathlib import Path

from proxmom import kernels
from proxmom.kernels import build


def main() -> int:
    """0 where the kernels are there afterwards; else 1, with the reason on stderr."""
    folder = Path(kernels.__file__).parent
    print(f"compiling {folder / build.SOURCE}")
    try:
        library = build.build(folder)
    except OSError as error:
        print(f"not built: {error}", file=sys.stderr)
        return 1
    if library is None:
        print(f"not built: {build.why_not()}", file=sys.stderr)
        return 1
    print(f"built {library}")
    if not kernels.available():
        print(f"not usable: {kernels.why_not()}", file=sys.stderr)
        return 1
    print(f"usable for {', '.join(filter(kernels.supports, kernels.TYPES))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
