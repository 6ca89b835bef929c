"""Pictures of a rule at work: its path over a function of two variables, and the model of planes behind one step.

Each returns a matplotlib Figure, draws on axes of yours (`ax=`) if wanted, and writes a file (`out=`).
Needs matplotlib, which is imported when the first picture is drawn: pip install 'proxmom[study]'.
"""

from proxmom.draw.animation import animate_model
from proxmom.draw.functions import FUNCTIONS
from proxmom.draw.model import draw_model
from proxmom.draw.path import draw_path

__all__ = ["FUNCTIONS", "animate_model", "draw_model", "draw_path"]
