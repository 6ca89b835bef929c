"""What the runs of studies say: tables in the terminal, a page with pictures, CSV and Parquet."""

import os
from contextlib import suppress

from proxmom.notebook import import_matplotlib

if "MPLBACKEND" in os.environ:  # it may name a backend of another environment
    with suppress(ModuleNotFoundError):
        import_matplotlib()
