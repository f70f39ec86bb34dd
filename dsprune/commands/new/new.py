"""`dsprune new`: write a commented recipe for your own data, and hold out rows for validation if none are given."""

import math
import random
import shlex
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from rich.console import Console

from dsprune.commands.data import kinds_of_tasks
from dsprune.commands.new.guess import guess
from dsprune.errors import UserError
from dsprune.model.pretrained import load_config
from dsprune.recipe import Recipe
from dsprune.recipe import Task as TaskSettings
from dsprune.recipe.comments import commented
from dsprune.recipe.loading import check_recipe, override_all, read_recipe
from dsprune.recipe.rate import dense_rate
from dsprune.tasks.build import build_task
from dsprune.tasks.data_files import READERS, read_table, suffix_of
from dsprune.tasks.labels import name_of
from dsprune.tasks.language_modeling import read_documents
from dsprune.tasks.question_answering import read_squad
from dsprune.tasks.task import Task
from dsprune.utils.console import say
from dsprune.utils.files import replace_folder, replace_text

__all__ = ["NewRecipe", "hold_out", "new"]

HEADER = """# Written by `dsprune new` from the recipe {1}. A comment is the start of a field's documentation.
#
#   dsprune plan {0}
#   dsprune train {0}
"""

ALL_READERS = {**READERS, ".txt": read_documents, ".json": read_squad}
DATA_FIELDS = ("dataset", "config", "folder", "train", "validation", "max_train", "max_validation")

SHARE = 10
"""One of this number of rows is held out."""

SEED = 42


@dataclass(frozen=True)
class NewRecipe:
    """The input of a new recipe.

    Attributes:
        source: name or path of the initial recipe.
        overrides: `key.sub=value` each.
        data: the user's file; None = the data of `source`.
        validation: the file to validate on; None = a tenth of the rows of `data`.
        model: folder or hub name of the model; None = that of `source`.
        task: kind of task; None = guessed from the columns of `data`.
    """

    source: str
    overrides: tuple[str, ...] = ()
    data: Path | None = None
    validation: Path | None = None
    model: str | None = None
    task: str | None = None


