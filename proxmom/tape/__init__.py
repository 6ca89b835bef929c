"""The scalars of a step as one straight line of instructions, recorded from the very code that decides a step.

A step decides with a hundred small operations on arrays of a few numbers each, and calling them costs far more than
computing them. `record` runs the code once on symbols (`trace`, `arrays`), and what it does to them is the `Tape`:
played by the C++ kernels in one call (`proxmom.kernels.tape`), or written out as a Triton kernel
(`proxmom.torch.passes`). No formula is written twice, and a rule of a user's own is recorded like any other; code that
branches on a value, or does not do the same each time, cannot be recorded and runs as it is, and so does code that
reads what has changed since (`watch`).
"""

from proxmom.tape.play import play
from proxmom.tape.record import Tape, record
from proxmom.tape.trace import Untraceable

__all__ = ["Tape", "Untraceable", "play", "record"]
