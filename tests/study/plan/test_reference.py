"""The page on study files says what the code that reads them takes: each key, its kind, its default, each problem."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from proxmom.study.methods.method import SCIPY, SOLVERS
from proxmom.study.plan import config, decisions
from proxmom.study.plan.config import StudyError, load_study
from proxmom.study.plan.entries import DETERMINISTIC, TRAINING
from proxmom.study.plan.reference import DECIDE, EVALUATIONS, KINDS, MEASURES, METHOD, SEARCH, STUDY, TRAINS, page
from proxmom.study.problems.collection import PROBLEMS
from proxmom.study.training import SCHEDULES, TASKS
from proxmom.study.training.tasks import OF_THE_RUN
from tests.study.conftest import SMALL, SMALL_TRAINED

PAGE = Path(__file__).parents[3] / "docs" / "study.md"
WRONG = {"a text": "3", "a whole number": "1.5", "a number": '"x"', "a table": "3", "a list": "3"}


def test_the_page_is_what_the_code_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m proxmom.study.plan.reference > docs/study.md"


def test_every_key_of_the_study_is_there_and_no_other() -> None:
    assert set(STUDY) == set(config._STUDY)
    assert set(EVALUATIONS) == set(config._EVALUATIONS)
    assert set(TRAINS) == set(config._TRAINING)


def test_every_key_of_a_method_is_there_and_no_other() -> None:
    kinds = [*DETERMINISTIC.kinds.items(), *TRAINING.kinds.items()]
    assert {key for _, keys in kinds for key in keys} == set(METHOD)
    assert {kind for kind, _ in kinds} == set(KINDS)
    for name in (*SOLVERS, *SCIPY):
        assert f"`{name}`" in page()
    assert all(f"`{name}`" in TRAINS["schedule"].meaning for name in SCHEDULES)


def test_every_key_of_a_decision_is_there_and_no_other() -> None:
    assert list(DECIDE) == list(decisions.KEYS)
    assert set(MEASURES) == {*decisions.COUNTING, *decisions.TRAINED}
    said = page().partition("\n## `[[decide]]`\n")[2]
    convex, _, trained = said.partition("Measures of convex studies:")[2].partition("Measures of training studies:")
    for names, part in ((decisions.COUNTING, convex), (decisions.TRAINED, trained)):
        assert re.findall(r"^\* `([^`]+)`", part, re.MULTILINE) == list(names)
    assert all(f"`{way}`" in DECIDE["by"].meaning for way in decisions.WAYS)
    assert all(f"**{word}**" in said for word in (decisions.HOLDS, decisions.FAILS, decisions.OPEN))


def test_the_example_of_a_decision_is_read(study: Any) -> None:
    example = page().partition("\n## `[[decide]]`\n")[2].partition("```toml\n")[2].partition("```")[0]
    named = {"adaptive memory": "NAG", "heavy ball 0.9": "truncated", "heavy ball, tuned": "heavy ball"}
    for name, ours in named.items():
        example = example.replace(f'"{name}"', f'"{ours}"')
    assert len(load_study(study(f"{SMALL}\n{example}")).decisions) == 2


@pytest.mark.parametrize("key", DECIDE)
def test_kinds_of_a_decisions_keys_are_checked(study: Any, key: str) -> None:
    values = {"measure": '"evaluations"', "method": '"NAG"', "over": '"heavy ball"', "below": "1", "share": "1"}
    if key in decisions.BOUNDS:
        del values["below"]
    table = "".join(f"{name} = {value}\n" for name, value in (values | {key: WRONG[DECIDE[key].kind]}).items())
    with pytest.raises(StudyError, match=rf"{key} must be {DECIDE[key].kind}, got"):
        load_study(study(f"{SMALL}\n[[decide]]\n{table}"))


def section(kind: str, title: str) -> str:
    """What the page says of a kind of problem."""
    part = page().partition(f"\n{title}\n")[2].partition("\n## ")[0]
    return re.split(r"\n### ", part.partition(f'### `kind = "{kind}"`\n')[2])[0]


@pytest.mark.parametrize("title", ["## `[[problem]]`", "## `[[problem]]` of training studies"])
def test_every_problem_is_there_with_its_arguments(title: str) -> None:
    trains = title.endswith("studies")
    for kind, builder in (TASKS if trains else PROBLEMS).items():
        said = section(kind, title).splitlines()[-2]
        takes = [name for name in inspect.signature(builder).parameters if name not in OF_THE_RUN or not trains]
        assert [each.partition(" = ")[0] for each in said.split(", ")] == [n for n in takes if n != "data_dir"], kind
        assert inspect.getdoc(builder).splitlines()[0] in section(kind, title)  # type: ignore[union-attr]


def test_defaults_of_the_study_are_those_that_it_has_without_the_key(study: Any) -> None:
    read = load_study(study(SMALL_TRAINED))
    for key in ("search_seeds", "schedule", "warmup", "device"):
        assert TRAINS[key].default == str(getattr(read.training, key))
    assert (STUDY["seed"].default, TRAINS["targets"].default) == (str(read.seed), str(list(read.training.targets)))  # type: ignore[union-attr]


@pytest.mark.parametrize("text", [SMALL, SMALL_TRAINED], ids=["convex", "training"])
@pytest.mark.parametrize("key", [*STUDY, *EVALUATIONS, *TRAINS])
def test_what_is_needed_is_needed_and_kinds_are_checked(study: Any, text: str, key: str) -> None:
    own = STUDY | (TRAINS if text is SMALL_TRAINED else EVALUATIONS)
    if key not in own:
        return
    without = re.sub(rf"^{key} = .*\n", "", text, count=1, flags=re.MULTILINE)
    head = "[study]\n"
    if own[key].default == "needed":
        with pytest.raises(StudyError, match=key if key != "steps" else "seeds belongs to"):
            load_study(study(without))
    with pytest.raises(StudyError, match=rf"{key} must be {own[key].kind}, got"):
        load_study(study(without.replace(head, f"{head}{key} = {WRONG[own[key].kind]}\n")))


@pytest.mark.parametrize(
    ("dialect", "text"), [(DETERMINISTIC, SMALL), (TRAINING, SMALL_TRAINED)], ids=["convex", "training"]
)
def test_kinds_of_a_methods_keys_are_checked(study: Any, dialect: Any, text: str) -> None:
    head = text[: text.index("[[method]]")] + '[[method]]\nname = "M"\nrule = "HeavyBall"\n'
    for key in dialect.kinds["rule"]:
        wrong = f"{key} = {WRONG[METHOD[key].kind]}\n"
        lr = "" if key == "lr" else "lr = 1\n"
        with pytest.raises(StudyError, match=rf"{key} must be {METHOD[key].kind}, got"):
            load_study(study(head + lr + wrong))
    for key in SEARCH:
        ends = {"low": "1", "high": "2", "scale": '"log"'} | {key: WRONG[SEARCH[key].kind]}
        table = ", ".join(f"{name} = {value}" for name, value in ends.items())
        with pytest.raises(StudyError, match=f"{key} must be {SEARCH[key].kind}, got"):
            load_study(study(f"{head}search = {{lr = {{{table}}}}}\n"))
