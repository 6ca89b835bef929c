"""A training study's file is checked in full, and every complaint names its line."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import StudyError, load_study
from proxmom.study.record.run import Ending
from proxmom.study.record.store import RunWriter, load_runs
from tests.study.training.studies.conftest import NETWORK, SEARCH, SMALL, run

LR = "lr = {low = 1e-3, high = 1,"
BAD = [  # what is replaced, by what, and the message; its line is that of the last line put in
    ("steps = 20", "steps = 20\nmax_evaluations = 9", r"max_evaluations does not go with steps: .* keep one"),
    ("steps = 20", "steps = 20\ntarget = 0.1", r"target does not go with steps"),
    ("steps = 20", "steps = 0", r"steps must be >= 1, got 0"),
    ("seeds = 2", "seeds = 0", r"seeds must be >= 1, got 0"),
    ("seeds = 2", "seeds = 2.5", r"seeds must be a whole number, got 2.5"),
    (
        "seeds = 2",
        "sedes = 2",
        r"unknown key 'sedes' in \[study\]; valid keys: name, .* steps, seeds, search_seeds, sch",
    ),
    ("seeds = 2", "seeds = 2\nsearch_seeds = 0", r"search_seeds must be >= 1 and <= 100, got 0"),
    ("seeds = 2", "seeds = 2\nsearch_seeds = 101", r"search_seeds must be >= 1 and <= 100, got 101"),
    ("seeds = 2", "seeds = 2\nsearch_seeds = 1.5", r"search_seeds must be a whole number, got 1.5"),
    ("seeds = 2", "search_seeds = 2\nseeds = 101", r"seeds must be <= 100 beside search_seeds > 1, .* 101 on, got 101"),
    ('"cosine"', '"cosinus"', r"schedule must be one of constant, linear, cosine, inverse-sqrt, got 'cosinus'"),
    ("warmup = 0.1", "warmup = 1", r"warmup must be a share of the steps, >= 0 and < 1, got 1"),
    ("warmup = 0.1", 'device = "tpu"', r"device must be one of cpu, cuda, got 'tpu'"),
    ("warmup = 0.1", "targets = [0.1, -1]", r"targets must be validation losses > 0, got \[0.1, -1\]"),
    ('kind = "logistic"', 'kind = "logit"', r"unknown kind of problem 'logit'; valid kinds: mlp, cnn, language, log"),
    ('"logistic"\nbatch = 16', '"quadratic"', r"'quadratic'; valid kinds: .*leave steps out for a deterministic"),
    ("batch = 16", "btach = 16", r"unknown key 'btach' in \[\[problem\]\]; valid keys: kind, name, data, l2"),
    ("batch = 16", "seed = 3", r"unknown key 'seed' in \[\[problem\]\]"),
    ('scope = "tensor"', 'scope = "layer"', r"scope must be one of 'model', 'group', 'tensor', got 'layer'"),
    ('metric = "Adam"', 'metric = "Adams"', r"metric must be one of Euclidean, Adam.* got 'Adams'"),
    ('rule = "AdaptiveMemory"', 'rule = "AdaptivMemory"', r"rule must be one of .* got 'AdaptivMemory'"),
    ('rule = "AdaptiveMemory"', 'solver = "nag-restart"', r"a solver counts evaluations .*: in a training study give"),
    ('rule = "AdaptiveMemory"', 'scipy = "CG"', r"scipy counts evaluations of one function"),
    ('"torch.optim:SGD"', '"torch.optim:SDG"', r"'SGD' cannot run: .* torch.optim has no 'SDG'"),
    ('"torch.optim:SGD"', '"Adam"', r"optimizer must be one of AMSGD, AMAdamW"),
    (
        'torch = "torch.optim:SGD"',
        'rule = "HeavyBall"\ntorch = "torch.optim:SGD"',
        r"exactly one of rule, torch, got rule and torch",
    ),
    ('"torch.optim:SGD"', '"torch.optim:SGD"\nscope = "model"', r"unknown key 'scope' in a \[\[method\]\] with torch"),
    (
        '"torch.optim:SGD"',
        '"AMSGD"\nfreeze = ["momentum"]',
        r"freeze needs a rule, got torch = 'AMSGD': write it as rule",
    ),
    ('"torch.optim:SGD"', '"torch.optim:SGD"\nfreeze = ["lr"]', r"freeze needs a rule, got torch = 'torch.optim:SGD'"),
    ("momentum = 0.9", "momemtum = 0.9", r"'SGD' cannot run: .*'momemtum'"),
    ("{beta1 = 0.8, weight_decay = 0.0}", "{beta1 = 0.8, lr = 1}", r"lr is given twice; keep one"),
    ("{beta1 = 0.8, weight_decay = 0.0}", "{beta1 = 1.8}", r"'Adam' cannot run: .*1.8"),
    (LR, LR.replace("1e-3", "2"), r"search.lr must have low < high, got 2 and 1"),
    ('lr = 1e-2\nschedule = "constant"', 'lr = 1e-2\nschedule = "none"', r"schedule must be one of .*, got 'none'"),
    ("warmup = 0\n", "warmup = -0.1\n", r"warmup must be a share of the steps"),
    ("lr = 1e-2", "lr = -1", r"'Adam' cannot run: .*-1"),
    (SEARCH, SEARCH + "\ndefaults = {beta_max = 0.8}", r"defaults must give lr, as it is searched"),
    ('reference = "SGD"', 'reference = "sgd"', r"got 'sgd'; methods: adaptive, SGD, Adam"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[new.splitlines()[-1] for _, new, _ in BAD])
def test_every_mistake_is_named_with_file_and_line(
    study: Any, tmp_path: Path, old: Any, new: Any, message: str
) -> None:
    assert old in SMALL
    text = SMALL.replace(old, new, 1)
    line = text[: SMALL.index(old) + len(new.rstrip())].count("\n") + 1
    with pytest.raises(StudyError, match=rf"study.toml, line {line}: .*{message}"):
        run(study(text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("seeds = 2\n", "", 1, r"\[study\] lacks the key 'seeds': it must be a whole number"),
        ("steps = 20\n", "", 5, r"seeds belongs to training studies, which give steps instead of a target"),
        ("momentum = 0.9", "lr = 0.1", 27, r"lr is both fixed and searched; keep one"),
        ("lr = 1e-2\n", "", 29, r"method 'Adam' has no lr: set lr or search.lr\.$"),
        ("batch = 16", "batch = 0", 11, r"batch must be >= 1"),
        ("batch = 16", 'data = "none.libsvm"', 11, r"got 'none.libsvm': the path is relative, and no data directory"),
        ("batch = 16", 'name = "twice"\n\n[[problem]]\nkind = "mlp"\nname = "twice"', 17, r"'twice' stands for two"),
        (SEARCH, 'lr = 1\narguments = {lower_bound = "optimum"}', 22, r"'adaptive' cannot run: .*'lower_bound'"),
    ],
    ids=lambda value: str(value).splitlines()[0] if value else "nothing",
)
def test_what_is_wrong_elsewhere_is_named_where_it_belongs(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: Any, new: Any, line: Any, message: str
) -> None:
    monkeypatch.delenv("PROXMOM_DATA", raising=False)
    with pytest.raises(StudyError, match=f"study.toml, line {line}: .*{message}"):
        run(study(SMALL.replace(old, new, 1)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_search_seed_leaves_all_others_to_the_final_runs(study: Any) -> None:
    for text in ("seeds = 101", "seeds = 101\nsearch_seeds = 1"):
        training = load_study(study(SMALL.replace("seeds = 2", text))).training
        assert (training.seeds, training.tried_seeds) == (101, (0,))


def test_another_length_is_another_study_that_says_so(study: Any, tmp_path: Path) -> None:
    longer = SMALL.replace("steps = 20", "steps = 35").replace('name = "small"', 'name = "small-35"')
    asked, written = load_study(study(), steps=35), load_study(study(longer, "longer.toml"))
    assert (asked.name, asked.text, asked.runs) == ("small-35", longer, written.runs)
    keys = [[cell.key for cell in plan(each)] for each in (asked, written, load_study(study()))]
    assert keys[0] == keys[1] != keys[2]
    commented = SMALL.replace("steps = 20", "steps = 1_000  # 20 are too few").replace('"small"', "'small-20'")
    again = load_study(study(commented), steps=35)
    assert (again.name, again.training and again.training.steps) == ("small-20-35", 35)
    assert "steps = 35  # 20 are too few\n" in again.text


def test_another_length_needs_a_training_study_and_a_line_that_says_how_long_it_is(study: Any) -> None:
    with pytest.raises(StudyError, match="another number of steps is for a training study"):
        load_study(study(DETERMINISTIC), steps=5)
    head, _, rest = SMALL.partition("\n\n")
    inline = "study = {" + ", ".join(head.splitlines()[1:]) + "}\n\n" + rest
    assert load_study(study(inline)).name == "small"
    with pytest.raises(StudyError, match=r"must give steps on a line of its own"):
        load_study(study(inline), steps=5)
    claim = "claim = '''\nsteps = 1\nname = \"x\"\n'''"  # its lines look like keys after the quotes of the comment
    hidden = SMALL.replace("[study]\n", "[study]\n# '''\n").replace('claim = "for tests"', claim)
    for text in (SMALL.replace("steps = 20", "steps = 0x14"), SMALL.replace('"small"', '"""small"""'), hidden):
        assert load_study(study(text)).name == "small"
        with pytest.raises(StudyError, match=r"written plainly in \[study\]"):
            load_study(study(text), steps=5)


def test_an_optimum_that_nobody_knows_is_refused(study: Any) -> None:
    text = SMALL.replace("AdaptiveMemory", "MoMo").replace('inertia = 0.1\nscope = "tensor"\n', "")
    text = text.replace(SEARCH, SEARCH + '\narguments = {lower_bound = "optimum"}')
    assert load_study(study(text)).methods[0].configuration["arguments"] == {"lower_bound": "optimum"}
    with pytest.raises(StudyError, match=r"line 24: 'optimum' needs problems whose optimum is known, .*'mlp' is not"):
        load_study(study(text.replace("[[problem]]", NETWORK + "[[problem]]", 1)))


def test_a_gpu_that_is_not_there_is_missed_before_anything_is_written(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    text = SMALL.replace("warmup = 0.1", 'device = "cuda"')
    with pytest.raises(StudyError, match="line 11: a logistic problem is trained on the CPU: device must be 'cpu'"):
        load_study(study(text))
    network = text.replace('[[problem]]\nkind = "logistic"\nbatch = 16\n', NETWORK)
    with pytest.raises(StudyError, match=r"device 'cuda' in \[study\] needs a GPU, and torch .* sees none here"):
        run(study(network), tmp_path / "out")
    assert not (tmp_path / "out").exists()


DETERMINISTIC = """\
[study]
name = "small"
claim = "for tests"
points = 3
max_evaluations = 60
target = 1e-3
reference = "HB"

