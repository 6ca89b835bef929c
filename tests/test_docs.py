"""The pages do what they say: their Python runs, their commands work, what they show as output is what comes out.

A page is read from top to bottom. A block that begins with a comment like `# my_rules.py` is a file, written for the
blocks below it; other Python is run; of console blocks the commands `proxmom` and `torchrun` are run; a text block
right below a block is its output, with figures to 3% or a unit of the last digit, integers below ten exactly, and to a
quarter where a page trains a network. `<!-- needs lightning -->` above a block says that it is
run only where that module is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import re
import shlex
import sys
import types
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxmom.cli import main
from tests.started import as_torchrun, commands

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FIGURES = DOCS / "benchmarks"
MADE = {"_build", "gallery", "executed"}  # by Sphinx
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if not MADE & set(page.relative_to(DOCS).parts)]
BLOCK = re.compile(r"^(?:<!-- needs ([\w.]+) -->\n+)?```(\w+)\n(.*?)^```\n", flags=re.MULTILINE | re.DOTALL)
CLOSE = 0.03  # machines round differently, and a run may take a step more
LOOSE = {"train": 0.25, "pinn": 0.25}  # training makes much of a difference in rounding, as of versions of torch
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
pytest.importorskip("torch")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("figures", sorted(FIGURES.glob("*.json")), ids=lambda path: path.name)
def test_benchmark_tables_are_those_of_their_figures(figures: Path) -> None:
    result = CliRunner().invoke(main, ["bench", "--from", str(figures), "--markdown"])
    assert result.exit_code == 0, result.output
    assert figures.with_suffix(".md").read_text() == result.output


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_a_page_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_from_top_to_bottom(page.read_text(), page.stem, tmp_path, monkeypatch)


def read_from_top_to_bottom(text: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    module = types.ModuleType(f"page_{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up by name
    output, end = None, 0
    for block in BLOCK.finditer(text):
        needed, language, code = block.groups()
        if needed and importlib.util.find_spec(needed.partition(".")[0]) is None:
            output = None
            continue
        named = re.match(r"# (\w+\.\w+)\n", code)
        if language == "text" and output is not None and not text[end : block.start()].strip():
            assert_shown(code, output, LOOSE.get(name, CLOSE))
        elif named:
            (folder / named[1]).write_text(code)
        elif language == "python":
            output = run_python(code, name, module)
        elif language == "console":
            output = "".join(run_command(line.split("  #")[0]) for line in code.splitlines())
        end = block.end()
        output = output if language in ("python", "console") and not named else None


def run_python(code: str, name: str, module: types.ModuleType) -> str:
    with redirect_stdout(io.StringIO()) as output:
        exec(compile(code, name, "exec"), vars(module))
    return output.getvalue()


def run_command(line: str) -> str:
    words = shlex.split(line)
    if not words or words[0] not in ("proxmom", "torchrun"):
        return ""
    if words[0] == "proxmom":
        result = CliRunner().invoke(main, words[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
        return result.stdout
    from torch.distributed.run import parse_args  # torchrun's own reading; what it starts begins with torch imported

    given = parse_args(words[1:])
    assert given.standalone
    ranks = as_torchrun(int(given.nproc_per_node))
    for _ in range(3):  # gloo's threads may abort at exit, after all is done: "Leaving" in tutorials/distributed.md
        done = commands([given.training_script, *given.training_script_args], ranks, Path.cwd())
        if not any("terminate called without an active exception" in one.stderr for one in done):
            break
    assert all(one.returncode == 0 for one in done), "".join([line, *(one.stderr for one in done)])
    return "".join(one.stdout for one in done)


def assert_shown(shown: str, output: str, apart: float = CLOSE) -> None:
    """The same words, and figures at most so far apart, relative to what is seen."""
    assert NUMBER.sub("#", shown).split() == NUMBER.sub("#", output).split(), output
    for text, seen in zip(NUMBER.findall(shown), NUMBER.findall(output), strict=True):
        allowed = max(apart * abs(float(seen)), last_digit(text)) * (1 + 1e-9)
        assert abs(float(text) - float(seen)) <= allowed, f"{text} is shown, {seen} seen"


def last_digit(number: str) -> float:
    """The unit of a number's last digit; 0 for integers of one digit, which count things."""
    digits, _, exponent = number.partition("e")
    decimals = len(digits.partition(".")[2])
    return 0.0 if re.fullmatch(r"-?\d", number) else 10.0 ** (int(exponent or 0) - decimals)


@pytest.mark.parametrize(
    ("shown", "seen", "apart", "same"),
    [
        ("1000", "1029", 0.03, True),
        ("1000", "1040", 0.03, False),
        ("1000", "1040", 0.25, True),
        ("26", "27", 0.03, True),
        ("26", "28", 0.03, False),
        ("4", "5", 0.03, False),
        ("0.007", "0.008", 0.03, True),
        ("0.007", "0.009", 0.03, False),
        ("1.2e-05", "1.3e-05", 0.03, True),
        ("1.2e-05", "1.4e-05", 0.03, False),
    ],
)
def test_how_far_a_figure_may_be_from_what_is_seen(shown: str, seen: str, apart: float, same: bool) -> None:
    if same:
        return assert_shown(shown, seen, apart)
    with pytest.raises(AssertionError, match=f"{re.escape(shown)} is shown, {re.escape(seen)} seen"):
        assert_shown(shown, seen, apart)


