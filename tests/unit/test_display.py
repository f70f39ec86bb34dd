"""The messages of a run while it waits and while it trains, on a terminal and in a log file."""

import io
import time
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from dsprune.distillation.capture.build_store import describe_records
from dsprune.ranks.ranks import Ranks
from dsprune.recipe import load_recipe
from dsprune.schedule import Timetable, recipe_timetable
from dsprune.train import display
from dsprune.train.display import Display
from dsprune.utils import console as consoles
from dsprune.utils.console import empty_table, print_table, progress_bar, waiting
from dsprune.zero.launch import describe_joining, describe_loading

METRICS = {"loss": 0.25, "sparsity_prunable": 0.5, "learning_rate": 1e-4, "seconds_per_step": 2.0}


def console(*, terminal: bool, quiet: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, legacy_windows=False, quiet=quiet)


def shown(there: Console) -> str:
    return there.file.getvalue()


@pytest.fixture
def timetable() -> Timetable:
    return recipe_timetable(load_recipe("glue-90", ["budget.steps=100", "budget.epochs=null"]), 10)


def test_a_log_file_is_told_what_is_waited_for_once_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consoles, "PATIENCE", 0.01)
    there = console(terminal=False)
    with waiting(there, "loading [the] model"):
        end = time.monotonic() + 5
        while not shown(there) and time.monotonic() < end:
            time.sleep(0.01)
    assert shown(there) == "loading [the] model ...\n"


@pytest.mark.parametrize("quiet", [True, False])
def test_what_is_quick_is_not_said_in_a_log_file(quiet: bool) -> None:
    there = console(terminal=False, quiet=quiet)
    with waiting(there, "loading the model"):
        pass
    assert shown(there) == ""


def test_a_terminal_shows_it_at_once_and_removes_it() -> None:
    there = console(terminal=True)
    with waiting(there, "loading [the] model"):
        pass
    assert "loading [the] model" in shown(there)
    other = console(terminal=True, quiet=True)
    with waiting(other, "loading"):
        pass
    assert shown(other) == ""


def test_the_bar_shows_loss_sparsity_rate_and_the_time_left(timetable: Timetable) -> None:
    there = console(terminal=True)
    with Display(there, "mine", timetable) as bar:
        bar.step(50)
        bar.log(50, METRICS)
        with bar.doing("evaluating"):
            pass
    for part in ("mine: evaluating", "50/100", "loss 0.2500, sparsity 50.00 %, learning rate 1.00e-04"):
        assert part in shown(there)


def test_a_log_file_gets_a_line_now_and_then(timetable: Timetable, monkeypatch: pytest.MonkeyPatch) -> None:
    there = console(terminal=False)
    with Display(there, "mine", timetable) as bar:
        bar.log(10, METRICS)
        monkeypatch.setattr(display, "EVERY", 0.0)
        bar.log(50, METRICS)
    assert shown(there) == (
        "mine: step 50 of 100, loss 0.2500, sparsity 50.00 %, learning rate 1.00e-04, 0:01:40 left\n"
    )


def test_other_ranks_show_nothing(timetable: Timetable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "EVERY", 0.0)
    for terminal in (True, False):
        there = console(terminal=terminal, quiet=True)
        with Display(there, "mine", timetable) as bar:
            bar.log(10, METRICS)
            with bar.doing("evaluating"):
                pass
        assert shown(there) == ""


def test_fewer_records_than_examples_are_explained() -> None:
    assert describe_records(9062, 9062) == "9,062 records"
    assert describe_records(9060, 9062) == "9,060 records of 9,062 examples (2 repeat the inputs of others)"
    assert describe_records(95, 64, is_all=False) == "95 records, those of the 64 examples among them"
    assert describe_records(9, 10) == "9 records of 10 examples (1 repeats the inputs of others)"


def test_a_start_says_how_many_ranks_it_waits_for() -> None:
    assert describe_joining(Ranks(0, 0, 1)) == "starting DeepSpeed"
    assert describe_joining(Ranks(0, 0, 2)) == "joining 2 ranks"


def test_a_start_says_what_has_to_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    said = describe_loading("bert", offload)
    assert "cpu_adam is compiled first, which takes minutes and happens once" in said
    assert describe_loading("bert", {}) == "loading the model bert"


@pytest.mark.parametrize("terminal", [True, False])
def test_long_work_has_a_line_now_and_then_where_there_is_no_bar(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = console(terminal=terminal)
    with progress_bar(there) as bar:
        task = bar.add_task("teacher", total=2000)
        bar.advance(task, 500)
        monkeypatch.setattr(consoles, "EVERY", 0.0)
        bar.advance(task, 500)
    lines = [line for line in shown(there).splitlines() if "teacher: 1,000 of 2,000" in line]
    assert len(lines) == (0 if terminal else 1)


def test_a_quiet_console_has_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consoles, "EVERY", 0.0)
    there = console(terminal=False, quiet=True)
    with progress_bar(there) as bar:
        bar.advance(bar.add_task("teacher", total=2))
    assert shown(there) == ""


@pytest.mark.parametrize(("width", "terminal", "found"), [(40, True, 52), (80, True, 80), (40, False, 97)])
def test_a_table_breaks_no_word(width: int, terminal: bool, found: int) -> None:
    there = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    table = empty_table(Text("title"))
    for name in ("name", "many words"):
        table.add_column(name, overflow="fold")
    table.add_row("causal-language-modeling-of-40-characters", "word" + 9 * " word")
    print_table(there, table)
    widths = {len(line) for line in shown(there).splitlines() if line}
    assert widths == {found}
    assert ("characters" in shown(there)) is (terminal is False or width > 40)
