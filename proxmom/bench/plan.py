"""What to measure."""

from __future__ import annotations

from dataclasses import dataclass

from proxmom.bench.sets import CUDA_ONLY, SETS

DEVICES, PARTS = ("cpu", "cuda"), ("torch", "numpy")


@dataclass(frozen=True)
class Plan:
    """Settings of one benchmark, checked.

    Args:
        device: "cpu" or "cuda".
        sets: names from `SETS`; none means all that suit the device.
        threads: numbers of threads to measure with, >= 1, on the CPU only; none means torch's own choice.
        rounds: how often every contender steps, >= 1; None means 7 to 60, until 20 seconds are over.
        only: "torch" or "numpy"; None means both.
        compiled: also measure steps that went through torch.compile.
        metrics: measure every metric, on sets of its own, in torch and NumPy, and nothing else.

    Raises:
        ValueError: for anything else.
    """

    device: str = "cpu"
    sets: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    rounds: int | None = None
    only: str | None = None
    compiled: bool = False
    metrics: bool = False

    def __post_init__(self) -> None:
        _one_of("device", self.device, DEVICES)
        for name in self.sets:
            _one_of("set", name, tuple(SETS))
        if self.only is not None:
            _one_of("only", self.only, PARTS)
        for name, value in (*(("threads", n) for n in self.threads), ("rounds", self.rounds)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}.")
        if self.metrics and (self.sets or self.only or self.compiled):
            raise ValueError(
                "metrics are measured on sets of their own, nothing compiled: leave out set, only, compile."
            )
        if self.threads and self.device != "cpu":
            raise ValueError(f"threads are of the cpu: leave them out with device {self.device!r}.")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The sets to measure, in order and without repetition."""
        everything = tuple(name for name in SETS if self.device == "cuda" or name not in CUDA_ONLY)
        return tuple(dict.fromkeys(self.sets)) or everything


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
