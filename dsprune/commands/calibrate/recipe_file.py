"""Set the temperature in a recipe file, and leave the rest of the file unchanged."""

from pathlib import Path

import yaml

from dsprune.errors import UserError
from dsprune.utils.documents import read_yaml
from dsprune.utils.files import replace_text

__all__ = ["check_recipe_file", "write_temperature"]

SECTION, KEY = "distillation", "temperature"


def check_recipe_file(path: Path) -> None:
    """Check that `write_temperature` can change the file, before the temperature is computed.

    Raises:
        UserError: the file is missing or invalid, or has no distillation section whose temperature can be set.
    """
    _with_temperature(path, 1.0)


def write_temperature(path: Path, temperature: float) -> None:
    """Set `distillation.temperature`; comments, order and layout of the file are kept.

    Raises:
        UserError: see `check_recipe_file`.
    """
    replace_text(path.resolve(), _with_temperature(path, temperature))


def _with_temperature(path: Path, temperature: float) -> str:
    if not path.is_file():
        raise UserError(f"--write: value {path}: no such file: give a recipe file of your own")
    values = read_yaml(path.read_bytes(), f"--write: value {path}")
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise UserError(f"--write: value {path}: is not UTF-8: save it as UTF-8") from None
    section = _child(yaml.compose(text, yaml.SafeLoader), SECTION)
    if not isinstance(section, yaml.MappingNode) or not section.value:
        raise UserError(f"--write: value {path}: has no section {SECTION}: add it, with a teacher")
    edited = _edit(text, section, f"{temperature:g}")
    if not _holds(edited, {**values, SECTION: {**values[SECTION], KEY: temperature}}):
        raise UserError(
            f"--write: value {path}: {SECTION}.{KEY} is no plain number there, or shared with another "
            f"section: set it by hand"
        )
    return edited


def _edit(text: str, section: yaml.MappingNode, number: str) -> str:
    """Return the text with the number in place of the value, or in a new line below the first key's."""
    value = _child(section, KEY)
    if isinstance(value, yaml.ScalarNode):
        return text[: value.start_mark.index] + number + text[value.end_mark.index :]
    if value is not None:  # a ramp was chosen on purpose
        return text
    key, first = section.value[0]
    end = first.end_mark.index
    if section.flow_style:
        return f"{text[:end]}, {KEY}: {number}{text[end:]}"
    rest_of_line, newline, below = text[end:].partition("\n")
    return f"{text[:end]}{rest_of_line}\n{' ' * key.start_mark.column}{KEY}: {number}{newline}{below}"


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)


def _holds(text: str, values: object) -> bool:
    # The edit goes wrong with some YAML: aliases, empty values, values over several lines.
    try:
        return bool(read_yaml(text, "the edited recipe") == values)
    except UserError:
        return False
