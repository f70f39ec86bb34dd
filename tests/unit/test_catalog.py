"""The commands that list recipes, tasks, methods, suites and the fields of a kind of task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsprune.commands.catalog import list_methods, list_recipes, list_suites
from dsprune.commands.cli import run_command
from dsprune.commands.data import describe, kind_fields, kinds_of_tasks, list_tasks
from dsprune.commands.suite.definition import shipped_suites
from dsprune.recipe import Task, load_task, shipped_recipes
from dsprune.recipe.loading import recipe_text
from dsprune.registry import METHODS, TASKS
from dsprune.tasks.build import build_task
from dsprune.testing.kinds.kind import KINDS, Kind
from tests.printing import printed


@pytest.mark.parametrize(
    ("act", "names"),
    [
        (list_recipes, shipped_recipes()),
        (list_methods, list(METHODS)),
        (list_suites, shipped_suites()),
        (list_tasks, list(TASKS)),
    ],
)
@pytest.mark.parametrize("width", [80, 120])
def test_every_name_is_listed_whole(act: Callable[..., None], names: list[str], width: int) -> None:
    text = printed(act, width=width, terminal=True)
    assert not [name for name in names if name not in text]
    assert "…" not in text
    assert max(map(len, text.splitlines()[:-1])) <= width


def test_a_recipe_has_a_line_with_task_target_and_source() -> None:
    text = printed(list_recipes, width=120, terminal=True)
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert lines["glue-90"] == ["sst2", "90", "%", "dsprune"]
    assert lines["squad-dense"] == ["squad", "dense", "neuralmagic"]
    assert lines["smc-race"] == ["race", "dense", "Liu", "et", "al."]


def test_a_recipe_is_shown_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["recipes", "show", "glue-90"]) == 0
    assert capsys.readouterr().out.encode() == recipe_text("glue-90")[1]


@pytest.mark.parametrize("words", [["recipes"], ["tasks"], ["methods"], ["suites"], ["data"]])
def test_each_listing_command_succeeds(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(words) == 0
    assert "dsprune" in capsys.readouterr().out or words == ["methods"]


@pytest.mark.parametrize("name", kinds_of_tasks())
def test_a_kind_shows_the_fields_that_it_needs(name: str) -> None:
    text = printed(describe, load_task(name), terminal=True)
    fields = [field for field, *_ in kind_fields(kinds_of_tasks()[name])]
    assert {"train", "validation", "max_length"} <= set(fields) <= set(Task.model_fields)
    assert all(f"task.{field} " in text for field in fields)
    assert f"dsprune new NAME --task {name} " in text


def read_fields(kind: Kind, folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The fields of the task section that are read while the data of a kind are prepared."""
    read: set[str] = set()
    settings = load_task(kind.task, [f"{key}={value}" for key, value in kind.write(folder).items()])
    tokenizer = kind.tokenizer(folder)
    look_up: Callable[[Any, str], Any] = object.__getattribute__

    def note(section: Task, name: str) -> Any:
        if name in Task.__pydantic_fields__:
            read.add(name)
        return look_up(section, name)

    monkeypatch.setattr(Task, "__getattribute__", note)
    task = build_task(settings).for_tokenizer(tokenizer)
    for split in ("train", "validation"):
        task.prepare(split, tokenizer)
    task.preprocessing()
    return read


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_task_reads_no_field_that_it_does_not_name(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_fields(kind, tmp_path, monkeypatch)
    task = build_task(load_task(kind.task, ["pairs=[en-de]"]))
    data = {
        "name",
        "dataset",
        "config",
        "folder",
        "train",
        "validation",
        "max_train",
        "max_validation",
        "fold",
    }
    assert read - data <= {*task.uses, *(column.field for column in task.columns())}
    assert "max_length" in read
