"""The page of claims against the repository: its commits, rules, commands, figures and outcomes; and what quotes it."""

from __future__ import annotations

import csv
import io
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from proxmom.cli import main
from proxmom.study.report.power import power_table
from proxmom.study.report.speedrun import speed_table
from proxmom.study.report.write import terminal_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "claims.md"
HEAD = ["claim", "found", "rule", "stood in", "rows in", "outcome"]
OUTCOMES = {"holds", "fails", "undecided", "measured"}
NUMBER = r"[+-]?\d+(?:\.\d+)?"
FIGURE = re.compile(rf"(?<![\w.])({NUMBER})(?: \(|, )({NUMBER}) to ({NUMBER})(?![\w.]*\d)")
RULE = re.compile(r"`(?P<file>experiments/\S+)`(?: (?P<part>\(\w\)))?(?:, over (?P<rival>.+))?")
COMMAND = re.compile(r"`((?:proxmom|python|make) [^`]+)`")
HASH = re.compile(r"`([0-9a-f]{7})`")
WRITTEN = {  # what a script prints is committed: by --tables, which would write it again, or as times of one machine
    "experiments/tuning_free/compare.py": "table.txt",
    "experiments/tuning_free/overhead.py": "overhead.txt",
    "experiments/full_batch/compare.py": "table.txt",
}


@dataclass(frozen=True)
class Claim:
    """A row of the page, and the commands of its section."""

    claim: str
    found: str
    rule: str
    stood: str
    rows: str
    outcome: str
    commands: tuple[str, ...]

    @property
    def parts(self) -> dict[str, str]:
        """file, part and rival of the rule; of a measured figure nothing."""
        match = RULE.fullmatch(self.rule)
        return {key: value for key, value in match.groupdict().items() if value} if match else {}


def words(text: str) -> str:
    return " ".join(text.split())


def read(text: str) -> list[Claim]:
    """All rows of tables with these columns."""
    found = []
    for section in text.split("\n## ")[1:]:
        prose = words(" ".join(line for line in section.splitlines() if not line.startswith("|")))
        rows = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in section.splitlines() if line[:1] == "|"]
        if rows and rows[0] == HEAD:
            printed = re.match(r".*?Printed by (.*?)\. (?=[A-Z*])", f"{prose} X")
            assert printed, f"no commands above the table of {section.splitlines()[0]!r}"
            commands = tuple(COMMAND.findall(printed[1]))
            found += [Claim(*row[:3], *(cell.strip("`") for cell in row[3:]), commands) for row in rows[2:]]
    return found


CLAIMS = read(PAGE.read_text(encoding="utf-8"))
RULED = [claim for claim in CLAIMS if claim.outcome != "measured"]


def named(claim: Claim) -> str:
    return f"{claim.claim[:40]} {claim.found[:12]}"


every = pytest.mark.parametrize("claim", CLAIMS, ids=named)
ruled = pytest.mark.parametrize("claim", RULED, ids=named)


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def history() -> None:
    """Skips where there is no git, no repository of this project, or not all of its history."""
    try:
        top, shallow = (
            git("rev-parse", what).stdout.strip() for what in ("--show-toplevel", "--is-shallow-repository")
        )
    except OSError:
        pytest.skip("no git")
    if not top or Path(top).resolve() != ROOT.resolve() or shallow != "false":
        pytest.skip("no repository with its history")


def at(commit: str, file: str) -> str | None:
    """The file's text in a commit; None if it was not there."""
    shown = git("show", f"{commit}:{file}")
    return shown.stdout if shown.returncode == 0 else None


def ancestor(first: str, second: str) -> bool:
    return git("merge-base", "--is-ancestor", first, second).returncode == 0


def sentence(text: str, file: str, part: str) -> str:
    """The claim of a study file; of a page the point of its list that is this part, or nothing where it has no list."""
    if file.endswith(".toml"):
        return words(tomllib.loads(text)["study"]["claim"])
    point = re.search(rf"^\* {re.escape(part)} .*?(?=\n\*|\n\n)", text, flags=re.MULTILINE | re.DOTALL)
    return words(point[0]) if point else ""


