"""The documentation is built without a warning, and its pages fit screens and phones."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.scripts import SCRIPTS
from tests.system.browser import PROGRAMS, overflow, screenshot


@pytest.fixture(scope="module")
def site(need: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(PROGRAMS)
    folder = tmp_path_factory.mktemp("docs") / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=SCRIPTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


# The widest pages: code and a drawing, tables of many columns, signatures, pictures.
@pytest.mark.parametrize(
    "page", ["index", "concepts", "notebook", "reference/recipe", "reference/api", "results"]
)
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_runs_over_the_edge(site: Path, page: str, width: int) -> None:
    assert overflow(site / f"{page}.html", width) == (width, [])


def test_it_follows_the_colours_of_the_system(site: Path) -> None:
    light, dark = (
        screenshot(site / "concepts.html", dark=dark, width=1280, height=900) for dark in (False, True)
    )
    assert np.median(light) > 240
    assert np.median(dark) < 60
