"""The scripts of this repository, imported by their path."""

import importlib.util
from pathlib import Path
from types import ModuleType
from unittest import mock

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def table_rows(printed: str) -> list[list[str]]:
    """Return the cells of each row of a table that rich has printed."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]


def written_page(page: ModuleType, name: str, folder: Path) -> str:
    """Let the script of a page write it from the runs in a folder, and return the page, on one line."""
    with mock.patch.object(page, "DOCS", folder):
        page.main(folder)
    return " ".join((folder / name).read_text().split())


def check_follows_from_its_file(page: ModuleType, name: str, folder: Path) -> None:
    """Check that a page in the repository is what its script writes from the runs.csv beside it."""
    file = folder / "runs.csv"
    file.write_bytes((page.HERE / "runs.csv").read_bytes())
    with mock.patch.object(page, "DOCS", folder):
        page.main(folder / "nothing", file)
    assert (folder / name).read_text() == (SCRIPTS.parent / "docs" / name).read_text()
    assert file.read_bytes() == (page.HERE / "runs.csv").read_bytes()


def load(name: str) -> ModuleType:
    """Import a script by its path below `scripts/`, without `.py`."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
