"""The notebook runs from its first to its last cell, and its stored outputs are those of its cells."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from dsprune.testing.forked import ForkedRanks
from tests.scripts import SCRIPTS

NOTEBOOK = SCRIPTS.parent / "examples" / "notebook.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def run(source: str, names: dict[str, Any], log: Path) -> None:
    """Run a cell as Jupyter does: Python, or commands of the shell after `%%bash`."""
    magic, _, commands = source.partition("\n")
    if magic != "%%bash":
        exec(source, names)
        return
    for line in commands.replace("\\\n", " ").splitlines():
        command, *words = shlex.split(line)
        done = ForkedRanks(words, 1, log)
        assert (command, done.wait()) == ("dsprune", [0]), f"{line}\n{done.said()}"
        assert "built successfully" not in done.said(), "DeepSpeed's own lines"


def test_the_notebook_runs(
    cells: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    names: dict[str, Any] = {}
    for cell in cells:
        run("".join(cell["source"]), names, tmp_path / "logs")
    assert names["accuracy"](names["sparse"]) > names["accuracy"](names["dense"]) + 0.1, (
        "recovery is worth something"
    )
    assert names["zeros"] == round(0.9 * len(names["weights"]))
    assert "with dsprune" in capsys.readouterr().out
    assert Path("page/report.html").exists()


def test_its_outputs_are_there_and_name_no_path_of_a_machine(cells: list[dict[str, Any]]) -> None:
    outputs = json.dumps([cell["outputs"] for cell in cells])
    assert "90 % sparse, with dsprune" in outputs
    assert "image/png" in outputs
    assert not re.findall(r"/(?:home|root|tmp|work)/|rror", outputs)
