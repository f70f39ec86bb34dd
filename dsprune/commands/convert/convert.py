"""`dsprune convert`: turn a recipe of SparseML or llm-compressor, or a ds_config, into a recipe."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dsprune.commands.convert.deepspeed import convert_deepspeed, is_deepspeed
from dsprune.commands.convert.notes import Notes
from dsprune.commands.convert.source import read_source
from dsprune.commands.convert.sparseml import convert_sparseml, is_sparseml
from dsprune.errors import UserError
from dsprune.methods.checks import check_pruning
from dsprune.recipe.loading import check_recipe, override, override_all
from dsprune.schedule import recipe_timetable
from dsprune.utils.console import say
from dsprune.utils.documents import read_json, write_yaml
from dsprune.utils.files import replace_text
from dsprune.utils.records import read_bytes
from dsprune.utils.text import printable

__all__ = ["Converted", "convert", "convert_file"]

_STAND_INS = {
    "budget.batch": "1",
    "budget.epochs": "1",
    "pruning.sparsity": "0.9999",
    "distillation.teacher": "TEACHER",
    "model.path": "MODEL",
}
"""Values for missing fields, to check the others."""

SPARSEML = "a recipe of SparseML or llm-compressor"

_STEPS_PER_EPOCH = 1000
"""Steps per epoch to check the timetable, because those of the run are unknown."""


@dataclass(frozen=True)
class Converted:
    """A converted file.

    Attributes:
        text: the recipe, with the remarks as its header.
        notes: the remarks.
    """

    text: str
    notes: Notes


def convert(file: Path, overrides: Sequence[str], write: Path | None, console: Console) -> None:
    """Print or write the recipe with the settings of a file.

    The arguments are the options of `dsprune convert`.

    Raises:
        UserError: the file is neither a recipe of SparseML or llm-compressor nor a ds_config, it has settings that no
            recipe can express, or `write` exists.
    """
    if write is not None and write.exists():
        raise UserError(f"--write: value {write}: the file exists: choose another name, or remove it")
    converted = convert_file(file, overrides)
    if write is None:
        print(converted.text, end="")
        return
    replace_text(write, converted.text)
    for line in converted.notes.lines():
        say(console, printable(line))
    say(console, f"wrote {write}")


def convert_file(file: Path, overrides: Sequence[str] = ()) -> Converted:
    """Return the recipe with the settings of a file; arguments and errors as for `convert`."""
    way_out = "give a recipe of SparseML, or a ds_config"
    try:
        text = read_bytes(file, way_out).decode()
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not text: {way_out}") from None
    notes = Notes()
    values, kind = _values(text, str(file), notes)
    notes.missing.setdefault("budget.batch", "examples of an optimizer step, over all ranks")
    override_all(values, overrides)
    notes.missing = {field: why for field, why in notes.missing.items() if not _has(values, field)}
    _check(values, notes, str(file), in_epochs=kind == SPARSEML)
    header = [f"Converted by `dsprune convert` from {file.name}, {kind}.", *notes.lines()]
    comments = "".join(f"# {printable(line)}".rstrip() + "\n" for line in header)
    return Converted(comments + write_yaml(values), notes)


def _values(text: str, name: str, notes: Notes) -> tuple[dict[str, Any], str]:
    """Return the values of a recipe, and the kind of the file."""
    if text.lstrip("\ufeff \t\r\n").startswith("{"):
        # Refuses texts such as the placeholders of a template.
        read_json(text.encode(), name)
    root = read_source(text, name)
    if is_sparseml(root):
        return convert_sparseml(text, name, notes), SPARSEML
    if is_deepspeed(root):
        return convert_deepspeed(root, notes), "a ds_config of DeepSpeed"
    raise UserError(
        f"{name}: has no modifiers of SparseML or llm-compressor, and no section compression_training or scheduler of "
        "a ds_config: give a file with one of them"
    )


def _has(values: dict[str, Any], field: str) -> bool:
    """Return whether a field has a value; the length of a run may also be in steps."""
    section, _, key = field.partition(".")
    keys = ("epochs", "steps") if field == "budget.epochs" else (key,)
    return any(key in (values.get(section) or {}) for key in keys)


def _check(values: dict[str, Any], notes: Notes, name: str, *, in_epochs: bool) -> None:
    """Check that the recipe is valid, apart from missing fields; also its timetable, if it is in epochs.

    Raises:
        UserError: it is not valid: the source has settings that no recipe can express.
    """
    whole = deepcopy(values)
    for field in notes.missing:
        override(whole, f"{field}={_STAND_INS[field]}")
    try:
        recipe = check_recipe({"name": "converted", **whole})
        if recipe.pruning is not None:
            check_pruning(recipe.pruning)
        if in_epochs and "budget.epochs" not in notes.missing:
            recipe_timetable(recipe, _STEPS_PER_EPOCH)
    except UserError as error:
        raise UserError(f"{name}: as a recipe: {error}") from None
