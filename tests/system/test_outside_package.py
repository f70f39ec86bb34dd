"""A method and a task from an installed package: examples/outside_package, as its README says."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from dsprune.commands.cli import run_command
from dsprune.recipe import load_recipe
from dsprune.registry import METHODS, TASKS
from dsprune.testing.forked import ForkedRanks
from dsprune.testing.methods import check_method
from dsprune.testing.tasks import ReadyTask, check_task
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe

ROOT = Path(__file__).resolve().parents[2]
METHOD, TASK = "saliency", "balanced-classification"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the example's installed in it."""
    folder = tmp_path_factory.mktemp("outside")
    source = shutil.copytree(ROOT / "examples" / "outside_package", folder / "source")
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *options,
        "--target",
        str(folder / "site"),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process finds the package, and has imported nothing of it."""
    monkeypatch.syspath_prepend(site)
    yield
    for name in imported():
        del sys.modules[name]


def imported() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "dsprune_example"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that names both, and trains for eight steps."""
    folder = tmp_path_factory.mktemp("recipe")
    data = tiny_sentiment(folder / "data", 64, 16)
    path = write_recipe(
        folder / "outside.yaml", tiny_bert(folder / "bert"), data, budget={"steps": 8, "batch": 16},
        pruning={"method": METHOD, "sparsity": 0.75, "start": 1, "end": 5, "updates": 2},
    )  # fmt: skip
    path.write_text(path.read_text().replace("text-classification", TASK))
    return path


def test_a_recipe_trains_with_its_method_and_its_task(
    site: Path, installed: None, recipe: Path, tmp_path: Path
) -> None:
    command = site / "command.py"  # a process finds what lies beside its script
    command.write_text("from dsprune.commands.cli import main\n\nmain()\n")
    process = ForkedRanks(["train", str(recipe)], 1, tmp_path, script=command)
    assert process.wait() == [0], process.said()
    run = recipe.parent / "runs" / "outside"
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["metrics"]) == ["balanced_accuracy", "accuracy", "f1_macro"]
    assert summary["sparsity"]["prunable"] == 0.75
    assert load_recipe(str(run / "recipe.yaml")).pruning.method == METHOD
    assert run_command(["audit", str(run)]) == 0


def test_both_pass_the_checks_for_methods_and_tasks(installed: None, recipe: Path) -> None:
    check_method(METHODS.get(METHOD)())
    folder = recipe.parent
    settings = {"name": TASK, "max_length": 32}
    settings |= {split: str(folder / "data" / f"{split}.csv") for split in ("train", "validation")}
    check_task(ReadyTask(folder / "bert", settings))


def test_an_unknown_method_is_refused_with_near_names_and_nothing_is_imported(
    installed: None, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["train", str(recipe), "pruning.method=saliancy"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "pruning.method: value 'saliancy': there is no 'saliancy': did you mean 'saliency'? " in line
    assert "magnitude" in line
    assert imported() == []


def test_the_schema_lists_both_and_imports_neither(
    installed: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["schema"]) == 0
    sections = json.loads(capsys.readouterr().out)["$defs"]
    assert METHOD in sections["Pruning"]["properties"]["method"]["enum"]
    assert TASK in sections["Task"]["properties"]["name"]["enum"]
    assert imported() == []


def test_without_the_package_there_are_no_such_names() -> None:
    assert METHOD not in METHODS
    assert TASK not in TASKS
    with pytest.raises(ModuleNotFoundError):
        import_module("dsprune_example")