def test_reading_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(text: str) -> None:
        read_from_top_to_bottom(text, "page", tmp_path, monkeypatch)

    read("```python\n# seven.py\nx = 7\n```\n\n```python\nfrom seven import x\n\nprint(x)\n```\n\n```text\n7\n```\n")
    read("<!-- needs no_such_module -->\n```python\nraise ValueError\n```\n")
    with pytest.raises(AssertionError, match="7 is shown, 4 seen"):
        read("```python\nprint('x', 4)\n```\n\n```text\nx 7\n```\n")
    with pytest.raises(AssertionError):
        read("```python\nprint('x', 4)\n```\n\n```text\ny 4\n```\n")
    with pytest.raises(NameError):
        read("```python\nnothing\n```\n")
    with pytest.raises(AssertionError, match="No such command"):
        read("```console\nproxmom dance\n```\n")


def test_the_notebook_runs() -> None:
    (script,) = (DOCS / "tutorials" / "notebook").glob("*.py")
    cells: dict[str, object] = {"__name__": "notebook"}
    exec(compile(script.read_text(), str(script), "exec"), cells)
    assert "adaptive memory" in cells["study"].table  # type: ignore[attr-defined]


def test_a_figure_at_the_end_of_a_cell_is_a_picture_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sphinx_gallery")
    monkeypatch.syspath_prepend(DOCS)
    from figures import shown  # type: ignore[import-not-found]

    from proxmom import HeavyBall
    from proxmom.draw import draw_model

    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    cell = {"example_globals": {}, "image_path_iterator": iter(paths)}
    settings = {"src_dir": str(tmp_path)}
    assert shown(None, cell, settings) == ""
    cell["example_globals"] = {"___": draw_model(HeavyBall())}
    assert "0.png" in shown(None, cell, settings)
    assert Path(paths[0]).read_bytes().startswith(b"\x89PNG")
    assert shown(None, cell, settings) == ""  # the next cell, which ends with no expression
    assert not Path(paths[1]).exists()


def test_pages_name_files_that_exist() -> None:
    for page in PAGES:
        text = page.read_text()
        included = re.findall(r"\{(?:include|literalinclude)\} (\S+)", text)
        linked = re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)", text)
        for link in [*included, *linked]:
            made = re.fullmatch(r"(?:\.\./)*gallery/(\w+)", link)  # by Sphinx, from a derivation
            there = ROOT / "theory" / f"{made[1]}.py" if made and made[1] != "index" else page.parent / link
            assert there.exists() or link.endswith(("gallery/index", "executed/index")), f"{page.name}: {link}"


def test_every_experiment_has_its_page() -> None:
    pages = "".join(page.read_text() for page in (DOCS / "experiments").glob("*.md"))
    for readme in ROOT.glob("experiments/*/README.md"):
        assert f"{readme.parent.name}/README.md" in pages, readme


def described(reference: str) -> dict[str, set[str] | None]:
    """What the reference describes: for each module the names it lists, or None where it lists all."""
    found: dict[str, set[str] | None] = {}
    for module, names in re.findall(r"automodule:: (\S+)\n +:members:(.*)", reference):
        found[module] = set(names.replace(",", " ").split()) or None
    for place in re.findall(r"py:data:: (\S+)", reference):
        module, _, name = place.rpartition(".")
        if (names := found.get(module)) is not None:
            names.add(name)
    return found


def public_names(module: types.ModuleType) -> list[str]:
    """What a module offers: `__all__` or, without it, the classes and functions that are its own."""
    own = [name for name, thing in vars(module).items() if getattr(thing, "__module__", None) == module.__name__]
    return list(getattr(module, "__all__", [name for name in own if not name.startswith("_")]))


MODULES = ("", ".numpy", ".torch", ".study", ".testing", ".verify", ".draw", ".bench", ".lookup")


@pytest.mark.parametrize("module", [f"proxmom{name}" for name in MODULES])
def test_the_reference_has_every_public_name(module: str) -> None:
    there = described((DOCS / "api.md").read_text())
    offers = importlib.import_module(module)
    for name in public_names(offers):
        home = getattr(getattr(offers, name), "__module__", module)
        lists = [there.get(place, set()) for place in (module, home)]
        assert any(names is None or name in names for names in lists), f"docs/api.md lacks {module}.{name}"


def test_a_name_that_the_reference_lacks_is_found() -> None:
    reference = ".. automodule:: a\n   :members: f, g\n\n.. automodule:: b\n   :members:\n\n.. py:data:: a.X\n"
    assert described(reference) == {"a": {"f", "g", "X"}, "b": None}
    from proxmom import lookup

    assert "find_step_size" in public_names(lookup)
    assert "_find" not in public_names(lookup)


def test_every_command_is_in_the_reference() -> None:
    page = (DOCS / "commands.md").read_text()
    for command in main.commands:
        assert re.search(rf"\{{command\}} {command}$", page, flags=re.MULTILINE), command