def new(name: str, wanted: NewRecipe, console: Console) -> Path:
    """Write a recipe, and print its sources and the next commands.

    Args:
        name: name of the recipe; the file is NAME.yaml.
        wanted: its input.
        console: where to print.

    Raises:
        UserError: the file exists, the recipe is invalid, or the data cannot be read.
    """
    path = Path(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    if path.exists():
        raise UserError(f"{path}: exists already and is not overwritten: give another name")
    if wanted.data is None and (wanted.validation is not None or wanted.task is not None):
        raise UserError(
            "--data: value missing: --validation and --task describe a file of your own: add --data FILE"
        )
    values = {**read_recipe(wanted.source)[1], "name": path.stem}
    parts: dict[Path, pa.Table] = {}
    remarks = list(_replace(values, wanted, path, parts))
    override_all(values, wanted.overrides)
    recipe = check_recipe(values)
    del values["name"]
    shown = shlex.quote(str(path))
    text = HEADER.format(shown, wanted.source) + commented(values, Recipe, _useless(recipe))
    _write(path, text, parts)  # after the last check, so that a refused recipe leaves no files
    say(console, f"written: {path}, from the recipe {wanted.source}")
    for remark in remarks:
        say(console, remark)
    say(console, f"next: dsprune plan {shown}")
    return path


def _write(path: Path, text: str, parts: Mapping[Path, pa.Table]) -> None:
    """Write a recipe and the folder of its parts of the data: both or, if the disk is full, none."""

    def write(folder: Path) -> None:
        folder.mkdir()
        for file, part in parts.items():
            write_table(part, folder / file.name)
        replace_text(path, text)

    folders = {file.parent for file in parts}
    if not folders:
        replace_text(path, text)
    for folder in folders:
        replace_folder(folder, write)


def _replace(
    values: dict[str, Any], wanted: NewRecipe, path: Path, parts: dict[Path, pa.Table]
) -> Iterator[str]:
    """Put the user's model and data into the values of a recipe; yield lines for the user.

    The parts of data that are divided are added to `parts`, by the file to write.
    """
    left_out: list[str] = []
    if wanted.model is not None:
        left_out += [f"model.{key}" for key in values.get("model") or {} if key != "path"]
        values["model"] = {"path": wanted.model}
        yield from _own_rate(values, wanted, wanted.model, path)
    if (wanted.model is not None or wanted.data is not None) and values.pop("distillation", None):
        left_out.append("distillation")
    if left_out:
        yield f"left out, since they belong to the model of {wanted.source}: {', '.join(left_out)}"
    if wanted.data is not None:
        yield from _own_data(values, wanted, wanted.data, path, parts)


def _own_rate(values: dict[str, Any], wanted: NewRecipe, model: str, path: Path) -> Iterator[str]:
    """Set the dense learning rate by the width of the user's model, unless the recipe or the user sets the peak."""
    rate = values.get("learning_rate") or {}
    given = {text.partition("=")[0].strip() for text in wanted.overrides}
    if given & {"learning_rate", "learning_rate.peak"}:
        rate.pop("dense", None)
    elif rate.get("dense") is not None and rate.get("peak") is None and "learning_rate.dense" not in given:
        width = _number(model, "hidden_size")
        rate["dense"] = rate["dense"] if width is None else dense_rate(width)
        basis = (
            f"from {wanted.source}, for a model of its size" if width is None else f"for a width of {width:,}"
        )
        yield (
            f"learning_rate.dense={rate['dense']:g}: {basis} (or measure it: "
            f"dsprune calibrate --rate --recipe {path})"
        )


def _own_data(
    values: dict[str, Any], wanted: NewRecipe, data: Path, path: Path, parts: dict[Path, pa.Table]
) -> Iterator[str]:
    """Make the task section for a file, which is read as in training; `parts` as for `_replace`."""
    kinds = kinds_of_tasks()
    if wanted.task is not None and wanted.task not in kinds:
        raise UserError(
            f"--task: value {wanted.task}: is not a kind of task: choose one of {', '.join(kinds)}"
        )
    table = read_table(data, f"--data: {data}", readers=ALL_READERS)
    columns = {name: task.columns() for name, task in kinds.items()}
    found = guess(table, f"--data: {data}", columns, wanted.task, lambda: _is_causal(values))
    length = (values.get("task") or {}).get("max_length", TaskSettings.model_fields["max_length"].default)
    section = {
        "name": found.task,
        "train": str(data),
        "validation": str(data),
        "max_length": length,
        **found.settings,
    }
    positions = _number((values.get("model") or {}).get("path", ""), "max_position_embeddings")
    section["max_length"] = min(section["max_length"], positions or math.inf)
    task = build_task(check_recipe({**values, "task": section}).task or TaskSettings(name=found.task))
    examples = task.load("train")
    chosen = "".join(f", task.{field}={value}" for field, value in found.settings.items())
    yield f"{data}: {len(examples):,} rows; task.name={found.task}{chosen}"
    if targets := task.targets(examples):
        yield targets
    values["task"] = section
    num_examples = len(examples)
    if wanted.validation is not None:
        section["validation"] = str(wanted.validation)
    else:
        texts = [found.settings[name] for name in ("text", "text_pair") if name in found.settings]
        kept, held = hold_out(table, found.label if found.task == "text-classification" else None, texts)
        num_examples = kept.num_rows
        folder = path.with_name(f"{path.stem}-data")
        if folder.exists():
            raise UserError(f"{folder}: exists already and is not overwritten: name a file with --validation")
        suffix = ".txt" if suffix_of(data) == ".txt" else ".parquet"
        for split, part in (("train", kept), ("validation", held)):
            section[split] = str(folder / f"{split}{suffix}")
            parts[folder / f"{split}{suffix}"] = part
        yield (
            f"{held.num_rows:,} of them are held out for validation: {folder} (or name a file with --validation)"
        )
    yield from _lower_batch(values, task, num_examples)


def _lower_batch(values: dict[str, Any], task: Task, num_examples: int) -> Iterator[str]:
    """Limit the batch of a recipe to the size of the training data."""
    budget = values["budget"]
    if not task.cuts_rows and budget["batch"] > num_examples:
        values["budget"] = {key: value for key, value in budget.items() if key != "micro_batch"} | {
            "batch": num_examples
        }
        yield f"budget.batch: lowered from {budget['batch']} to the {num_examples} training examples"


def _is_causal(values: dict[str, Any]) -> bool:
    """Whether the model of a recipe predicts the next token."""
    path = (values.get("model") or {}).get("path")
    names = load_config(path).architectures if path else None
    return any("CausalLM" in name or "LMHead" in name for name in names or ())


def _number(model: str, name: str) -> int | None:
    """Return a number of a model's configuration; None if its folder does not have it."""
    if not Path(model, "config.json").is_file():
        return None
    number = getattr(load_config(model), name, None)
    return number if isinstance(number, int) and number > 0 else None


def _useless(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Return the fields of the task section that the recipe's task does not read."""
    if recipe.task is None:
        return {}
    task: Task = build_task(recipe.task)
    named = (column.field for column in task.columns())
    used = {"name", *DATA_FIELDS, *task.uses, *named}
    return {"task": tuple(field for field in TaskSettings.model_fields if field not in used)}


def hold_out(table: pa.Table, label: str | None, texts: Sequence[str] = ()) -> tuple[pa.Table, pa.Table]:
    """Return the rows to train on and those to validate on: a tenth, drawn at random.

    Rows of equal inputs stay together, so that no example is in both parts. Every label with two different rows is in
    both parts.

    Args:
        table: all rows.
        label: column of the labels, each of which is drawn separately; None = no labels.
        texts: columns of the inputs, compared without case and white space; empty = all columns.
    """
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, row in enumerate(table.select(list(texts) or table.column_names).to_pylist()):
        places[tuple(" ".join(str(value).casefold().split()) for value in row.values())].append(place)
    labels = ["" if label is None else name_of(value) for value in table[label or 0].to_pylist()]
    groups: dict[str, list[list[int]]] = defaultdict(list)
    for equal in places.values():
        groups["" if label is None else labels[equal[0]]].append(equal)
    draw, held = random.Random(SEED), set[int]()
    for several in groups.values():
        chosen = draw.sample(several, max(min(1, len(several) - 1), len(several) // SHARE))
        held.update(place for equal in chosen for place in equal)
    kept = [place for place in range(table.num_rows) if place not in held]
    return table.take(pa.array(kept, pa.int64())), table.take(pa.array(sorted(held), pa.int64()))


def write_table(table: pa.Table, path: Path) -> None:
    """Write rows as parquet, or as lines of a text file."""
    if path.suffix == ".txt":
        path.write_text("".join(f"{text}\n" for text in table["text"].to_pylist()), encoding="utf-8")
    else:
        parquet.write_table(table, path)