[[problem]]
kind = "quadratic"

[[method]]
name = "HB"
rule = "HeavyBall"
lr = 1
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr = 1", 'lr = 1\nscope = "tensor"', r"scope belongs to training studies"),
        ("lr = 1", 'lr = 1\nschedule = "cosine"', r"schedule belongs to training studies, .* here lr is constant"),
        ("target = 1e-3", "target = 1e-3\nsearch_seeds = 3", r"search_seeds belongs to training studies, which give"),
        ("target = 1e-3", "target = 1e-3\nseeds = 3", r"seeds belongs to training studies, which give steps"),
        ('"quadratic"', '"mlp"', r"unknown kind of problem 'mlp'"),
    ],
)
def test_what_belongs_to_training_is_refused_elsewhere(study: Any, old: Any, new: Any, message: str) -> None:
    text = DETERMINISTIC.replace(old, new)
    line = text[: DETERMINISTIC.index(old) + len(new)].count("\n") + 1
    with pytest.raises(StudyError, match=f"study.toml, line {line}: {message}"):
        load_study(study(text))


def test_a_study_without_an_end_is_told_of_both_kinds(study: Any) -> None:
    text = DETERMINISTIC.replace("max_evaluations = 60\ntarget = 1e-3\n", "")
    with pytest.raises(
        StudyError, match=r"line 1: \[study\] needs max_evaluations and target, or, to train, steps and"
    ):
        load_study(study(text))


def test_studies_that_do_not_train_do_not_import_torch(study: Any) -> None:
    code = f"import sys; from proxmom.study.run.runner import load_study; load_study({str(study(DETERMINISTIC))!r}); "
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


def test_numbers_of_a_curve_that_are_missing_are_nan(tmp_path: Path) -> None:
    configuration = {"problem": {}, "method": {}, "point": {}, "steps": 2}
    description = {"key": "k", "configuration": configuration, "provenance": {}, "seed": 0, "problem": "p"}
    with RunWriter(tmp_path / "runs/k", {**description, "method": "m", "point_index": 0}) as writer:
        writer.record({"step": 1, "seconds": 0.1, "train": math.inf, "validation": 1.0, "beta": None})
        writer.record({"step": 2, "seconds": 0.2, "train": 1.0, "validation": 2.0, "beta": [0.5, math.nan]})
        writer.finish(Ending("diverged", 2, 1.0, 0.2, "", final={"validation loss": math.inf}))
    [run_] = load_runs(tmp_path)
    assert np.isnan(run_.curve()["beta"]).tolist() == [[True, True], [False, True]]
    assert np.isnan(run_.curve()["train"]).tolist() == [True, False]
    assert math.isnan(run_.final["validation loss"])
