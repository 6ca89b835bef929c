"""Training studies: tasks with a training seed, learning-rate schedules, and runs that a kill only interrupts.

The one place under `proxmom.study` that imports torch; import it when a study asks for training.
"""

import proxmom.torch  # noqa: F401  (first: it says how to get torch where there is none)
from proxmom.study.training.optimizers import make_optimizer, rehearse
from proxmom.study.training.schedules import SCHEDULES, factor
from proxmom.study.training.tasks import TASKS, Task, arguments_of, build_task, data_digest, describe_task
from proxmom.study.training.train import train
from proxmom.study.training.wrapped import Wrapped

__all__ = [
    "SCHEDULES",
    "TASKS",
    "Task",
    "Wrapped",
    "arguments_of",
    "build_task",
    "data_digest",
    "describe_task",
    "factor",
    "make_optimizer",
    "rehearse",
    "train",
]
