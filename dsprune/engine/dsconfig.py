"""The DeepSpeed config of a run: "auto" filled from the recipe, and every disagreement said at once.

A value has one owner. "auto" in the ds_config means that the recipe owns it; a value there must agree with
what the recipe sets by hand, and a mere default of the recipe gives way to it.
"""

import copy
import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepspeed.runtime import constants
from pydantic import BaseModel

from dsprune.engine.support import check_ds_config
from dsprune.errors import UserError
from dsprune.pure.recipe import Recipe

__all__ = ["load_ds_config", "resolve_ds_config"]

SHIPPED = Path(__file__).resolve().parents[2] / "ds_configs"

# DeepSpeed ignores an unknown key in silence. These are the sections it reads besides its constants.
_KNOWN_KEYS = frozenset(value for value in vars(constants).values() if isinstance(value, str)) | {
    *("zero_optimization", "compile", "tensor_parallel", "comms_logger", "flops_profiler", "autotuning"),
    *("tensorboard", "wandb", "csv_monitor", "comet", "aio", "hybrid_engine", "activation_checkpointing"),
    *("torch_autocast", "elasticity", "pipeline", "checkpoint", "data_types", "bf16", "fp16", "zenflow"),
}


def load_ds_config(name_or_path: str) -> dict[str, Any]:
    """Read a ds_config: a JSON file, or the name of one in `ds_configs/` ("zero2").

    Raises:
        UserError: there is no such file, or it is not a JSON object.
    """
    candidates = (
        Path(name_or_path),
        Path("ds_configs", f"{name_or_path}.json"),
        SHIPPED / f"{name_or_path}.json",
    )
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.json")))
        raise UserError(
            f"deepspeed: no file {name_or_path!r}: give the path of a JSON file, or one of {names}"
        )
    try:
        config = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno} is not JSON ({error.msg}): mend the file") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: holds a {type(config).__name__}: a DeepSpeed config is a JSON object")
    return config


def resolve_ds_config(config: dict[str, Any], recipe: Recipe, world_size: int) -> dict[str, Any]:
    """Fill every "auto" of `config` from the recipe, and check the rest against it.

    Args:
        config: as read from JSON; it is not changed.
        recipe: owns batch size, precision, clipping and the optimizer's settings.
        world_size: number of data-parallel ranks.

    Returns:
        A config without "auto", ready for `deepspeed.initialize`.

    Raises:
        UserError: every disagreement, misspelt key and unsupported setting, joined into one line.
    """
    config = copy.deepcopy(config)
    problems = list(_misspelt_keys(config))
    for claim in _claims(recipe):
        problems += _settle(config, claim)
    problems += _settle_batch(config, recipe, world_size)
    if "scheduler" in config:
        problems.append(
            "ds_config: scheduler: the recipe's learning_rate owns the schedule: remove the section"
        )
    problems += [
        f"ds_config: {key}='auto': the recipe sets no value for it: set one" for key in _autos(config)
    ]
    if problems:
        raise UserError("; ".join(problems))
    check_ds_config(config)
    return config


@dataclass(frozen=True)
class _Claim:
    """A value of the recipe that DeepSpeed reads from its own config.

    Attributes:
        key: dotted key of the ds_config.
        value: what the recipe says; None says nothing.
        field: dotted name in the recipe.
        explicit: set by hand, not by default.
    """

    key: str
    value: Any
    field: str
    explicit: bool


def _claims(recipe: Recipe) -> Iterator[_Claim]:
    def claim(key: str, owner: BaseModel, name: str, section: str = "", value: Any = None) -> _Claim:
        value = getattr(owner, name) if value is None else value
        value = list(value) if isinstance(value, tuple) else value
        return _Claim(key, value, f"{section}{name}", name in owner.model_fields_set)

    yield claim("gradient_clipping", recipe, "gradient_clipping")
    yield claim("optimizer.type", recipe.optimizer, "type", "optimizer.")
    for name in ("weight_decay", "betas", "eps"):
        yield claim(f"optimizer.params.{name}", recipe.optimizer, name, "optimizer.")
    yield claim("optimizer.params.lr", recipe.learning_rate, "peak", "learning_rate.")
    for precision in ("bf16", "fp16"):
        yield claim(f"{precision}.enabled", recipe, "precision", value=recipe.precision == precision)


def _settle(config: dict[str, Any], claim: _Claim) -> Iterator[str]:
    """Write a claim where the config leaves it open; yield the disagreement where it does not."""
    *sections, name = claim.key.split(".")
    section = config
    for key in sections:
        section = section.setdefault(key, {})
    current = section.get(name, "auto")
    if current == "auto":
        if claim.value is not None:
            section[name] = claim.value
    elif claim.explicit and claim.value is not None and current != claim.value:
        yield (
            f"{claim.field}={claim.value!r} but ds_config: {claim.key}={current!r}: "
            f'set one of them, or "auto" in the ds_config'
        )


def _settle_batch(config: dict[str, Any], recipe: Recipe, world_size: int) -> Iterator[str]:
    """Batch = micro-batch x accumulation x ranks; the recipe gives the first two, this fills in the third."""
    budget = recipe.budget
    yield from _settle(
        config, _Claim("train_batch_size", budget.batch, "budget.batch", budget.batch is not None)
    )
    batch = config.get("train_batch_size")
    if not isinstance(batch, int):
        return
    key = "train_micro_batch_size_per_gpu"
    accumulation = config.get("gradient_accumulation_steps", "auto")
    micro = budget.micro_batch or config.get(key, "auto")
    if micro == "auto":
        micro = batch // (world_size * (1 if accumulation == "auto" else accumulation))
    if micro == 0 or batch % (micro * world_size):
        yield (
            f"budget.batch={batch}: not a multiple of {world_size} ranks x micro-batch {micro}: "
            f"change budget.batch or budget.micro_batch"
        )
        return
    yield from _settle(config, _Claim(key, micro, "budget.micro_batch", True))
    steps = batch // (micro * world_size)
    yield from _settle(config, _Claim("gradient_accumulation_steps", steps, "gradient accumulation", True))


def _misspelt_keys(config: dict[str, Any]) -> Iterator[str]:
    for key in config:
        near = difflib.get_close_matches(key, _KNOWN_KEYS, n=1, cutoff=0.8)
        if key not in _KNOWN_KEYS and near:
            yield f"ds_config: unknown key {key!r}, which DeepSpeed would ignore: did you mean {near[0]!r}?"


def _autos(section: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _autos(value, f"{prefix}{key}.")
        elif value == "auto":
            yield prefix + key
