"""Who imports what: helpers of tests, the client of wandb, and libraries that are slow to load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imports(path: Path) -> Iterator[str]:
    """The full names that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("folder", ["scripts", "examples", "dsprune"])
def test_nothing_but_tests_imports_tests_or_scripts(folder: str) -> None:
    others = ("tests.",) if folder == "scripts" else ("tests.", "scripts.")
    found = [(path, name) for path in (ROOT / folder).rglob("*.py") for name in imports(path)]
    assert found
    assert not [(path, name) for path, name in found if name.startswith(others)]


def test_a_test_imports_helpers_of_its_own_folder_or_one_above_it() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        folder = ".".join(path.parent.relative_to(ROOT).parts)
        for name in imports(path):
            assert not name.startswith("scripts."), path
            if name.startswith("tests."):
                home = name.rsplit(".", 2)[0]
                assert f"{folder}.".startswith(f"{home}."), f"{path}: {name}"
                assert ".test_" not in name, f"{path}: {name}"


def test_one_module_imports_the_client_of_wandb() -> None:
    package = ROOT / "dsprune"
    found = {
        path.name
        for path in package.rglob("*.py")
        if any(name.split(".")[0] == "wandb" for name in imports(path))
    }
    assert found == {"wandb_tracker.py"}


MODELS = {"transformers", "datasets", "deepspeed"}
RARE = {"matplotlib", "torchmetrics", "sacrebleu", "wandb", "torch._inductor.select_algorithm"}
REFUSED = """
from dsprune.commands.cli import run_command
assert run_command(["train", "nowhere.yaml"]) == 2
"""
TRAINING = """
import dsprune.commands.plan.plan, dsprune.train.train, dsprune.registry
from dsprune.zero.ops import import_muon
for name in dsprune.registry.TASKS:
    dsprune.registry.TASKS.get(name)
import_muon()
"""


@pytest.mark.parametrize(
    ("code", "unused"),
    [
        pytest.param("import dsprune.commands.cli", MODELS | {"torch"}, id="--help"),
        pytest.param(REFUSED, MODELS | {"torch"}, id="train with a wrong recipe"),
        pytest.param(
            "from dsprune.recipe import recipe_schema; recipe_schema()", MODELS | {"torch"}, id="schema"
        ),
        pytest.param("import dsprune.commands.submit", MODELS | {"torch"}, id="submit"),
        pytest.param("import dsprune.commands.suite.suite", MODELS | {"torch"}, id="suite --dry-run"),
        pytest.param("import dsprune.commands.status", MODELS, id="status"),
        pytest.param("import dsprune.commands.report", MODELS, id="report"),
        pytest.param("from dsprune import read_compact", MODELS, id="read_compact"),
        pytest.param(TRAINING, RARE, id="plan, train"),
    ],
)
def test_a_start_loads_no_library_before_it_is_used(code: str, unused: set[str]) -> None:
    script = f"{code}\nimport sys\nprint('loaded:', *sorted({unused} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "loaded:"
