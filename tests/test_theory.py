"""Every derivation in theory/ runs, every claim in it holds, and the page that lists them is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

THEORY = Path(__file__).resolve().parents[1] / "theory"
sys.path.insert(0, str(THEORY))

from claims import KINDS, TABLE, Claim, files, main, report, run  # noqa: E402

SLOW = (
    "07b_bias",
    "14_tuning_free",
    "15_unbiased",
    "16b_guarded_steps",
    "17b_noise_in_norms",
)  # long runs; `make theory` makes them all
DERIVATIONS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else []) for path in files()
]


@pytest.mark.parametrize("path", DERIVATIONS)
def test_claims_hold_and_are_listed(path: Path) -> None:
    claims = run(path).claims
    page = TABLE.read_text(encoding="utf-8").replace("\\|", "|")
    assert claims
    assert [claim for claim in claims if not claim.holds] == []
    missing = [claim.text for claim in claims if f"| {claim.text} | {claim.kind} |" not in page]
    assert missing == [], "run `python theory/claims.py --write`"


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("identity", 1 + 1e-12, 1.01),
        ("tight", 1 - 1e-12, 0.99),
        ("upper bound", 0.5, 1.01),
        ("counterexample", 1.01, 1.0),
    ],
)
def test_a_claim_can_fail(kind: str, right: float, wrong: float) -> None:
    assert Claim("", right, 1.0, kind).holds
    assert not Claim("", wrong, 1.0, kind).holds
    assert not Claim("", float("nan"), 1.0, kind).holds
    with pytest.raises(SystemExit, match="1 of 2 claims failed"):
        report([Claim("", right, 1.0, kind), Claim("", wrong, 1.0, kind)])


def test_the_kinds_are_these_four_and_no_others() -> None:
    assert all(Claim("", 1.0, 1.0, kind).holds is (kind != "counterexample") for kind in KINDS)
    with pytest.raises(ValueError, match="identity, tight, upper bound, counterexample"):
        _ = Claim("", 1.0, 1.0, "lower bound").holds


def test_an_unknown_derivation_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["42"])
    assert "01_duality" in capsys.readouterr().err
