"""The version of the code that decides a study's numbers: part of every run's key, and raised by hand.

Whoever changes what comes out of a study, by more than rounding, raises the version of its kind: runs of before are
then no longer taken for runs of the code as it is, and the next start does them again. The first version is not
written into keys, so that runs from before there were versions keep theirs.
"""

from __future__ import annotations

EVALUATIONS = 1  # of studies that count them: problems, rules, metrics, step sizes, solvers, how runs are counted
TRAINING = 1  # of training studies: rules and metrics as well, tasks, schedules, how a run trains


METRICS = {"QuasiNewton": 2}  # of runs in a metric, where nothing else changed; not listed: 1


def in_key(version: int, metric: str) -> dict[str, int]:
    """What the configuration of a run holds of the versions of its kind, >= 1, and its metric, named as in a study."""
    versions = {"numerics": version, "metric_numerics": METRICS.get(metric.split("(")[0], 1)}
    return {name: number for name, number in versions.items() if number > 1}
