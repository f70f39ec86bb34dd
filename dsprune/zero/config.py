"""The DeepSpeed config of a run: every "auto" is filled from the recipe, and all disagreements are reported at once.

Each value has one owner. "auto" in the ds_config means that the recipe owns the value. A value in the ds_config must
agree with one that the recipe sets explicitly, and overrides a default of the recipe.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dsprune.errors import UserError
from dsprune.methods.checks import check_pruning
from dsprune.recipe import Recipe
from dsprune.utils.documents import read_document, read_json
from dsprune.utils.installation import shipped_folder, shipped_names
from dsprune.utils.text import short
from dsprune.zero.limits import (
    check_by_deepspeed,
    check_ds_config,
    check_optimizer_state,
    check_tested,
    wrong_settings,
)

__all__ = ["load_ds_config", "resolve_ds_config"]

_MICRO_BATCH, _ACCUMULATION = "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"

# The recipe's settings that optimizers outside the Adam family accept.
_SETTINGS = {"sgd": ("weight_decay",), "rmsprop": ("weight_decay", "eps")}

_OWNERS = {"optimizer.params.lr": "learning_rate.dense or learning_rate.peak"}
"""The recipe's fields for keys that it may leave to the ds_config."""


def load_ds_config(name_or_path: str) -> dict[str, Any]:
    """Read a ds_config: a JSON file, or the name of one in `ds_configs/` ("zero2").

    Raises:
        UserError: the file does not exist, or is not a JSON object.
    """
    candidates = (
        Path(name_or_path),
        Path("ds_configs", f"{name_or_path}.json"),
        shipped_folder("ds_configs") / f"{name_or_path}.json",
    )
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        names = ", ".join(shipped_names("ds_configs"))
        raise UserError(
            f"deepspeed: no file {name_or_path!r}: give the path of a JSON file, or one of {names}"
        )
    return read_json(read_document(path), str(path))


def resolve_ds_config(config: dict[str, Any], recipe: Recipe, world_size: int) -> dict[str, Any]:
    """Return a config for `deepspeed.initialize`, with each "auto" filled from the recipe.

    The recipe owns batch size, precision, gradient clipping and the optimizer's settings.

    Raises:
        UserError: every disagreement, misspelt key and unsupported setting, joined into one line.
    """
    config = copy.deepcopy(config)
    if "bf16" not in config and "bfloat16" in config:
        config["bf16"] = config.pop("bfloat16")  # its old name, which DeepSpeed also reads
    config.setdefault("optimizer", _default_optimizer(config, recipe))
    problems = list(replaced_by_recipe(config))
    for claim in _claims(config, recipe):
        problems += _settle(config, claim)
    problems += _settle_batch(config, recipe, world_size)
    kind = _optimizer_type(config, recipe)
    if recipe.optimizer.decoupled is False and kind.lower() != "adam":
        problems.append(
            f"optimizer.decoupled: value False: the type {kind} cannot: set optimizer.type to Adam"
        )
    if "scheduler" in config:
        problems.append(
            "ds_config: scheduler: the recipe's learning_rate owns the schedule: remove the section; "
            "`dsprune convert` turns it into a recipe"
        )
    problems += [
        f"ds_config: {key}='auto': the recipe sets no value for it: set {_OWNERS.get(key, 'one')}"
        for key in _autos(config)
    ]
    problems += wrong_settings(config)
    if problems:
        raise UserError("; ".join(dict.fromkeys(problems)))
    check_ds_config(config)
    check_by_deepspeed(config)
    if recipe.pruning is not None:
        check_pruning(recipe.pruning)
        check_optimizer_state(config["optimizer"]["type"], recipe.pruning.method)
    check_tested(config)
    return config


@dataclass(frozen=True)
class _Claim:
    """A value of the recipe that DeepSpeed reads from its own config.

    Attributes:
        key: dotted key of the ds_config.
        value: the value for that key; None does not change the key.
        origin: the recipe's field and value, as messages show them.
        explicit: whether the recipe sets it explicitly; False for a default.
        is_met: whether a value of the config agrees; None compares it with `value`.
    """

    key: str
    value: Any
    origin: str
    explicit: bool
    is_met: Callable[[Any], bool] | None = None


def _claim(key: str, owner: BaseModel, name: str, section: str = "", value: Any = None) -> _Claim:
    setting = getattr(owner, name)
    setting = list(setting) if isinstance(setting, tuple) else setting
    value = setting if value is None else value
    return _Claim(key, value, f"{section}{name}={setting!r}", name in owner.model_fields_set)


