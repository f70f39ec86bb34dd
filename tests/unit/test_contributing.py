"""CONTRIBUTING.md names existing files and code, and the layers of the import contract."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = re.sub(r"^```.*?^```", "", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL | re.MULTILINE)
QUOTED = list(dict.fromkeys(re.findall(r"`([^`\n]+)`", PAGE)))
NAMES = [text for text in QUOTED if re.fullmatch(r"[\w./-]+\.py:[\w.]+", text)]
PATHS = [text for text in QUOTED if re.fullmatch(r"[\w./-]*(/[\w.-]*|\.(py|toml|md|sh|yaml))", text)]


def defined(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """The names that statements define."""
    found: dict[str, ast.stmt] = {}
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {target.id: statement for target in targets if isinstance(target, ast.Name)}
    return found


def test_the_page_names_files_and_code_and_fits_one_page() -> None:
    assert len(PATHS) >= 20
    assert len(NAMES) >= 20
    assert set(QUOTED) >= {"dsprune/registry.py:METHODS", "dsprune/zero/"}
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("path", PATHS)
def test_every_path_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_defined_in_its_file(name: str) -> None:
    path, _, identifier = name.partition(":")
    body = ast.parse((ROOT / path).read_text()).body
    for part in identifier.split("."):
        names = defined(body)
        assert part in names, f"{path} defines {', '.join(names)}"
        body = getattr(names[part], "body", [])


def test_everything_with_a_slash_or_a_suffix_is_checked() -> None:
    placeholders = {"dsprune/methods/<name>.py"}
    unchecked = {text for text in QUOTED if "/" in text or re.search(r"\.\w+(:|$)", text)}
    unchecked -= {*PATHS, *NAMES, *placeholders}
    assert unchecked <= {"dsprune.methods", "dsprune.tasks", "pruning.method"}, "dotted names of other kinds"


def test_the_floors_are_those_of_the_contract() -> None:
    [contract] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = [layer.removeprefix("dsprune.") for layer in contract["layers"]]
    assert re.findall(r"`(\w+)`", PAGE.partition("## Layers")[2].partition(": ")[2]) == floors
