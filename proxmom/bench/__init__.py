"""What a step costs in time and memory, beside torch's own optimizers: `proxmom bench`.

`Plan` says what to measure, `measure` does it, `render` writes figures as text; figures are plain JSON with every raw
time. torch is imported when its steps are measured, and only then.
"""

from proxmom.bench.page import load, render
from proxmom.bench.plan import Plan
from proxmom.bench.run import measure

__all__ = ["Plan", "load", "measure", "render"]
