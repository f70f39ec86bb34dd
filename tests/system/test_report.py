"""Reports in a real browser, light and dark: a finished run, a killed one, and twenty runs on a page."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dsprune.commands.report import report
from dsprune.report.drawing import INK, QUIET, SERIES
from dsprune.testing.forked import ForkedRanks
from tests.run_folders import write_run
from tests.system.browser import PROGRAMS, Shown, screenshot, shown

TEACHER = "distillation.teacher=runs/dense/model"


def write(folder: Path, *runs: Path) -> Path:
    report(runs, folder, None, False, Console(quiet=True))
    return folder / "report.html"


@pytest.fixture(scope="module")
def pages(need: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    need(PROGRAMS)
    folder = tmp_path_factory.mktemp("reports")
    runs = folder / "runs"
    for number in range(20):
        method, seed, target = number % 2, number // 2 % 5, (0.8, 0.97)[number // 10]
        names = [f"name=run-{number}", f"seed={seed}", f"tracking.group=method {method}"]
        changed = [f"pruning.sparsity={target}", f"learning_rate.rewind={bool(method)}"]
        write_run(runs, *names, *changed, score=0.9 - target / 10 + method / 50 + seed / 500)
    return {
        "one": write(folder / "one", write_run(folder, "name=one", TEACHER)),
        "killed": write(folder / "killed", write_run(folder, "name=killed", killed_at=77)),
        "dense": write(folder / "dense", write_run(folder, "name=dense", "pruning=null")),
        "twenty": write(folder / "twenty", runs),
    }


@pytest.fixture(scope="module")
def phone(pages: dict[str, Path]) -> dict[str, Shown]:
    return dict(zip(pages, shown([*pages.values()], 390), strict=True))


def headings(document: str) -> Iterator[str]:
    return (re.sub(r"<[^>]*>", "", text).strip() for text in re.findall(r"<h2>(.*?)</h2>", document))


@pytest.mark.parametrize(
    ("name", "sections", "pictures", "said"),
    [
        ("one", ["Timeline", "Layers", "Distillation", "How it was made"], 1, "finished"),
        ("killed", ["Timeline", "Layers", "How it was made"], 1, "unfinished"),
        ("dense", ["Timeline", "Layers", "How it was made"], 1, "Nothing is pruned in this run."),
        ("twenty", ["Comparison", "Timeline", "Runs"], 4, "Accuracy against sparsity"),
    ],
)
def test_a_browser_shows_all_of_it(
    phone: dict[str, Shown], name: str, sections: list[str], pictures: int, said: str
) -> None:
    document = phone[name].document
    assert list(headings(document)) == sections
    svgs = re.findall(r"<svg .*?</svg>", document, re.DOTALL)
    assert len(svgs) == document.count("<svg ") == pictures
    assert said in document
    assert "var(--series-" in document
    assert all(colour not in svg for svg in svgs for colour in (*SERIES, INK, QUIET)), "they follow the page"


@pytest.mark.parametrize("name", ["one", "twenty"])
def test_a_page_follows_light_and_dark(pages: dict[str, Path], name: str) -> None:
    light, dark = (screenshot(pages[name], dark=dark) for dark in (False, True))
    assert light.shape == dark.shape == (1600, 1100, 3)
    assert np.median(light) > 240
    assert np.median(dark) < 40
    for pixels in (light, dark):
        inked = np.abs(pixels.astype(int) - pixels[0, 0]).max(-1) > 60
        assert 0.005 < inked.mean() < 0.5, "something is to be seen on it"
        assert not inked[:, -20:].any(), "and nothing runs over the edge"


def test_a_narrow_screen_scrolls_tables_not_the_page(pages: dict[str, Path]) -> None:
    pixels = screenshot(pages["twenty"], dark=False, width=500)
    assert (np.abs(pixels[:, -12:].astype(int) - pixels[0, 0]).max(-1) <= 60).all()


@pytest.mark.parametrize("name", ["one", "twenty"])
def test_nothing_runs_over_the_edge_of_a_phone(phone: dict[str, Shown], name: str) -> None:
    assert (phone[name].width, phone[name].over) == (390, [])


def test_the_command_writes_page_and_tables(pages: dict[str, Path], tmp_path: Path) -> None:
    runs = pages["twenty"].parent.parent / "runs"
    words = ["report", str(runs), "--output", str(tmp_path / "out"), "--title", "Two methods", "--no-audit"]
    done = ForkedRanks(words, 1, tmp_path / "logs", COLUMNS="200")
    assert done.wait() == [0], done.said()
    assert "method 0" in done.printed()
    assert "<h1>Two methods" in (tmp_path / "out" / "report.html").read_text()
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".html", ".md", ".csv"}
    refused = ForkedRanks(["report", str(tmp_path / "nowhere")], 1, tmp_path / "logs")
    assert refused.wait() == [2], refused.said()
    assert len(refused.error_lines()) == 1
