"""The documentation is built without a warning, and its pages fit screens and phones."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.scripts import SCRIPTS
from tests.system.browser import PROGRAMS, Shown, screenshot, shown

# The widest pages: code and a drawing, tables of many columns, signatures, pictures.
PAGES = ["index", "concepts", "notebook", "reference/recipe", "reference/api", "results"]


@pytest.fixture(scope="module")
def site(need: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(PROGRAMS)
    folder = tmp_path_factory.mktemp("docs") / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=SCRIPTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module", params=[390, 1280])
def screen(site: Path, request: pytest.FixtureRequest) -> tuple[int, dict[str, Shown]]:
    """The width of a screen, and what it shows of each page."""
    seen = shown([site / f"{page}.html" for page in PAGES], request.param)
    return request.param, dict(zip(PAGES, seen, strict=True))


@pytest.mark.parametrize("page", PAGES)
def test_nothing_runs_over_the_edge(screen: tuple[int, dict[str, Shown]], page: str) -> None:
    width, pages = screen
    assert (pages[page].width, pages[page].over) == (width, [])


def test_it_follows_the_colours_of_the_system(site: Path) -> None:
    light, dark = (
        screenshot(site / "concepts.html", dark=dark, width=1280, height=900) for dark in (False, True)
    )
    assert np.median(light) > 240
    assert np.median(dark) < 60
