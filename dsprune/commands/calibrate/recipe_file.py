"""Set a number in a recipe file, and leave the rest of the file unchanged."""

from pathlib import Path

import yaml

from dsprune.errors import UserError
from dsprune.utils.documents import read_yaml
from dsprune.utils.files import replace_text

__all__ = ["check_recipe_file", "write_number"]


def check_recipe_file(path: Path, section: str, key: str) -> None:
    """Check that `write_number` can change the file, before the number is computed.

    Raises:
        UserError: the file is missing or invalid, or the section has no number to set.
    """
    _with_number(path, section, key, 1.0)


def write_number(path: Path, section: str, key: str, number: float) -> None:
    """Set a number in a section, such as `distillation.temperature`; comments, order and layout are kept.

    Raises:
        UserError: see `check_recipe_file`.
    """
    replace_text(path.resolve(), _with_number(path, section, key, number))


def _with_number(path: Path, name: str, key: str, number: float) -> str:
    if not path.is_file():
        raise UserError(f"--write: value {path}: no such file: give a recipe file of your own")
    values = read_yaml(path.read_bytes(), f"--write: value {path}")
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise UserError(f"--write: value {path}: is not UTF-8: save it as UTF-8") from None
    section = _child(yaml.compose(text, yaml.SafeLoader), name)
    if not isinstance(section, yaml.MappingNode) or not section.value:
        raise UserError(f"--write: value {path}: has no section {name}: add it")
    edited = _edit(text, section, key, _as_yaml(number))
    if not _holds(edited, {**values, name: {**values[name], key: float(_as_yaml(number))}}):
        raise UserError(
            f"--write: value {path}: {name}.{key} is not a plain number there, or is shared with another section: "
            f"set it by hand"
        )
    return edited


def _as_yaml(number: float) -> str:
    """Return a number in a form that YAML 1.1 reads as a number: it reads 5e-05 as text."""
    digits, e, exponent = f"{number:g}".partition("e")
    return digits + (".0" if e and "." not in digits else "") + e + exponent


def _edit(text: str, section: yaml.MappingNode, name: str, number: str) -> str:
    """Return the text with the number as the value, or in a new line below the first key."""
    value = _child(section, name)
    if isinstance(value, yaml.ScalarNode):
        return text[: value.start_mark.index] + number + text[value.end_mark.index :]
    if value is not None:  # a ramp was chosen on purpose
        return text
    key, first = section.value[0]
    end = first.end_mark.index
    if section.flow_style:
        return f"{text[:end]}, {name}: {number}{text[end:]}"
    rest_of_line, newline, below = text[end:].partition("\n")
    return f"{text[:end]}{rest_of_line}\n{' ' * key.start_mark.column}{name}: {number}{newline}{below}"


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)


def _holds(text: str, values: object) -> bool:
    # The edit goes wrong with some YAML: aliases, empty values, values over several lines.
    try:
        return bool(read_yaml(text, "the edited recipe") == values)
    except UserError:
        return False
