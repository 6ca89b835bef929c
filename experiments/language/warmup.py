"""What leaving the warm-up out costs each method, and what it costs AM-AdamW less, from the committed rows.

    python experiments/language/warmup.py

Runs nothing. Test losses of `warmup_free/` less those of `small/`, paired by seed, with Student's 95% intervals.
"""

from __future__ import annotations

from pathlib import Path

from proxmom.study.report.results import Losses
from proxmom.study.report.sources import merge, read_source
from proxmom.study.report.statistics import Array, t_mean

HERE = Path(__file__).resolve().parent
OURS, RIVAL = "AM-AdamW", "AdamW 0.9"


def losses(folder: Path) -> dict[str, Array]:
    """By method, the test losses of its final runs, by seed."""
    results = merge([read_source(folder)])
    assert isinstance(results, Losses)
    assert results.seeds == (1, 2, 3, 4, 5), "pairs are of equal seeds"
    return dict(zip(results.methods, results.values[0], strict=True))


def told(label: str, values: Array) -> str:
    found = t_mean(values)
    return f"{label:46}{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def main() -> None:
    with_it, without = losses(HERE / "small"), losses(HERE / "warmup_free")
    costs = {method: without[method] - with_it[method] for method in (OURS, RIVAL)}
    for method, cost in costs.items():
        print(told(f"leaving warm-up out costs {method}", cost))
    less = costs[OURS] - costs[RIVAL]
    print(told(f"... {OURS} less than {RIVAL}", less))
    print(f"(3) {'holds' if less.mean() < 0 else 'fails'}: it costs {OURS} less in the mean")


if __name__ == "__main__":
    main()