def _claims(config: dict[str, Any], recipe: Recipe) -> Iterator[_Claim]:
    optimizer = recipe.optimizer
    yield _claim("gradient_clipping", recipe, "gradient_clipping")
    for precision in ("bf16", "fp16"):
        yield _claim(f"{precision}.enabled", recipe, "precision", value=recipe.precision == precision)
    yield _claim("optimizer.type", optimizer, "type", "optimizer.")
    peak = _claim("optimizer.params.lr", recipe.learning_rate, "peak", "learning_rate.")
    yield replace(peak, origin=recipe.learning_rate.shown_peak, is_met=recipe.learning_rate.is_peak)
    taken = _SETTINGS.get(_optimizer_type(config, recipe).lower(), ("weight_decay", "betas", "eps"))
    for name in ("weight_decay", "betas", "eps"):
        if name in taken or name in optimizer.model_fields_set:
            yield _claim(f"optimizer.params.{name}", optimizer, name, "optimizer.")
    if _optimizer_type(config, recipe).lower() == "adam":
        yield _claim("optimizer.params.adam_w_mode", optimizer, "decoupled", "optimizer.")


def _default_optimizer(config: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the optimizer section of a config that has none: torch's fused Adam, which needs no compiler.

    With optimizer offload the section stays empty, since DeepSpeed then accepts only its own optimizers.
    """
    zero = config.get("zero_optimization")
    offloaded = isinstance(zero, dict) and "offload_optimizer" in zero
    if offloaded or recipe.optimizer.type not in ("Adam", "AdamW"):
        return {}
    return {"params": {"torch_adam": True, "fused": True}}


def _optimizer_type(config: dict[str, Any], recipe: Recipe) -> str:
    section = config.get("optimizer")
    name = section.get("type", "auto") if isinstance(section, dict) else "auto"
    return recipe.optimizer.type if name == "auto" else str(name)


def _settle(config: dict[str, Any], claim: _Claim) -> Iterator[str]:
    """Write the claimed value if the config has "auto" or no value; yield a message if the two disagree."""
    *sections, name = claim.key.split(".")
    section = config
    for key in sections:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            yield f"ds_config: {key}={short(section)}: must be a section with keys of its own"
            return
    current = section.get(name, "auto")
    if current == "auto":
        if claim.value is not None:
            section[name] = claim.value
        return
    is_met = current == claim.value if claim.is_met is None else claim.is_met(current)
    if claim.explicit and claim.value is not None and not is_met:
        yield (
            f"{claim.origin} but ds_config: {claim.key}={short(current)}: set one of them, or "
            f'"auto" in the ds_config, which transformers fills from TrainingArguments'
        )


def _settle_batch(config: dict[str, Any], recipe: Recipe, world_size: int) -> Iterator[str]:
    """Derive the missing sizes from batch = ranks x micro-batch x accumulation."""
    yield from _settle(config, _claim("train_batch_size", recipe.budget, "batch", "budget."))
    yield from _settle(config, _claim(_MICRO_BATCH, recipe.budget, "micro_batch", "budget."))
    batch, micro, accumulation = recipe.budget.batch, config.get(_MICRO_BATCH), config.get(_ACCUMULATION)
    invalid = [key for key in (_MICRO_BATCH, _ACCUMULATION) if not _is_size(config.get(key, "auto"))]
    if invalid:
        yield from (
            f"ds_config: {key}={short(config[key])}: must be a whole number above 0" for key in invalid
        )
        return
    if not isinstance(micro, int):
        micro = max(1, batch // (world_size * (accumulation if isinstance(accumulation, int) else 1)))
    if not isinstance(accumulation, int):
        accumulation = max(1, batch // (world_size * micro))
    if world_size * micro * accumulation != batch:
        yield (
            f"budget.batch={batch}: is not {world_size} ranks x micro-batch {micro} x accumulation "
            f"{accumulation}: change budget.batch or budget.micro_batch"
        )
    config |= {_MICRO_BATCH: micro, _ACCUMULATION: accumulation}


def _is_size(value: Any) -> bool:
    return value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


def _autos(section: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys whose value is "auto"."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _autos(value, f"{prefix}{key}.")
        elif value == "auto":
            yield prefix + key


def replaced_by_recipe(config: dict[str, Any]) -> Iterator[str]:
    """Yield a message on a section `compression_training`, which DeepSpeed has removed."""
    section = config.get("compression_training")
    if section is None:
        return
    ratios = sorted(set(_dense_ratios(section)))
    sparsities = [f"pruning={{sparsity: {1 - ratio:g}}} for dense_ratio={ratio:g}" for ratio in ratios]
    recipe = ", ".join(sparsities) or "pruning={sparsity: 0.9}"
    yield (
        f"ds_config: compression_training: DeepSpeed has removed it, and the recipe replaces it: set {recipe} in the "
        f"recipe (its fields only and exclude select modules), and remove the section; `dsprune convert DS_CONFIG` "
        f"prints the whole recipe"
    )


def _dense_ratios(section: Any) -> Iterator[float]:
    """Yield every `dense_ratio` below a section."""
    if isinstance(section, dict):
        for key, value in section.items():
            if key == "dense_ratio" and isinstance(value, int | float):
                yield float(value)
            else:
                yield from _dense_ratios(value)
