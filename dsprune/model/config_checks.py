"""Check the JSON files and the configuration of a model, where transformers accepts wrong values."""

from typing import Any

from transformers import PretrainedConfig

from dsprune.errors import UserError
from dsprune.model.fingerprints import local_folder
from dsprune.utils.documents import read_json
from dsprune.utils.text import short

__all__ = ["check_config", "check_json", "field_with"]

LARGEST_COUNT = 10_000


def check_json(path: str, *names: str) -> None:
    """Check that each file holds an object without duplicate keys, of which transformers would use the last."""
    for file in (local_folder(path) / name for name in names):
        if file.is_file():
            read_json(file.read_bytes(), str(file), finite=False)


def field_with(path: str, value: Any) -> str | None:
    """Return the field of a model's config.json that has a value; None if there is none."""
    file = local_folder(path) / "config.json"
    fields = read_json(file.read_bytes(), str(file), finite=False) if file.is_file() else {}
    return next((name for name, other in fields.items() if other == value), None)


def check_config(path: str, config: PretrainedConfig) -> None:
    """Check a configuration.

    Raises:
        UserError: a class name, or a number of layers or heads, is not valid; or the configuration names code that
            transformers would download and run, or weight files that dsprune does not read.
    """
    _check_names(path, config)
    _check_counts(path, config)
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    for kernel in (getattr(part, "_attn_implementation", None) for part in parts):
        if isinstance(kernel, str) and "/" in kernel:
            raise UserError(
                f"model {path!r}: config.json: attn_implementation: {kernel} is code of a hub repository, which is not "
                f"run: leave it out"
            )


def _check_names(path: str, config: PretrainedConfig) -> None:
    """Check the names of classes and files in a configuration; transformers does not."""
    names = config.architectures or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"model {path!r}: config.json: architectures: {short(names)} is not a list of names: correct it"
        )
    if other := [name for name in (config.id2label or {}).values() if not isinstance(name, str)]:
        raise UserError(f"model {path!r}: config.json: id2label: {short(other[0])} is not a name: correct it")
    if (file := getattr(config, "transformers_weights", None)) is not None:
        raise UserError(
            f"model {path!r}: config.json: transformers_weights: {short(file)}: dsprune reads the weights under their "
            f"usual names: load the model with transformers and save it to another folder"
        )


def _check_counts(path: str, config: PretrainedConfig) -> None:
    """Check the numbers of layers and heads, because transformers accepts any."""
    for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        number = getattr(config, name, None)
        if isinstance(number, int) and not 0 < number <= LARGEST_COUNT:
            raise UserError(
                f"model {path!r}: config.json: {name}: {short(number)} is not between 1 and {LARGEST_COUNT:,}: "
                f"correct it"
            )
