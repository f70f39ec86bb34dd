"""Each folder imports only from its layer and below, and fast commands import nothing slow."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "dsprune"

DEEPSPEED_NAMES = re.compile(
    r"_hp_mapping|\bds_(?:tensor|shape|numel|id|ctx|status)\b|\bfp(?:16|32)_\w*|\w*_groups_flat\b"
    r"|single_partition_of|param_slice_mappings|grad_position|partition_numel|norm_for_param_grads"
    r"|_(?:model|optim)_states|mp_rank|pp_rank|build_shm_op|CPUAdam|op_builder|installed_ops"
    r"|deepspeed\.(?:runtime|ops|utils|launcher|accelerator|git_version_info)"
)
"""Names that are private to a release of DeepSpeed: attributes, files, parts of its extensions and launcher."""

READERS = ("zero/", "checkpoint/deepspeed_files.py")
"""The files that may use these names; see "A new DeepSpeed release" in the README."""


def lines_with(pattern: re.Pattern[str], *, outside: tuple[str, ...]) -> list[str]:
    """The lines of the package that match a pattern, except in some folders and files."""
    return [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if not str(path.relative_to(PACKAGE)).startswith(outside)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]


def test_private_names_of_deepspeed_stand_in_one_place() -> None:
    assert lines_with(DEEPSPEED_NAMES, outside=(*READERS, "testing/")) == []


@pytest.mark.parametrize("reader", READERS)
def test_the_search_finds_such_names(reader: str) -> None:
    others = tuple(other for other in READERS if other != reader)
    assert any(line.startswith(reader) for line in lines_with(DEEPSPEED_NAMES, outside=others))


def test_collectives_are_called_in_ranks_and_zero_alone() -> None:
    collectives = re.compile(
        r"import torch\.distributed|from torch\.distributed|from torch import distributed"
    )
    assert lines_with(collectives, outside=("ranks/", "zero/", "testing/")) == []


def test_an_upward_import_breaks_the_contract(tmp_path: Path) -> None:
    copied = tmp_path / "dsprune"
    subprocess.run(["cp", "-r", str(PACKAGE), str(copied)], check=True)
    (tmp_path / "pyproject.toml").write_bytes((PACKAGE.parent / "pyproject.toml").read_bytes())
    assert lint_imports(tmp_path).returncode == 0
    with (copied / "masks" / "bits.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom dsprune.engine import pruner\n")
    broken = lint_imports(tmp_path)
    assert broken.returncode == 1
    assert "dsprune.masks is not allowed to import dsprune.engine" in broken.stdout


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contract of a checkout."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()"]
    return subprocess.run([*command, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


SLOW = ("torch", "deepspeed", "transformers", "datasets", "pyarrow", "wandb", "matplotlib", "numpy")
HELP = """
sys.argv = ["dsprune", "--help"]
from dsprune.commands.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize(
    "what",
    ["import dsprune; dsprune.UserError", "import dsprune; dsprune.load_recipe('sentiment-90')", HELP],
    ids=["import", "recipe", "help"],
)
def test_what_must_be_quick_imports_nothing_slow(what: str) -> None:
    program = f"import sys\n{what}\nprint([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
