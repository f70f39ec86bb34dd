"""Read a ds_config by dotted keys, and check its keys and the types of their values.

DeepSpeed ignores unknown keys, except in the sections for which it has models. Its models read the text "true" as true
and "2" as 2, while its other sections read any text as true. dsprune refuses unknown keys and values of another type.
"""

import inspect
import json
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Annotated, Any, get_args

import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from deepspeed.ops.lamb import FusedLamb
from deepspeed.runtime.config_utils import DeepSpeedConfigModel
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from dsprune.recipe.section import section_in
from dsprune.utils.text import control_character, did_you_mean, first_line, short
from dsprune.zero.schema import DsConfig, OptimizerParams

__all__ = ["OPTIMIZERS_OF_TORCH", "class_of", "num_moments", "setting", "wrong_keys"]

OPTIMIZERS_OF_TORCH = frozenset({"Adam", "AdamW", "SGD", "RMSprop", "NAdam", "RAdam"})
"""torch's element-wise optimizers, by their names in a ds_config."""

LARGEST_INTEGER = 2**63 - 1

# Settings that DeepSpeed removes from those of Adam before it makes the optimizer.
_OF_DEEPSPEED = {"torch_adam", "adam_w_mode", "fp32_optimizer_states"}


def setting(config: dict[str, Any], dotted: str) -> Any:
    """Return the value of a dotted key; None if the config does not have it."""
    value: Any = config
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def wrong_keys(config: dict[str, Any]) -> Iterator[str]:
    """Yield a message on each unknown key of a ds_config, and on each value of another type or out of range."""
    yield from _wrong(config, DsConfig, "")
    if isinstance(optimizer := config.get("optimizer"), dict) and isinstance(optimizer.get("type"), str):
        yield from _wrong_params(optimizer, config)


def _wrong(section: dict[str, Any], model: type[BaseModel], above: str) -> Iterator[str]:
    fields = _fields(model)
    for key, value in section.items():
        if value == "auto" and isinstance(value, str):
            continue  # the recipe owns it
        if (field := fields.get(key)) is None:
            yield _unknown(f"{above}{key}", key, fields)
        elif (inner := section_in(field.annotation)) is not None and isinstance(value, dict):
            yield from _wrong(value, inner, f"{above}{key}.")
        elif inner is not None:
            if value is not None or type(None) not in get_args(field.annotation):
                yield f"ds_config: {above}{key}={short(value)}: must be a section with keys of its own"
        elif (
            problem := _problem(value, field, exact=not issubclass(model, DeepSpeedConfigModel))
        ) is not None:
            yield f"ds_config: {above}{key}={short(value)}: {problem}"


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields by name and by alias."""
    by_name = dict(model.model_fields)
    return by_name | {field.alias: field for field in by_name.values() if field.alias}


def _unknown(dotted: str, key: str, known: Iterable[str]) -> str:
    near = key.lower() if key.lower() in known else None
    hint = f"did you mean {near!r}?" if near else did_you_mean(key, known).strip()
    return f"ds_config: unknown key {dotted!r}, which DeepSpeed does not have: {hint or 'leave it out'}"


def _problem(value: Any, field: FieldInfo, *, exact: bool) -> str | None:
    """Return why a value does not fit a field, or None.

    If `exact`, 2.0 is not an integer; DeepSpeed's own models read it as one.
    """
    if isinstance(value, float) and value.is_integer() and not exact:
        value = int(value)
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return "is too large a number"
    if isinstance(value, str) and (found := control_character(value)) is not None:
        return f"holds the control character {found!r}: leave it out"
    if isinstance(value, bool) and isinstance(field.annotation, type) and issubclass(field.annotation, Enum):
        return "must be a number"
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        adapter.validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        return error.errors()[0]["msg"].replace("Input should be", "must be")
    return None


def _wrong_params(optimizer: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    """Yield a message on each setting that the optimizer does not have or does not take."""
    params, name = optimizer.get("params"), optimizer["type"]
    if not isinstance(params, dict) or (kind := class_of(name, params, config)) is None:
        return
    known = set(inspect.signature(kind.__init__).parameters) - {
        "self",
        "params",
        "model_params",
        "max_grad_norm",
    }
    is_torch = kind.__module__.startswith("torch.")
    if not is_torch:  # they have the parameter and refuse it
        known.discard("amsgrad")
    if name.lower() in ("adam", "adamw"):
        known = known - {"adamw_mode"} | _OF_DEEPSPEED
    problems = [_no_setting(key, kind, known) for key in params if key not in known]
    given = {key: value for key, value in params.items() if key in known and value != "auto"}
    typed = {key: value for key, value in given.items() if key in OptimizerParams.model_fields}
    problems += _wrong(typed, OptimizerParams, "optimizer.params.")
    if is_torch and not problems:
        problems += _refusals(kind, {key: value for key, value in given.items() if key not in _OF_DEEPSPEED})
    yield from problems


def num_moments(config: dict[str, Any]) -> int:
    """Return the number of moments that the optimizer of a resolved config keeps for each weight: two for Adam."""
    params = config["optimizer"].get("params") or {}
    kind = class_of(config["optimizer"]["type"], params, config)
    if kind is None or not kind.__module__.startswith("torch."):
        return 2
    weight = torch.zeros(2, requires_grad=True)
    weight.grad = torch.zeros(2)
    made = kind([weight], **{key: value for key, value in params.items() if key not in _OF_DEEPSPEED})
    made.step()
    state = made.state[weight].values()
    return sum(isinstance(value, torch.Tensor) and value.shape == weight.shape for value in state)


def _no_setting(key: str, kind: type, known: Iterable[str]) -> str:
    hint = did_you_mean(key, known).strip() or f"use some of {', '.join(sorted(known))}"
    return f"ds_config: optimizer.params.{key}: {kind.__name__} has no such setting: {hint}"


def _refusals(kind: Any, params: dict[str, Any]) -> Iterator[str]:
    """Yield the errors of a torch optimizer about its settings; it checks some of them together."""
    try:
        kind([torch.zeros(1, requires_grad=True)], **params)
    except (ValueError, TypeError, RuntimeError) as error:
        yield f"ds_config: optimizer.params={short(params)}: {kind.__name__} refuses it: {first_line(error)}"


def class_of(name: str, params: dict[str, Any], config: dict[str, Any]) -> Any:
    """Return the class of the optimizer that DeepSpeed will make; None for an unsupported name."""
    on_cpu = setting(config, "zero_optimization.offload_optimizer.device") in ("cpu", "nvme")
    match name.lower():
        case "adam" | "adamw" if params.get("torch_adam") is True:
            is_adam = name.lower() == "adam" and params.get("adam_w_mode") is False
            return torch.optim.Adam if is_adam else torch.optim.AdamW
        case "adam" | "adamw":
            return DeepSpeedCPUAdam if on_cpu else FusedAdam
        case "lamb":
            return FusedLamb
    return getattr(torch.optim, name) if name in OPTIMIZERS_OF_TORCH else None