@cache
def printed(command: str) -> str:
    """What a command of the page prints; what takes more than seconds, or writes, is read where it was written."""
    program, *rest = shlex.split(command)
    if program == "python":
        script = ROOT / rest[0]
        if rest[0] in WRITTEN:
            return (script.parent / WRITTEN[rest[0]]).read_text(encoding="utf-8")
        made = subprocess.run([sys.executable, str(script), *rest[1:]], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        return made.stdout
    options = {name: rest[rest.index(name) + 1] for name in ("--reference", "--target") if name in rest}
    reference, folders = options.get("--reference"), [ROOT / word for word in rest if word.startswith("experiments/")]
    if rest[0] == "speedrun":
        return speed_table(folders, reference, float(options["--target"]) if "--target" in options else None)
    return {"report": terminal_table, "power": power_table}[rest[0]](folders, reference)


def is_printed(figure: tuple[str, str, str], text: str) -> bool:
    """Whether a figure stands there with its interval, in brackets or in three columns."""
    mean, low, high = map(re.escape, figure)
    return re.search(rf"(?<![\d.+-]){mean}[\s[(]+{low}(?:,\s+|\s+to\s+|\s+){high}(?![\d.])", text) is not None


def verdicts(claim: Claim) -> Iterator[tuple[str, str]]:
    """Outcome, and what was found, of the verdicts that open the study's table and belong to this row."""
    table = (ROOT / claim.parts["file"]).with_suffix("") / "table.txt"
    top = table.read_text(encoding="utf-8").split("\n\n")[0] if table.is_file() else ""
    for line in re.findall(r"^(?:holds|fails|not enough runs) .*(?:\n {17}.*)*", top, flags=re.MULTILINE):
        outcome, text = re.split(r"\s{2,}", line, maxsplit=1)
        text = words(text)
        rival = claim.parts.get("rival")
        if claim.parts.get("part", "") in text and (rival is None or f" that of {rival}:" in text):
            yield outcome, text.split("Found: ")[1].split(";")[0].rstrip(".")


def test_the_page_has_claims() -> None:
    """Else the tests below would be about nothing."""
    assert len(RULED) > 25
    assert {claim.outcome for claim in CLAIMS} == OUTCOMES
    assert len([claim for claim in CLAIMS if FIGURE.search(claim.found)]) > 50


@every
def test_a_row_is_complete(claim: Claim) -> None:
    assert claim.outcome in OUTCOMES
    assert claim.commands, "a command prints it"
    assert re.fullmatch("[0-9a-f]{7}", claim.rows)
    if claim.outcome == "measured":
        assert (claim.rule, claim.stood) == ("none", "-"), "a rule makes it a claim"
    else:
        assert re.fullmatch("[0-9a-f]{7}", claim.stood)
        assert (ROOT / claim.parts["file"]).is_file()
        part = claim.parts.get("part", "")
        assert part in (ROOT / claim.parts["file"]).read_text(encoding="utf-8")


def test_commits_are_of_this_history(history: None) -> None:
    hashes = set(HASH.findall(PAGE.read_text(encoding="utf-8")))
    assert len(hashes) > 20
    assert [commit for commit in sorted(hashes) if not ancestor(commit, "HEAD")] == []


@ruled
def test_the_rule_stood_before_the_rows(claim: Claim, history: None) -> None:
    file = claim.parts["file"]
    assert claim.stood != claim.rows
    assert ancestor(claim.stood, claim.rows)
    part = claim.parts.get("part", "")
    before, then, today = at(claim.stood, file), at(claim.rows, file), (ROOT / file).read_text(encoding="utf-8")
    assert before is not None
    assert then is not None
    assert part in before
    rule = sentence(before, file, part)
    assert rule in sentence(then, file, part), "the sentence changed before the rows"
    assert rule in sentence(today, file, part), "the sentence changed after the rows"
    study = file.removesuffix("README.md").removesuffix(".toml").rstrip("/")
    known = [
        f"{study}/runs.csv",
        f"{study}/counts.csv",
        *(str(f.relative_to(ROOT)) for f in ROOT.glob(f"{study}-*/runs.csv")),
    ]
    rows = next(name for name in known if (ROOT / name).is_file())
    assert at(claim.rows, rows) is not None, "the rows came with this commit, or before"
    if claim.claim.endswith("from new starts"):
        starts = [{row["seed"] for row in csv.DictReader(io.StringIO(at(c, rows)))} for c in (claim.stood, claim.rows)]
        assert starts[0] < starts[1], "the starts are new ones"
    elif at(claim.stood, rows) is not None:
        assert f"came in one commit, `{claim.stood}`" in words(PAGE.read_text(encoding="utf-8")), "and the page says so"


@pytest.mark.parametrize("command", sorted(set(COMMAND.findall(words(PAGE.read_text(encoding="utf-8"))))))
def test_a_command_exists(command: str) -> None:
    program, *rest = shlex.split(command)
    options = [word for word in rest if word.startswith("--")]
    if program == "proxmom":
        known = {name for option in main.commands[rest[0]].params for name in option.opts}
        assert set(options) <= known
    else:
        assert program == "python"
        assert [name for name in options if f'"{name}"' not in (ROOT / rest[0]).read_text(encoding="utf-8")] == []
    assert [word for word in rest if "/" in word and not (ROOT / word).exists()] == []


@every
def test_figures_are_those_that_the_commands_print(claim: Claim) -> None:
    texts = [printed(command) for command in claim.commands]
    for figure in FIGURE.findall(claim.found):
        assert any(is_printed(figure, text) for text in texts), figure


@pytest.mark.parametrize("claim", [c for c in RULED if "speedrun" in c.rule], ids=named)
def test_a_speed_run_is_decided_by_its_test(claim: Claim) -> None:
    """Student's, one-sided, at 1%; each rival is the reference of one command."""
    [figure] = FIGURE.findall(claim.found)
    of_rival = [text for command in claim.commands for text in [printed(command)] if is_printed(figure, text)]
    [p] = [float(row.split()[-1]) for text in of_rival for row in text.splitlines() if is_printed(figure, row)]
    assert claim.outcome == ("holds" if p < 0.01 else "fails")
    assert f"p {p:g}" in claim.found
    assert all(f"those of '{claim.parts['rival']}'" in words(text) for text in of_rival)


@pytest.mark.parametrize("claim", [c for c in RULED if not re.search("tuning_free|speedrun", c.rule)], ids=named)
def test_outcomes_are_the_verdicts(claim: Claim) -> None:
    """Of the study's table; of a script where a study file cannot say the rule."""
    found = list(verdicts(claim))
    if not found:
        assert any(f"{claim.parts['part']} {claim.outcome}:" in printed(command) for command in claim.commands)
        return
    outcomes = {outcome for outcome, _ in found}
    joint = "fails" if "fails" in outcomes else "holds" if outcomes == {"holds"} else "undecided"
    assert claim.outcome == joint
    told = claim.found.replace("(", "[").replace(" to ", ", ").replace(")", "]")
    assert any(what in claim.found or what in told for _, what in found), f"{claim.found}: not of {found}"


@pytest.mark.parametrize("claim", [c for c in RULED if "at most" in c.claim and FIGURE.search(c.found)], ids=named)
def test_a_bound_decides(claim: Claim) -> None:
    [bound] = re.findall(r"at most ([\d.]+) times", claim.claim)
    means = [float(mean) for mean, _, _ in FIGURE.findall(claim.found)]
    assert claim.outcome == ("holds" if max(means) <= float(bound) else "fails")


def test_comparisons_on_images_are_counted_right() -> None:
    """Level if the interval lies within 0.95 to 1.05, else lower or higher, for adaptive memory, if it excludes 1."""
    lower = higher = level = total = 0
    for study, method in (("sgd_seeds", "AMSGD"), ("adamw_seeds", "AM-AdamW")):
        text = printed(f"proxmom power experiments/vision/{study} --reference {method}")
        for low, high in re.findall(r"^\S.* \[([\d.]+), ([\d.]+)\]", text, flags=re.MULTILINE):
            total += 1
            if float(low) > 0.95 and float(high) < 1.05:
                level += 1
            else:
                lower += float(low) > 1  # the rival's loss over that of adaptive memory
                higher += float(high) < 1
    [row] = [claim for claim in CLAIMS if "decided:" in claim.found]
    decided = lower + higher + level
    assert row.found == f"{decided} of {total} decided: {lower} lower, {higher} higher, {level} level"
    readme, which = (words((ROOT / page).read_text(encoding="utf-8")) for page in ("README.md", "docs/which.md"))
    told = (
        f"of {total} comparisons on four problems {decided} are decided, {lower} for it, {higher} against it, {level}"
    )
    assert told in readme
    assert f"{decided} of {total} comparisons" in which


@pytest.mark.parametrize("page", ["README.md", "docs/which.md"])
def test_figures_of_a_page_stand_among_the_claims(page: str) -> None:
    figures = FIGURE.findall(words((ROOT / page).read_text(encoding="utf-8")))
    assert len(figures) > 15
    known = {figure for claim in CLAIMS for figure in FIGURE.findall(claim.found)}
    assert [figure for figure in figures if figure not in known] == []


def test_the_readme_counts_the_claims() -> None:
    counts = Counter(claim.outcome for claim in RULED)
    told = f"all {len(RULED)}, of which {counts['holds']} hold, {counts['fails']} fail and {counts['undecided']} are"
    assert told in words((ROOT / "README.md").read_text(encoding="utf-8"))


def test_the_headline_has_an_outcome_and_an_interval_in_each_row() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## What holds\n")[1].split("\n\n")[1]
    rows = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in table.splitlines()[2:]]
    assert len(rows) == 3
    for claim, found, against in rows:
        assert claim.startswith("**")
        outcome = found.split(":")[0]
        figures = FIGURE.findall(found)
        assert figures
        assert FIGURE.findall(against)
        for figure in figures:
            assert outcome in {c.outcome for c in CLAIMS if figure in FIGURE.findall(c.found)}, figure
